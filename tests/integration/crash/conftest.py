# SPDX-License-Identifier: Apache-2.0
"""One agent for all cases of a module, restarted only where a case has killed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from mooring_agent.failpoints import VARIABLE

from .site import Site


@pytest.fixture(scope="module")
def site(
    request: pytest.FixtureRequest,
    ended_agents: list[AgentUnderTest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """Return an agent with fail points, a container that writes, and an exec that runs."""
    switch: Path = tmp_path_factory.mktemp("points") / "point"
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv(VARIABLE, str(switch))
        agent = AgentUnderTest(user=request.node.nodeid)
        ended_agents.append(agent)
        try:
            agent.start()
            agent.add_busybox_image()
            made = Site(agent, switch)
            yield made
            made.disarm()
            made.close()
        finally:
            agent.end()
