# SPDX-License-Identifier: Apache-2.0
"""Ends, starts and restarts that follow each other closely: nothing of one run may be lost to the next."""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from itertools import count
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.host import cgroup_mounts
from harness.unix_http import UnixConnection
from harness.waiting import eventually

pytestmark = pytest.mark.root

# The launchers that the agent has in reserve have a descriptor each, and come and go: as many as bursts take,
# of a pool of ten.
RESERVED = 18 + 1

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
SERVER = ["sh", "-c", "mkdir -p /www; echo works > /www/index.html; exec httpd -f -p 80 -h /www"]


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Callable[..., Any]]:
    names = set()

    def put(name: str, **options: Any) -> Any:
        names.add(name)
        return agent.api("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **options})

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def logged(agent: AgentUnderTest, name: str, query: str = "") -> list[str]:
    return [line["data"] for line in agent.stream("GET", f"/mooring/v1/containers/{name}/logs{query}")]


def page(port: int) -> bool:
    try:
        with closing(socket.create_connection(("127.0.0.1", port), 2)) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "works" in connection.makefile().read()
    except OSError:
        return False


def test_a_restart_keeps_the_published_ports(agent: AgentUnderTest, declare: Any) -> None:
    declare("web", command=SERVER, ports=["127.0.0.1::80"])
    port = view(agent, "web")["ports"][0]["host"]
    eventually(lambda: page(port), what="the page")
    for _ in range(6):
        agent.api("POST", "/mooring/v1/containers/web/restart")
        assert [each["host"] for each in view(agent, "web")["ports"]] == [port]
        eventually(lambda: page(port), 5, "the page after a restart")


def test_a_stop_and_a_start_right_after_it(agent: AgentUnderTest, declare: Any) -> None:
    declare("web", command=SERVER, ports=["127.0.0.1::80"], memory="64m")
    for _ in range(6):
        agent.api("POST", "/mooring/v1/containers/web/stop")
        assert view(agent, "web")["state"] == "exited"
        agent.api("POST", "/mooring/v1/containers/web/start")
        found = view(agent, "web")
        assert found["state"] == "running"
        assert len(found["ports"]) == 1
        eventually(partial(page, found["ports"][0]["host"]), 5, "the page")


def test_a_start_in_the_moment_of_an_end(agent: AgentUnderTest, declare: Any) -> None:
    declare("brief", command=["sh", "-c", "exit 0"], ports=["127.0.0.1::80"], state="stopped")
    for _ in range(30):
        agent.api("POST", "/mooring/v1/containers/brief/start")
    eventually(lambda: view(agent, "brief")["state"] == "exited")
    assert view(agent, "brief")["exit_code"] == 0
    eventually(lambda: view(agent, "brief")["ports"] == [])
    declare("brief", command=["sleep", "60"], ports=["127.0.0.1::80"])
    assert len(view(agent, "brief")["ports"]) == 1


def test_starts_and_stops_from_many_sides_end_in_order(agent: AgentUnderTest, declare: Any) -> None:
    declare("contested", ports=["127.0.0.1::80"])
    calls = ["start", "stop", "restart", "stop", "start"] * 6
    with ThreadPoolExecutor(5) as pool:
        answers = list(
            pool.map(
                lambda call: agent.request("POST", f"/mooring/v1/containers/contested/{call}").status, calls
            )
        )
    assert set(answers) == {200}
    agent.api("POST", "/mooring/v1/containers/contested/start")
    found = view(agent, "contested")
    assert found["state"] == "running"
    assert os.path.exists(f"/proc/{found['pid']}")
    assert len(found["ports"]) == 1


def test_a_follower_stays_over_a_restart_by_policy(agent: AgentUnderTest, declare: Any) -> None:
    declare("again", command=["sh", "-c", "echo run; sleep 0.2; exit 1"], restart="on-failure:3")
    assert logged(agent, "again", "?follow=true") == ["run\n"] * 4
    assert view(agent, "again")["state"] == "exited"


def test_a_wait_ends_with_the_last_restart(agent: AgentUnderTest, declare: Any) -> None:
    """A container that is between two tries when it is stopped will have no further end to wait for."""
    begun = time.time()
    declare("never", command=["sh", "-c", "exit 3"], restart="always")

    def pauses() -> bool:
        events = agent.stream("GET", f"/mooring/v1/events?since={begun}&until={time.time()}")
        ends = sum(event["action"] == "die" for event in events)
        found = view(agent, "never")
        # After the fourth the pause is longer than a second. A start is counted when it begins.
        return found["state"] == "restarting" and ends == found["restart_count"] + 1 > 4

    eventually(pauses, what="a longer pause")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(agent.request, "POST", "/v1.43/containers/never/wait", timeout=20.0)
        time.sleep(0.2)
        assert not waiting.done()
        agent.api("POST", "/mooring/v1/containers/never/stop")
        assert waiting.result(15).json()["StatusCode"] == 3
    assert view(agent, "never")["state"] == "exited"


def test_a_wait_for_a_container_that_is_removed_ends(agent: AgentUnderTest, declare: Any) -> None:
    declare("gone")
    with ExitStack() as stack:
        waits = []
        for condition in ("not-running", "removed"):
            connection = stack.enter_context(closing(UnixConnection(agent.socket)))
            connection.request("POST", f"/v1.43/containers/gone/wait?condition={condition}")
            waits.append(connection.getresponse())  # the head comes when the wait has begun
        agent.api("DELETE", "/mooring/v1/containers/gone")
        assert all(wait.read() for wait in waits)
        assert [wait.status for wait in waits] == [200, 200]


def test_a_policy_restart_that_was_stopped_stays_stopped(agent: AgentUnderTest, declare: Any) -> None:
    declare("loop", command=["sh", "-c", "sleep 0.05; exit 1"], restart="always")
    for _ in range(5):
        eventually(
            lambda: view(agent, "loop")["restart_count"] > 0 or view(agent, "loop")["state"] == "running"
        )
        agent.api("POST", "/mooring/v1/containers/loop/stop")
        stopped = view(agent, "loop")
        assert stopped["state"] == "exited"
        pid_file = view(agent, "loop")["pid"]
        assert pid_file is None
        agent.api("POST", "/mooring/v1/containers/loop/start")


def test_two_hundred_runs_leave_no_descriptor_in_the_agent(agent: AgentUnderTest, declare: Any) -> None:
    assert agent.process is not None
    agent_pid = agent.process.pid
    declare("often", command=["sh", "-c", "exit 0"], state="stopped", tty=True, interactive=True)

    def runs(count: int) -> None:
        for _ in range(count):
            agent.api("POST", "/mooring/v1/containers/often/start")
        eventually(lambda: view(agent, "often")["state"] == "exited")

    def opened() -> int:
        return len(os.listdir(f"/proc/{agent_pid}/fd"))

    runs(10)
    before = opened()
    runs(200)
    eventually(lambda: opened() <= before + RESERVED, what=f"{before} descriptors again")


def test_failed_starts_leave_nothing_in_the_agent(agent: AgentUnderTest, declare: Any) -> None:
    assert agent.process is not None
    agent_pid = agent.process.pid
    declare("bad", command=["/no/such/program"], state="stopped", ports=["127.0.0.1::80"], interactive=True)

    def tries(count: int) -> None:
        for _ in range(count):
            assert agent.request("POST", "/mooring/v1/containers/bad/start").status == 400

    tries(5)
    before = len(os.listdir(f"/proc/{agent_pid}/fd"))
    tries(60)
    eventually(lambda: len(os.listdir(f"/proc/{agent_pid}/fd")) <= before + RESERVED)
    found = view(agent, "bad")
    assert (found["state"], found["ports"]) == ("created", [])
    assert "/no/such/program" in found["error"]


def test_others_are_answered_while_one_takes_long(agent: AgentUnderTest, declare: Any) -> None:
    """Nothing that a container does may hold the agent's event loop up for long."""
    stop = threading.Event()
    delays: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            agent.request("GET", "/_ping")
            delays.append(time.monotonic() - begun)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda number: declare(f"busy{number}"), range(24)))
            list(
                pool.map(
                    lambda number: agent.api("DELETE", f"/mooring/v1/containers/busy{number}"), range(24)
                )
            )
    finally:
        stop.set()
        asking.join()
    delays.sort()
    assert delays[len(delays) // 2] < 0.2
    assert delays[-1] < 2.0


# Over the end of the agent


def test_the_bound_of_a_restart_policy_holds_over_agents(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    agent.api(
        "PUT",
        "/mooring/v1/containers/tries",
        {"image": "busybox", "command": ["sh", "-c", "echo try; exit 1"], "restart": "on-failure:2"},
    )
    eventually(
        lambda: view(agent, "tries")["restart_count"] == 2 and view(agent, "tries")["state"] == "exited"
    )
    for _ in range(2):
        agent.restart()
        assert logged(agent, "tries") == ["try\n"] * 3
        assert view(agent, "tries")["state"] == "exited"


def test_policies_over_the_end_of_an_agent(start_agent: Callable[..., AgentUnderTest]) -> None:
    """All end while no agent is there; what the next one does is the policy's to say."""
    agent = start_agent()
    policies = {"always": "always", "unless": "unless-stopped", "failed": "on-failure", "never": "no"}
    for name, policy in policies.items():
        agent.api("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, "restart": policy})
    agent.api("PUT", "/mooring/v1/containers/byhand", {**SLEEPER, "restart": "unless-stopped"})
    agent.api("POST", "/mooring/v1/containers/byhand/stop")
    agent.api("PUT", "/mooring/v1/containers/between", {**SLEEPER, "restart": "always", "command": ["false"]})
    eventually(lambda: view(agent, "between")["restart_count"] > 1)
    pids = {name: view(agent, name)["pid"] for name in policies}
    agent.kill9()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    agent.start()
    for name in ("always", "unless", "failed"):
        eventually(partial(runs_anew, agent, name, pids[name]), what=f"{name} runs again")
    eventually(lambda: view(agent, "never")["state"] == "exited")
    never = view(agent, "never")
    assert (never["exit_code"], never["exit_known"]) == (137, True)
    assert view(agent, "byhand")["state"] == "exited"
    eventually(lambda: view(agent, "between")["restart_count"] > 1)


def runs_anew(agent: AgentUnderTest, name: str, old: int) -> bool:
    return view(agent, name)["pid"] not in (None, old)


def test_an_agent_killed_while_it_makes_and_removes_leaves_nothing(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    """The kill comes at any moment; what the next agent knows is all that there is."""
    agent = start_agent()
    chance = random.Random(7)
    made = 0
    for attempt in count():
        with ThreadPoolExecutor(4) as pool:
            calls = []
            for number in range(6):
                path = "/mooring/v1/containers/c{}-{}"
                spec = {**SLEEPER, "ports": ["127.0.0.1::80"]}
                calls.append(pool.submit(agent.request, "PUT", path.format(attempt, number), spec))
                if attempt:
                    calls.append(pool.submit(agent.request, "DELETE", path.format(attempt - 1, number)))
            time.sleep(chance.uniform(0.0, 0.4 * (1 + attempt // 8)))
            agent.kill9()
            answers = [call.result(20) for call in calls if call.exception(20) is None]
            made += sum(answer.status == 200 for answer in answers)
        agent.start()
        if attempt >= 7 and made:
            break
        assert attempt < 40, "nothing was tried: no container was made"  # however slow the machine is
    known = {each["id"] for each in agent.api("GET", "/mooring/v1/containers")}
    eventually(lambda: directories(agent) == known, what="directories of containers alone")
    eventually(lambda: rows(agent, "endpoints") <= known, what="addresses of containers alone")
    eventually(lambda: rows(agent, "publications") <= known, what="ports of containers alone")

    def running() -> set[str]:
        return {each["id"] for each in agent.api("GET", "/mooring/v1/containers") if each["pid"]}

    # In this order: one that starts meanwhile, as was asked for before the kill, is among those that run.
    eventually(lambda: groups(agent) <= running(), what="groups of running containers alone")
    for each in agent.api("GET", "/mooring/v1/containers"):
        agent.api("POST", f"/mooring/v1/containers/{each['name']}/start")


def test_what_an_agent_owed_when_it_was_killed_the_next_one_does(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    """As if it had been killed right after it had noted an end, or in the middle of a creation."""
    agent = start_agent()
    spec = {**SLEEPER, "ports": ["127.0.0.1::80"]}
    agent.api("PUT", "/mooring/v1/containers/web", spec)
    found = view(agent, "web")
    agent.kill9()
    os.kill(found["pid"], signal.SIGKILL)
    stranger = "5" * 64
    (agent.config.data_root / "containers" / stranger).mkdir()
    with closing(sqlite3.connect(agent.config.data_root / "state.db")) as state, state:
        state.execute(
            "UPDATE containers SET run = json_set(run, '$.status', 'exited', '$.wanted', json('false'))"
        )
        network, address = state.execute("SELECT network, ipv4 FROM endpoints").fetchone()
        other = address.rsplit(".", 1)[0] + ".200"
        state.execute(
            "INSERT INTO endpoints VALUES (?, ?, ?, NULL, NULL, 'x', 'eth0')", (stranger, network, other)
        )
        state.execute(
            "INSERT INTO publications VALUES ('tcp', '127.0.0.1', 45999, ?, ?, 80, '', '', 1, '')",
            (stranger, other),
        )
    agent.start()
    eventually(lambda: directories(agent) == {found["id"]})
    eventually(lambda: rows(agent, "endpoints") == {found["id"]}, what="no address of what is not there")
    eventually(lambda: rows(agent, "publications") == set(), what="no port of what does not run")
    eventually(lambda: groups(agent) == set(), what="no group of what does not run")
    eventually(lambda: view(agent, "web")["ports"] == [], what="no ports of what does not run")
    agent.api("POST", "/mooring/v1/containers/web/start")
    assert view(agent, "web")["state"] == "running"


def directories(agent: AgentUnderTest) -> set[str]:
    return set(os.listdir(agent.config.data_root / "containers"))


def rows(agent: AgentUnderTest, table: str) -> set[str]:
    """The containers of which a table of the state has rows."""
    path = f"file:{agent.config.data_root / 'state.db'}?mode=ro"
    with closing(sqlite3.connect(path, uri=True)) as state:
        return {row[0] for row in state.execute(f"SELECT container_id FROM {table}")}


def groups(agent: AgentUnderTest) -> set[str]:
    """The names of the containers' own control groups, where they bear their ids (cgroup v1)."""
    return {
        path.name
        for mount in cgroup_mounts()
        for path in (mount / agent.config.cgroup_parent).glob("[0-9a-f]*/")
        if len(path.name) == 64
    }
