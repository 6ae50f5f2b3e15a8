# SPDX-License-Identifier: Apache-2.0
"""Registries for agents: real ones, and one that does as it is told."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from harness.agent import AgentUnderTest
from harness.hostile_registry import HostileRegistry
from harness.registry import RegistryUnderTest

Mooring = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mooring(agent: AgentUnderTest) -> Mooring:
    """Return a function that runs a command; with `check`, it must end with 0."""

    def run(*arguments: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "mooring_agent", *arguments],
            input=stdin,
            capture_output=True,
            env={**os.environ, "MOORING_SOCKET": str(agent.socket)},
            timeout=60,
            check=False,
            text=True,
        )
        assert not check or done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


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
