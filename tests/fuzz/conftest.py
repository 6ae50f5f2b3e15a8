# SPDX-License-Identifier: Apache-2.0
"""A real agent to throw things at; its log must have no traceback in the end, and nothing may be left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.agent import AgentUnderTest


@pytest.fixture(scope="package")
def agent() -> Iterator[AgentUnderTest]:
    """Return a running agent."""
    under_test = AgentUnderTest(user="tests/fuzz")
    try:
        under_test.start()
        yield under_test
    finally:
        under_test.destroy()


@pytest.fixture
def box(agent: AgentUnderTest) -> str:
    """Return the name of a running container, made again where a test has removed it or its image."""
    spec = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
    if agent.request("GET", "/mooring/v1/images/busybox").status != 200:
        agent.add_busybox_image()
    agent.api("PUT", "/mooring/v1/containers/box", spec)
    return "box"
