# SPDX-License-Identifier: Apache-2.0
"""The container that is made ahead after two alike: it becomes the third, and is in nobody's way."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

from .test_reserve import _prepared as prepared
from .test_reserve import _reaches_its_gateway as reaches_its_gateway

pytestmark = pytest.mark.root

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


@pytest.fixture
def agent(start_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    return start_agent()


def put(agent: AgentUnderTest, name: str, **more: Any) -> dict[str, Any]:
    view: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **more})["result"]
    return view


def remove(agent: AgentUnderTest, *names: str) -> None:
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")


def standing_by(agent: AgentUnderTest, **more: Any) -> int:
    """Make two alike; the process that then waits to become the third."""
    for name in ("one", "two"):
        put(agent, name, **more)
    (pid,) = eventually(lambda: prepared(agent), what="a container that stands by")
    return int(pid)


def directories(agent: AgentUnderTest) -> set[str]:
    return {entry.name for entry in (Path(agent.config.data_root) / "containers").iterdir()}


def test_it_becomes_the_third(agent: AgentUnderTest) -> None:
    pid = standing_by(agent, env={"COLOUR": "green"}, memory="32m", labels={"a": "b"})

    third = put(agent, "three", env={"COLOUR": "green"}, memory="32m", labels={"a": "b"})

    assert third["pid"] == pid
    assert (third["name"], third["state"], third["managed"]) == ("three", "running", True)
    script = "hostname; echo $COLOUR; cat /etc/hostname; cd /sys/fs/cgroup; "
    script += "cat memory/memory.limit_in_bytes 2>/dev/null || cat memory.max"
    answer = agent.api("POST", "/mooring/v1/containers/three/exec", {"argv": ["sh", "-c", script]})
    short = third["id"][:12]
    assert answer["stdout"].split() == [short, "green", short, str(32 << 20)]
    assert reaches_its_gateway(agent, "three")
    addresses = {
        agent.api("GET", f"/mooring/v1/containers/{name}")["networks"]["bridge"]["ipv4_address"]
        for name in ("one", "two", "three")
    }
    assert len(addresses) == 3


def test_rules_hold_for_the_third_that_they_name(agent: AgentUnderTest) -> None:
    agent.api("PUT", "/mooring/v1/networks/shop", {"rules": ["deny in for three"]})
    standing_by(agent, networks=["shop"])
    for name in ("two", "three"):
        address = put(agent, name, networks=["shop"])["networks"]["shop"]["ipv4_address"]
        ping = ["ping", "-c1", "-w2", address]
        answer = agent.api("POST", "/mooring/v1/containers/one/exec", {"argv": ping})
        assert answer["exit_code"] == (1 if name == "three" else 0), name
    remove(agent, "one", "two", "three")
    agent.api("DELETE", "/mooring/v1/networks/shop")


@pytest.mark.parametrize("call", ["munmap", "rt_sigprocmask"])
def test_what_its_filter_keeps_from_waiting_starts_all_the_same(agent: AgentUnderTest, call: str) -> None:
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": [call], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    for name in ("one", "two", "three", "four"):
        # A static busybox's sleep needs neither.
        assert put(agent, name, seccomp=profile)["state"] == "running"
    remove(agent, "one", "two", "three", "four")


def test_what_its_limits_leave_no_memory_to_wait_with_starts_all_the_same(agent: AgentUnderTest) -> None:
    for name in ("one", "two", "three", "four"):
        assert put(agent, name, ulimits={"as": 16 << 20})["state"] == "running"
    remove(agent, "one", "two", "three", "four")


def test_nobody_sees_it(agent: AgentUnderTest) -> None:
    standing_by(agent)

    assert {one["name"] for one in agent.api("GET", "/mooring/v1/containers")} == {"one", "two"}
    assert agent.api("GET", "/mooring/v1/host")["containers"]["total"] == 2
    assert len(agent.docker("ps", "-aq").stdout.split()) == 2


@pytest.mark.parametrize("change", [{"command": ["sleep", "601"]}, {"read_only": True}, {"memory": "40m"}])
def test_another_one_does_not_get_it(agent: AgentUnderTest, change: dict[str, Any]) -> None:
    pid = standing_by(agent)

    other = put(agent, "other", **change)

    assert other["pid"] != pid
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of what stood by")
    eventually(lambda: len(directories(agent)) == 3, what="the removal of its directory")


def test_of_two_at_once_that_are_unlike_it_neither_gets_it(agent: AgentUnderTest) -> None:
    pid = standing_by(agent)

    with ThreadPoolExecutor(2) as clients:
        made = list(clients.map(lambda name: put(agent, name, env={"A": "b"}), ("three", "four")))

    for view in made:
        assert view["pid"] != pid
        argv = ["sh", "-c", "echo $A"]
        answer = agent.api("POST", f"/mooring/v1/containers/{view['name']}/exec", {"argv": argv})
        assert answer["stdout"] == "b\n"


def test_it_gives_way_to_a_removal(agent: AgentUnderTest) -> None:
    agent.api("PUT", "/mooring/v1/networks/lan", {})
    pid = standing_by(agent, networks=["lan"])
    remove(agent, "one", "two")

    agent.api("DELETE", "/mooring/v1/networks/lan")

    assert not os.path.exists(f"/proc/{pid}")
    assert directories(agent) == set()


def test_it_gives_way_to_who_wants_its_address(agent: AgentUnderTest) -> None:
    agent.api("PUT", "/mooring/v1/networks/small", {"subnet": "10.83.77.0/29"})
    standing_by(agent, networks=["small"])

    fixed = {"name": "small", "ipv4_address": "10.83.77.4"}
    three = put(agent, "three", networks=[fixed])

    assert three["networks"]["small"]["ipv4_address"] == "10.83.77.4"
    assert reaches_its_gateway(agent, "three")


def test_it_leaves_when_nobody_wants_it(agent: AgentUnderTest) -> None:
    pid = standing_by(agent)

    eventually(lambda: not os.path.exists(f"/proc/{pid}"), 30, "the end of what stood by")
    eventually(lambda: len(directories(agent)) == 2, what="the removal of its directory")
    assert put(agent, "three")["state"] == "running"


@pytest.mark.parametrize("whom", ["keeper", "agent", "launcher"])
def test_a_kill_while_it_waits_leaves_nothing_of_it(agent: AgentUnderTest, whom: str) -> None:
    pid = standing_by(agent)
    if whom == "launcher":
        os.kill(pid, 9)
    elif whom == "keeper":
        os.kill(agent.keeper_pids()[0], 9)
    else:
        agent.kill9()
        agent.start()
    eventually(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of what stood by")

    third = put(agent, "three")

    assert third["state"] == "running"
    assert reaches_its_gateway(agent, "three")
    if whom == "agent":
        assert len(directories(agent)) == 3
    remove(agent, "one", "two", "three")
