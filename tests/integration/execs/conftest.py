# SPDX-License-Identifier: Apache-2.0
"""A container to run commands in, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.agent import AgentUnderTest

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}


@pytest.fixture(scope="module")
def box(agent: AgentUnderTest) -> Iterator[str]:
    """Return the name of a running container."""
    agent.api("PUT", "/mooring/v1/containers/box", SLEEPER)
    yield "box"
    agent.api("DELETE", "/mooring/v1/containers/box")


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Any]:
    """Declare containers that are gone after the test."""
    names = set()

    def put(name: str, **options: Any) -> dict[str, Any]:
        names.add(name)
        spec = {**SLEEPER, **options}
        answer: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", spec)
        return answer

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")
