# SPDX-License-Identifier: Apache-2.0
"""The networks of declared containers: changed live, kept over a restart, settled after a kill."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError
from harness.waiting import PATIENCE

pytestmark = pytest.mark.root

# No other file of tests has these: its agent may be at work beside this one, and a host has each once.
BLUE = {"subnet": "10.83.1.0/24", "subnet6": "fd00:83:1::/64"}
RED = {"subnet": "10.83.2.0/24", "subnet6": "fd00:83:2::/64"}
SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


@pytest.fixture
def agent(start_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    started = start_agent()
    started.api("PUT", "/mooring/v1/networks/blue", BLUE)
    started.api("PUT", "/mooring/v1/networks/red", RED)
    return started


def put(agent: AgentUnderTest, **more: Any) -> dict[str, Any]:
    outcome: dict[str, Any] = agent.api("PUT", "/mooring/v1/containers/web", {**SLEEPER, **more})
    return outcome


def view(agent: AgentUnderTest, name: str = "web") -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def run(agent: AgentUnderTest, *argv: str) -> str:
    done = agent.api("POST", "/mooring/v1/containers/web/exec", {"argv": list(argv)})
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


def interfaces(agent: AgentUnderTest) -> list[str]:
    return sorted(line.split()[1].partition("@")[0].strip(":") for line in
                  run(agent, "ip", "-o", "link").splitlines() if "eth" in line)  # fmt: skip


def test_networks_of_a_declared_container_change_live(agent: AgentUnderTest) -> None:
    before = put(agent, networks=["blue"])["result"]
    outcome = put(agent, networks=["blue", {"name": "red", "ipv4_address": "10.83.2.9"}])
    [action] = outcome["actions"]
    assert action["action"] == "update"
    assert "networks" in action["reason"]
    assert "live" in action["reason"]
    after = view(agent)
    assert after["pid"] == before["pid"]
    assert after["networks"]["red"]["ipv4_address"] == "10.83.2.9"
    assert interfaces(agent) == ["eth0", "eth1"]
    assert not put(agent, networks=["blue", {"name": "red", "ipv4_address": "10.83.2.9"}])["changed"]

    put(agent, networks=[{"name": "red", "ipv4_address": "10.83.2.8"}])
    assert interfaces(agent) == ["eth1"]
    assert "inet 10.83.2.8/24" in run(agent, "ip", "address", "show", "eth1")
    assert "default via 10.83.2.1 dev eth1" in run(agent, "ip", "route")
    assert view(agent)["pid"] == before["pid"]


def test_a_dry_run_says_so_and_touches_nothing(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue"])
    told = agent.api("PUT", "/mooring/v1/containers/web?dry_run=true", {**SLEEPER, "networks": ["red"]})
    assert told["changed"]
    assert "live" in told["actions"][0]["reason"]
    assert interfaces(agent) == ["eth0"]


def test_what_fails_leaves_everything_as_it_was(agent: AgentUnderTest) -> None:
    before = put(agent, networks=["blue"])["result"]
    wrong = {"name": "red", "sysctls": {"net.ipv4.conf.IFNAME.no_such_thing": "1"}}
    with pytest.raises(ApiError, match="does not exist in this kernel"):
        put(agent, networks=["blue", wrong])
    with pytest.raises(ApiError, match="network nowhere does not exist"):
        put(agent, networks=["red", "nowhere"])
    after = view(agent)
    assert (after["networks"], after["spec"]) == (before["networks"], before["spec"])
    assert interfaces(agent) == ["eth0"]
    assert "default via 10.83.1.1 dev eth0" in run(agent, "ip", "route")


def test_a_port_that_is_taken_keeps_it_from_its_new_network(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue"])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ApiError, match=f"host port {port}/tcp is in use"):
            put(agent, networks=["blue", "red"], ports=[f"127.0.0.1:{port}:80"])
    assert interfaces(agent) == ["eth0"]
    assert list(view(agent)["networks"]) == ["blue"]
    agent.api("DELETE", "/mooring/v1/networks/red")


def test_a_port_that_is_taken_keeps_all_else_from_changing(agent: AgentUnderTest) -> None:
    put(agent, networks=[{"name": "blue", "ipv4_address": "10.83.1.7"}], memory="64m")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        moved = {"name": "blue", "ipv4_address": "10.83.1.8"}
        with pytest.raises(ApiError, match=f"host port {port}/tcp is in use"):
            put(agent, networks=[moved], ports=[f"127.0.0.1:{port}:80"], memory="128m")
    assert view(agent)["networks"]["blue"]["ipv4_address"] == "10.83.1.7"
    assert "inet 10.83.1.7/24" in run(agent, "ip", "address", "show", "eth0")
    limit = "cd /sys/fs/cgroup; cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
    assert run(agent, "sh", "-c", limit) == f"{64 * 2**20}\n"


def test_a_first_network_and_ports_come_together(agent: AgentUnderTest) -> None:
    put(agent, networks=["none"])
    ports = put(agent, networks=["blue"], ports=["127.0.0.1::80"])["result"]["ports"]
    assert [port["container"] for port in ports] == [80]


def test_changes_at_the_same_time_all_stay(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue"])
    calls: list[tuple[str, str, dict[str, Any]]] = [
        ("PATCH", "/mooring/v1/containers/web", {"ports": ["127.0.0.1::80"]}),
        ("POST", "/mooring/v1/networks/red/connect", {"container": "web"}),
        ("POST", "/mooring/v1/networks/bridge/connect", {"container": "web"}),
    ]
    with ThreadPoolExecutor() as together:
        list(together.map(lambda call: agent.api(*call), calls))
    after = view(agent)
    assert sorted(after["networks"]) == ["blue", "bridge", "red"]
    assert [port["container"] for port in after["ports"]] == [80]
    assert len(interfaces(agent)) == 3


def test_interfaces_are_shown_as_they_are_after_the_next_start(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue", "red"])
    put(agent, networks=["red"])
    assert view(agent)["networks"]["red"]["interface"] == "eth1"
    agent.api("POST", "/mooring/v1/containers/web/restart")
    assert interfaces(agent) == ["eth0"]
    assert view(agent)["networks"]["red"]["interface"] == "eth0"


def test_the_default_route_is_that_of_the_network_that_asks_for_it(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue", {"name": "red", "default_route": True}])
    assert "default via 10.83.2.1 dev eth1" in run(agent, "ip", "route")
    put(agent, networks=["blue", "red"])
    assert "default via 10.83.1.1 dev eth0" in run(agent, "ip", "route")


def test_resolvers_and_hosts_change_live(agent: AgentUnderTest) -> None:
    before = put(agent, networks=["blue"])["result"]
    put(agent, networks=["blue"], dns=["127.0.0.53"], dns_search=["lan"], extra_hosts={"db": "192.0.2.7"})
    assert run(agent, "cat", "/etc/resolv.conf").endswith("search lan\nnameserver 127.0.0.53\n")
    assert "192.0.2.7\tdb" in run(agent, "cat", "/etc/hosts")
    assert view(agent)["pid"] == before["pid"]


def test_what_changed_live_is_there_after_a_restart_of_the_agent(agent: AgentUnderTest) -> None:
    put(agent, networks=["blue"])
    put(agent, networks=["red", "blue"])
    before = view(agent)["networks"]
    agent.restart()
    assert view(agent)["networks"] == before
    put(agent, networks=["blue"])
    assert interfaces(agent) == ["eth0"]
    agent.api("DELETE", "/mooring/v1/networks/red")


@pytest.mark.parametrize("point", ["attach.plugged", "attach.unplugged"])
def test_a_kill_in_between_leaves_nothing_half_done(
    switched: tuple[AgentUnderTest, Path], point: str
) -> None:
    """What no spec asks for is taken back by the next agent, and what one asks for is there."""
    agent, switch = switched
    agent.api("PUT", "/mooring/v1/networks/blue", BLUE)
    agent.api("PUT", "/mooring/v1/networks/red", RED)
    web = {"command": ["httpd", "-f"], "ports": ["127.0.0.1::80"]}
    put(agent, networks=["blue"], **web)
    switch.write_text(point)
    with pytest.raises(OSError):
        put(agent, networks=["red"], **web)
    assert agent.process is not None
    agent.process.wait(10.0 * PATIENCE)
    agent.process = None
    agent.start()

    asked = [network["name"] for network in view(agent)["spec"]["networks"]]
    assert asked == (["blue"] if point == "attach.plugged" else ["red"])
    assert list(view(agent)["networks"]) == asked
    assert len(interfaces(agent)) == 1
    [port] = view(agent)["ports"]
    socket.create_connection(("127.0.0.1", port["host"]), 5 * PATIENCE).close()
    put(agent, networks=["red"], **web)
    socket.create_connection(("127.0.0.1", port["host"]), 5 * PATIENCE).close()
    assert list(view(agent)["networks"]) == ["red"]
    assert "default via 10.83.2.1" in run(agent, "ip", "route")
    agent.api("DELETE", "/mooring/v1/containers/web")
    for name in ("blue", "red"):
        agent.api("DELETE", f"/mooring/v1/networks/{name}")


def test_who_declares_a_network_and_who_removes_it_do_not_meet(agent: AgentUnderTest) -> None:
    def all_of(method: str, *specs: dict[str, Any] | None) -> set[int]:
        path = "/mooring/v1/networks/green"
        return {agent.request(method, path, spec).status for _ in range(40) for spec in specs}

    labels = [{"subnet": "10.83.3.0/24", "labels": {"number": number}} for number in "12"]
    with ThreadPoolExecutor(3) as pool:
        answers = [pool.submit(all_of, "PUT", *labels), pool.submit(all_of, "PUT", *labels[::-1])]
        answers.append(pool.submit(all_of, "DELETE", None, None))
        assert [answer.result(120) for answer in answers] == [{200}, {200}, {200}]
