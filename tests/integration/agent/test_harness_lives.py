# SPDX-License-Identifier: Apache-2.0
"""The fixtures themselves on a real agent: what every other test here relies on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.agent import AgentUnderTest

pytestmark = pytest.mark.root


def test_the_shared_agent_answers_and_has_the_image(agent: AgentUnderTest) -> None:
    assert agent.request("GET", "/_ping").body == b"OK"
    references = [name for image in agent.api("GET", "/mooring/v1/images") for name in image["references"]]
    assert any("busybox" in name for name in references)


@pytest.mark.docker
def test_the_real_docker_client_reaches_this_agent(agent: AgentUnderTest) -> None:
    assert agent.docker("version", "--format", "{{.Server.Os}}").stdout == "linux\n"


def test_an_agent_with_a_running_container_leaves_nothing(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/sleeper", {"image": "busybox", "command": ["sleep", "600"]})
    view = agent.api("GET", "/mooring/v1/containers/sleeper")
    assert view["state"] == "running"
    assert len(agent.keeper_pids()) == 2
    assert agent.traces.remains()
    agent.destroy()
    assert agent.traces.remains() == []


def test_a_killed_agent_leaves_its_container_running_and_is_cleaned_up(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/sleeper", {"image": "busybox", "command": ["sleep", "600"]})
    pid = agent.api("GET", "/mooring/v1/containers/sleeper")["pid"]
    agent.kill9()
    agent.start()
    assert agent.api("GET", "/mooring/v1/containers/sleeper")["pid"] == pid
