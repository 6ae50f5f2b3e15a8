# SPDX-License-Identifier: Apache-2.0
"""One agent for all attacks of this folder, and one container for those that need no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest

from .attackers import PYTHON_VOLUMES, SLEEPER, Attacker, Declare, Workshop


@pytest.fixture(scope="package")
def agent(ended_agents: list[AgentUnderTest]) -> Iterator[AgentUnderTest]:
    """Return the agent under attack."""
    under_test = AgentUnderTest(user="tests/integration/security")
    ended_agents.append(under_test)
    under_test.start()
    under_test.add_busybox_image()
    yield under_test
    under_test.end()


@pytest.fixture(scope="package")
def attacker(agent: AgentUnderTest) -> Iterator[Attacker]:
    """Return a container with the default settings, root in it, and a Python."""
    agent.api("PUT", "/mooring/v1/containers/attacker", {**SLEEPER, "volumes": PYTHON_VOLUMES})
    yield Attacker(agent, "attacker")
    agent.api("DELETE", "/mooring/v1/containers/attacker?force=true")


@pytest.fixture(scope="package")
def workshop(
    agent: AgentUnderTest, busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Workshop:
    """Return what makes images for this agent."""
    return Workshop(agent, busybox_rootfs, tmp_path_factory.mktemp("workshop"))


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Declare]:
    """Declare containers that are gone after the test."""
    names = set()

    def put(name: str, **options: Any) -> dict[str, Any]:
        names.add(name)
        answer: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **options})
        return answer

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}?force=true", check=False)
