# SPDX-License-Identifier: Apache-2.0
"""Registries for agents: real ones, and one that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.hostile_registry import HostileRegistry
from harness.registry import RegistryUnderTest


@pytest.fixture(scope="module")
def plain() -> Iterator[RegistryUnderTest]:
    """Return a real registry without TLS and users, shared by a module."""
    with RegistryUnderTest() as registry:
        yield registry


@pytest.fixture(scope="module")
def guarded() -> Iterator[RegistryUnderTest]:
    """Return a real registry that wants a user's name and password."""
    with RegistryUnderTest(auth=True) as registry:
        yield registry


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    """Return a registry that misbehaves when told to."""
    with HostileRegistry() as registry:
        yield registry
