# SPDX-License-Identifier: Apache-2.0
"""A host in a network namespace of its own, with a whole agent in it, and the outside world."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from integration.conftest import StartAgent
from integration.network.topology import NamedNamespace, connected
from mooring_agent.failpoints import VARIABLE

from .world import World

MakeWorld = Callable[[], World]


@pytest.fixture
def places() -> Iterator[tuple[NamedNamespace, NamedNamespace]]:
    """The host and the outside, with a cable between them."""
    with connected() as made:
        yield made


@pytest.fixture
def make_world(
    places: tuple[NamedNamespace, NamedNamespace],
    start_agent: StartAgent,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> MakeWorld:
    """Return a function that makes the one world of a test."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "point"))
    host, outside = places

    def make() -> World:
        inside = ("nsenter", f"--net={host.path}", sys.executable, "-m", "mooring_agent")
        agent: AgentUnderTest = start_agent(program=inside)
        return World(host, outside, agent, tmp_path / "point")

    return make


@pytest.fixture
def world(make_world: MakeWorld) -> Iterator[World]:
    """A host with an agent, and the outside."""
    made = make_world()
    yield made
    made.end()
