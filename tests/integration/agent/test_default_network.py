# SPDX-License-Identifier: Apache-2.0
"""The network of containers that name none: there from the start, and without a device until then."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from harness.agent import AgentUnderTest

pytestmark = pytest.mark.root

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


@pytest.fixture
def agent(start_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    return start_agent()


def bridge(agent: AgentUnderTest) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", "/mooring/v1/networks/bridge")
    return found


def has_device(name: str) -> bool:
    return subprocess.run(("ip", "link", "show", name), capture_output=True, check=False).returncode == 0


@pytest.mark.docker
def test_clients_find_it_at_once_and_the_host_has_nothing_of_it(agent: AgentUnderTest) -> None:
    names = agent.docker("network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}").stdout.splitlines()
    assert sorted(names) == ["bridge bridge local", "host host local", "none null local"]
    [shown] = json.loads(agent.docker("network", "inspect", "bridge").stdout)
    view = bridge(agent)
    assert shown["IPAM"]["Config"] == [{"Subnet": view["subnet"], "Gateway": view["gateway"]}]
    assert shown["Options"]["com.docker.network.bridge.name"] == view["bridge"]
    assert not has_device(view["bridge"])
    assert agent.docker("network", "ls", "-q", "--filter", "type=custom").stdout == ""

    agent.docker("run", "--rm", "busybox", "true")
    assert has_device(view["bridge"])
    assert (bridge(agent)["subnet"], bridge(agent)["created_at"]) == (view["subnet"], view["created_at"])


@pytest.mark.docker
def test_it_cannot_be_removed_nor_pruned_nor_made(agent: AgentUnderTest) -> None:
    for name in ("bridge", "host", "none"):
        refused = agent.docker("network", "rm", name, check=False)
        assert f"{name} is a pre-defined network and cannot be removed" in refused.stderr
        assert agent.request("DELETE", f"/v1.44/networks/{name}").status == 403
        assert agent.request("POST", "/v1.44/networks/create", {"Name": name}).status == 403
    assert agent.docker("network", "prune", "-f").stdout == ""
    assert agent.docker("network", "inspect", "bridge", "--format", "{{.Name}}").stdout == "bridge\n"


def test_it_stays_without_a_device_over_restarts(agent: AgentUnderTest) -> None:
    before = bridge(agent)
    agent.restart()
    assert bridge(agent) == before
    assert not has_device(before["bridge"])
    agent.api("PUT", "/mooring/v1/containers/web", SLEEPER)
    agent.kill9()
    agent.start()
    after = bridge(agent)
    assert (after["subnet"], list(after["containers"])) == (before["subnet"], ["web"])
    assert has_device(before["bridge"])


def test_it_gives_way_to_who_names_its_subnet(agent: AgentUnderTest) -> None:
    subnet = bridge(agent)["subnet"]
    agent.api("PUT", "/mooring/v1/networks/mine", {"subnet": subnet})
    assert bridge(agent)["subnet"] not in (subnet, None)
    agent.api("PUT", "/mooring/v1/containers/web", SLEEPER)
    refused = agent.request("PUT", "/mooring/v1/networks/other", {"subnet": bridge(agent)["subnet"]})
    assert (refused.status, "overlaps network bridge" in refused.json()["message"]) == (409, True)


def test_it_chooses_again_when_the_host_has_taken_its_subnet(agent: AgentUnderTest) -> None:
    before = bridge(agent)
    link = before["bridge"].replace("mr", "mt")[:15]
    subprocess.run(("ip", "link", "add", link, "type", "bridge"), check=True)
    try:
        address = before["gateway"] + "/24"
        subprocess.run(("ip", "address", "add", address, "dev", link), check=True)
        subprocess.run(("ip", "link", "set", link, "up"), check=True)
        agent.api("PUT", "/mooring/v1/containers/web", SLEEPER)
        after = bridge(agent)
        assert after["subnet"] != before["subnet"]
        assert list(after["containers"]) == ["web"]
    finally:
        subprocess.run(("ip", "link", "delete", link), check=True)


def test_it_is_declared_like_any_other_and_taken_back(agent: AgentUnderTest) -> None:
    first = bridge(agent)
    outcome = agent.api("PUT", "/mooring/v1/networks/bridge", {"subnet": "10.83.9.0/24"})
    assert outcome["changed"]
    assert (bridge(agent)["subnet"], bridge(agent)["managed"]) == ("10.83.9.0/24", True)
    assert has_device(bridge(agent)["bridge"])

    assert agent.api("DELETE", "/mooring/v1/networks/bridge")["changed"]
    after = bridge(agent)
    assert (after["subnet"], after["managed"]) == (first["subnet"], False)
    assert not has_device(after["bridge"])
    assert not agent.api("DELETE", "/mooring/v1/networks/bridge")["changed"]


def test_labels_alone_need_no_other_subnet(agent: AgentUnderTest) -> None:
    first = bridge(agent)
    agent.api("PUT", "/mooring/v1/networks/bridge", {"labels": {"a": "b"}})
    assert (bridge(agent)["subnet"], bridge(agent)["labels"]) == (first["subnet"], {"a": "b"})
