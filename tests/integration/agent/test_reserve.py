# SPDX-License-Identifier: Apache-2.0
"""Launchers and cables that wait with the agent: used where they fit, and no harm where they do not."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = pytest.mark.root

_SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


def _put(agent: AgentUnderTest, name: str, **more: Any) -> dict[str, Any]:
    view: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", {**_SLEEPER, **more})["result"]
    return view


def _cables(agent: AgentUnderTest) -> set[str]:
    """The outer ends of cables at this agent's bridges, whoever uses them."""
    bridges = [name for name in os.listdir("/sys/class/net") if name.startswith(agent.config.bridge_prefix)]
    return {port for bridge in bridges for port in os.listdir(f"/sys/class/net/{bridge}/brif")}


def _reaches_its_gateway(agent: AgentUnderTest, name: str) -> bool:
    argv = ["sh", "-c", "ping -c 1 -w 2 $(ip route | sed -n 's/^default via \\([0-9.]*\\).*/\\1/p')"]
    answer = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": argv})
    return bool(answer["exit_code"] == 0)


@pytest.fixture
def agent(start_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    return start_agent()


def test_a_cable_that_waits_becomes_the_next_container_s(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    waiting = _cables(agent)

    second = _put(agent, "second")

    assert _reaches_its_gateway(agent, "second")
    argv = ["sh", "-c", "cat /sys/class/net/eth0/address; ip -o -4 addr show eth0"]
    seen = agent.api("POST", "/mooring/v1/containers/second/exec", {"argv": argv})["stdout"]
    network = second["networks"]["bridge"]
    assert network["mac_address"] in seen
    assert f" {network['ipv4_address']}/" in seen
    assert waiting & _cables(agent)


def test_a_burst_of_starts_has_more_wait_for_the_next_one(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    # Half of a pool of ten, and the one that is the container's.
    eventually(lambda: len(_cables(agent)) == 1 + 5, what="the usual cables in reserve")
    numbers = itertools.count()

    def run(number: int) -> None:
        # Each unlike the one before: else some would stand by, with cables.
        _create(agent, f"many{number}", Memory=(100 << 20) + (number << 12))
        _docker(agent, "POST", f"/containers/many{number}/start")
        _docker(agent, "DELETE", f"/containers/many{number}?force=true")

    def burst() -> None:
        with ThreadPoolExecutor(8) as clients:
            list(clients.map(run, itertools.islice(numbers, 24)))

    def grows() -> bool:
        burst()  # which a busy machine may draw out so much that it is none
        with suppress(AssertionError):
            # What a pool of ten leaves to the reserve: two pools, but for a quarter of one.
            eventually(lambda: len(_cables(agent)) == 1 + 18, timeout=2, what="more cables")
            return True
        return False

    eventually(grows, what="as many cables as the burst took")


def test_the_outer_end_of_a_cable_has_no_address_of_its_own(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    assert _reaches_its_gateway(agent, "first")

    with open("/proc/net/if_inet6") as addresses:
        owners = {line.split()[-1] for line in addresses}
    assert _cables(agent)
    assert not _cables(agent) & owners


def test_a_launcher_that_has_died_while_it_waited_is_replaced(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    keeper = agent.api("GET", "/mooring/v1/host")["keeper"]["pid"]
    running = agent.api("GET", "/mooring/v1/containers/first")["pid"]
    with open(f"/proc/{keeper}/task/{keeper}/children") as children:
        for pid in map(int, children.read().split()):
            if pid != running:
                with suppress(ProcessLookupError):  # one that was about to end anyway
                    os.kill(pid, signal.SIGKILL)

    _put(agent, "second")

    assert _reaches_its_gateway(agent, "second")


def test_a_bridge_that_somebody_deleted_is_repaired_although_cables_wait(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    (bridge,) = (name for name in os.listdir("/sys/class/net") if name.startswith(agent.config.bridge_prefix))
    subprocess.run(["ip", "link", "delete", bridge], check=True, timeout=30)

    _put(agent, "second")

    assert _reaches_its_gateway(agent, "second")
    assert _reaches_its_gateway(agent, "first")


def test_a_cable_of_a_former_network_of_the_same_name_is_not_taken(agent: AgentUnderTest) -> None:
    network = {"subnet": "10.83.78.0/24", "subnet6": "fd00:83:78::/64"}
    agent.api("PUT", "/mooring/v1/networks/lan", network)
    _put(agent, "first", networks=["lan"])
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    agent.api("DELETE", "/mooring/v1/containers/first")
    agent.api("DELETE", "/mooring/v1/networks/lan")
    agent.api("PUT", "/mooring/v1/networks/lan", {**network, "interface_prefix": "net"})

    _put(agent, "second", networks=["lan"])

    seen = agent.api("POST", "/mooring/v1/containers/second/exec", {"argv": ["ls", "/sys/class/net"]})
    assert seen["stdout"].split() == ["lo", "net0"]
    assert _reaches_its_gateway(agent, "second")
    agent.api("DELETE", "/mooring/v1/containers/second")
    agent.api("DELETE", "/mooring/v1/networks/lan")


def _docker(agent: AgentUnderTest, method: str, path: str, body: object = None) -> Any:
    return agent.api(method, f"/v1.43{path}", body)


def _create(agent: AgentUnderTest, name: str, **host: Any) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "StopTimeout": 0, "HostConfig": host}
    _docker(agent, "POST", f"/containers/create?name={name}", body)


def _waiting(agent: AgentUnderTest) -> set[int]:
    """The launchers that wait, prepared or not."""
    keeper = agent.api("GET", "/mooring/v1/host")["keeper"]["pid"]
    with open(f"/proc/{keeper}/task/{keeper}/children") as children:
        pids = {int(pid) for pid in children.read().split()}
    # A container that has just been started may still bear that name.
    running = {one["pid"] for one in agent.api("GET", "/mooring/v1/containers")}
    return {pid for pid in pids if _comm(pid) == "mooring-launch"} - running


def _comm(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as comm:
            return comm.read().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _prepared(agent: AgentUnderTest) -> set[int]:
    """Those of them that are in a container's root already."""
    found = set()
    for pid in _waiting(agent):
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/root").st_dev != os.stat("/").st_dev:
                found.add(pid)
    return found


def test_what_is_created_is_built_before_its_start(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")

    _create(agent, "second")
    (pid,) = eventually(lambda: _prepared(agent), what="a launcher that is prepared")
    _docker(agent, "POST", "/containers/second/start")

    assert agent.api("GET", "/mooring/v1/containers/second")["pid"] == pid
    assert _reaches_its_gateway(agent, "second")


def test_limits_that_change_before_the_start_hold(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")

    _create(agent, "second", Memory=64 << 20)
    eventually(lambda: _prepared(agent), what="a launcher that is prepared")
    _docker(agent, "POST", "/containers/second/update", {"Memory": 32 << 20, "MemorySwap": 64 << 20})
    _docker(agent, "POST", "/containers/second/start")

    argv = ["sh", "-c", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes || cat /sys/fs/cgroup/memory.max"]
    seen = agent.api("POST", "/mooring/v1/containers/second/exec", {"argv": argv})["stdout"]
    assert int(seen) == 32 << 20


@pytest.mark.parametrize("what", ["waits", "is removed"])
def test_what_is_not_started_is_given_up(agent: AgentUnderTest, what: str) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    _create(agent, "second")
    prepared = eventually(lambda: _prepared(agent), what="a launcher that is prepared")

    if what == "is removed":
        _docker(agent, "DELETE", "/containers/second")
    eventually(lambda: not prepared & _waiting(agent), what="the end of the launcher")

    if what == "waits":
        _docker(agent, "POST", "/containers/second/start")
        assert _reaches_its_gateway(agent, "second")


def test_a_launcher_that_has_died_after_it_was_prepared_is_replaced(agent: AgentUnderTest) -> None:
    _put(agent, "first")
    eventually(lambda: len(_cables(agent)) > 1, what="cables in reserve")
    _create(agent, "second")
    (pid,) = eventually(lambda: _prepared(agent), what="a launcher that is prepared")

    os.kill(pid, signal.SIGKILL)
    _docker(agent, "POST", "/containers/second/start")

    assert _reaches_its_gateway(agent, "second")
