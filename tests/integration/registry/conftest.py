# SPDX-License-Identifier: Apache-2.0
"""Registries to test with: real ones, and one that misbehaves on command."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.host import need_programs
from harness.hostile_registry import HostileRegistry
from harness.registry import RegistryUnderTest
from harness.waiting import PATIENCE
from mooring_agent.images.content import MEDIA_MANIFEST
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.client import Registries, Repository
from mooring_agent.images.registry.connections import Limits
from mooring_agent.images.registry.retrying import RetryPolicy
from mooring_agent.images.registry.settings import RegistriesSettings
from unit.images.houses import house, other

__all__ = ["house", "other"]  # fixtures

Connect = Callable[..., Registries]

# As short as a shared machine allows, so that what waits for them does not take long.
LIMITS = Limits(connect=5 * PATIENCE, stall=0.6 * PATIENCE, answer=1.5 * PATIENCE)
POLICY = RetryPolicy(attempts=3, base=0.01, total=5.0 * PATIENCE)

DATA = random.Random(1).randbytes(3 << 20)  # the same each time that this file is imported
MANIFEST = {"schemaVersion": 2, "mediaType": MEDIA_MANIFEST, "config": {}, "layers": []}


def named(registry: HostileRegistry) -> Reference:
    """The image that the tests use of a registry that misbehaves."""
    return Reference.parse(f"{registry.host}/app:1")


@pytest.fixture
def connect(tmp_path: Path) -> Iterator[Connect]:
    """Return a function that makes the agent's registries from a mapping; they are closed at the end."""
    with ExitStack() as stack:

        def make(
            settings: dict[str, Any] | None = None,
            *,
            limits: Limits = LIMITS,
            policy: RetryPolicy = POLICY,
            certificates: Path = tmp_path / "none",
            docker_config: Path = tmp_path / "none",
        ) -> Registries:
            parsed = RegistriesSettings.parse(
                settings or {}, certificates=certificates, docker_config=docker_config
            )
            registries = Registries(parsed, policy=policy, limits=limits)
            stack.callback(registries.close)
            return registries

        yield make


@pytest.fixture
def hostile() -> Iterator[HostileRegistry]:
    """Return a registry that misbehaves when told to."""
    with HostileRegistry() as registry:
        yield registry


@pytest.fixture
def repository(hostile: HostileRegistry, connect: Connect) -> Repository:
    """Return the repository `app` of a registry that misbehaves, with the blob DATA and the tag `1`."""
    hostile.add_blob(DATA)
    hostile.add_manifest("1", MEDIA_MANIFEST, MANIFEST)
    return connect({hostile.host: {"tls": "off"}}).repository(named(hostile))


@pytest.fixture(scope="module")
def plain() -> Iterator[RegistryUnderTest]:
    """Return a real registry without TLS and users, shared by a module."""
    yield from _real()


@pytest.fixture(scope="module")
def guarded() -> Iterator[RegistryUnderTest]:
    """Return a real registry that wants a user's name and password."""
    yield from _real(auth=True)


@pytest.fixture(scope="module")
def private() -> Iterator[RegistryUnderTest]:
    """Return a real registry with a certificate of a private CA."""
    yield from _real(tls=True)


def _real(**options: bool) -> Iterator[RegistryUnderTest]:
    need_programs("docker-registry", "skopeo", "openssl", "htpasswd")
    with RegistryUnderTest(**options) as registry:
        yield registry
