# SPDX-License-Identifier: Apache-2.0
"""Logs of real containers: rotation under a flood, following, many followers, restarts of everything."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from itertools import pairwise
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import UnixConnection
from harness.waiting import PATIENCE, eventually, has_died

from .shells import logged, settled, view

pytestmark = pytest.mark.root

LOG = {"max_size": "1m", "max_files": 3}
FLOOD_LINES = 200_000  # of 101 bytes


def directory(agent: AgentUnderTest, name: str) -> str:
    return f"{agent.config.data_root}/containers/{view(agent, name)['id']}/log"


def test_a_flood_over_rotations_is_followed_without_a_gap(agent: AgentUnderTest, declare: Any) -> None:
    """20 MB through three files of 1 MB: the follower keeps up, misses no line, and ends."""
    program = f'BEGIN {{ for (i = 1; i < {FLOOD_LINES}; i++) printf "%09d %090d\\n", i, 0 }}'
    script = f"printf '%09d %090d\\n' 0 0; read go; awk '{program}'"
    declare("flood", command=["sh", "-c", script], log=LOG, interactive=True)
    with ThreadPoolExecutor(1) as pool:
        lines = agent.stream("GET", "/mooring/v1/containers/flood/logs?follow=true", timeout=60.0)
        assert int(next(lines)["data"][:9]) == 0  # it follows before anything can be rotated away
        expected = 1
        pool.submit(start_flood, agent)
        for line in lines:
            assert int(line["data"][:9]) == expected
            expected += 1
    assert expected == FLOOD_LINES
    assert view(agent, "flood")["exit_code"] == 0
    kept = sum(entry.stat().st_size for entry in os.scandir(directory(agent, "flood")))
    assert kept < 4 << 20
    rest = [int(line[:9]) for line in logged(agent, "flood")[1:]]  # the first may have been cut
    assert rest == list(range(rest[0], FLOOD_LINES))
    assert len(rest) > 15_000


def start_flood(agent: AgentUnderTest) -> None:
    """Type a line into the container `flood`, through the Docker API's attach."""
    connection = UnixConnection(agent.socket)
    connection.connect()
    try:
        connection.sock.sendall(
            b"POST /v1.43/containers/flood/attach?stream=1&stdin=1 HTTP/1.1\r\nHost: x\r\n"
            b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
        )
        connection.sock.recv(4096)
        connection.sock.sendall(b"go\n")
        time.sleep(0.5)
    finally:
        connection.close()


def test_both_streams_of_a_flood_are_whole(agent: AgentUnderTest, declare: Any) -> None:
    script = "i=0; while [ $i -lt 20000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    declare("both", command=["sh", "-c", script], log={"max_size": "10m", "max_files": 2})
    found: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for line in agent.stream("GET", "/mooring/v1/containers/both/logs?follow=true", timeout=60.0):
        found[line["stream"]].append(line["data"])
    assert found["stdout"] == [f"out {number}\n" for number in range(20000)]
    assert found["stderr"] == [f"err {number}\n" for number in range(20000)]


def test_twenty_containers_are_followed_at_once(agent: AgentUnderTest, declare: Any) -> None:
    for number in range(20):
        script = f"i=0; while [ $i -lt 30 ]; do echo {number} $i; i=$((i+1)); usleep 20000; done"
        declare(f"one{number}", command=["sh", "-c", script])

    def follow(number: int) -> list[str]:
        return logged(agent, f"one{number}", "?follow=true")

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(follow, range(20)))
    for number, lines in enumerate(results):
        assert lines == [f"{number} {count}\n" for count in range(30)]


def test_many_follow_one(agent: AgentUnderTest, declare: Any) -> None:
    declare("popular", command=["sh", "-c", "sleep 0.5; seq 5000"])
    with ThreadPoolExecutor(10) as pool:
        results = list(pool.map(lambda _: logged(agent, "popular", "?follow=true"), range(10)))
    expected = [f"{number}\n" for number in range(1, 5001)]
    assert all(result == expected for result in results)


def test_a_slow_follower_holds_nobody_up_and_misses_nothing(agent: AgentUnderTest, declare: Any) -> None:
    """Its container is through all its segments several times before the follower takes the second line."""
    step = "seq $((i * 1000 + 1)) $((i * 1000 + 1000)); i=$((i + 1)); usleep 20000"
    script = f"i=0; while [ $i -lt 40 ]; do {step}; done"
    declare("quick", command=["sh", "-c", script], log={"max_size": "20k", "max_files": 2})
    lines = agent.stream("GET", "/mooring/v1/containers/quick/logs?follow=true", timeout=60.0)
    first = int(next(lines)["data"])
    eventually(lambda: view(agent, "quick")["state"] == "exited", 30)
    assert [int(line["data"]) for line in lines] == list(range(first + 1, 40_001))


def test_a_follower_that_leaves_leaves_nothing(agent: AgentUnderTest, declare: Any) -> None:
    assert agent.process is not None
    agent_pid = agent.process.pid
    declare("long", command=["sh", "-c", "while :; do echo x; sleep 0.05; done"])
    (before,) = settled(lambda: [len(os.listdir(f"/proc/{agent_pid}/fd"))])
    streams: list[Iterator[Any]] = []
    for _ in range(10):
        stream = agent.stream("GET", "/mooring/v1/containers/long/logs?follow=true")
        next(stream)
        streams.append(stream)
    assert len(os.listdir(f"/proc/{agent_pid}/fd")) > before
    for stream in streams:
        stream.close()  # type: ignore[attr-defined]
    eventually(lambda: len(os.listdir(f"/proc/{agent_pid}/fd")) <= before + 3)


def test_a_follower_ends_when_its_container_is_removed(agent: AgentUnderTest, declare: Any) -> None:
    declare("brief", command=["sh", "-c", "echo first; sleep 600"])
    lines = agent.stream("GET", "/mooring/v1/containers/brief/logs?follow=true")
    assert next(lines)["data"] == "first\n"
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(list, lines)
        time.sleep(0.3)
        assert not following.done()
        agent.api("DELETE", "/mooring/v1/containers/brief")
        assert following.result(10 * PATIENCE) == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("?tail=2", [4, 5]),
        ("?tail=0", []),
        ("?tail=all", [1, 2, 3, 4, 5]),
        ("?tail=2&follow=true", [4, 5]),
    ],
)
def test_the_tail(agent: AgentUnderTest, declare: Any, query: str, expected: list[int]) -> None:
    declare("five", command=["seq", "5"])
    eventually(lambda: view(agent, "five")["state"] == "exited")
    assert [int(line) for line in logged(agent, "five", query)] == expected


def test_moments_choose_lines(agent: AgentUnderTest, declare: Any) -> None:
    declare("timed", command=["sh", "-c", "echo one; sleep 1; echo two; sleep 1; echo three"])
    eventually(lambda: view(agent, "timed")["state"] == "exited")
    lines = list(agent.stream("GET", "/mooring/v1/containers/timed/logs"))
    moments = [datetime.fromisoformat(line["time"][:26] + "+00:00") for line in lines]
    # The time is that at which the keeper came to a line: halfway, since it may have come to one late.
    halfway = [one + (other - one) / 2 for one, other in pairwise(moments)]
    between = [moment.isoformat().replace("+00:00", "Z") for moment in halfway]
    assert logged(agent, "timed", f"?since={between[0]}") == ["two\n", "three\n"]
    assert logged(agent, "timed", f"?until={between[1]}") == ["one\n", "two\n"]
    assert logged(agent, "timed", f"?since={between[0]}&until={between[1]}") == ["two\n"]


def test_output_without_an_end_of_line_comes_at_once(agent: AgentUnderTest, declare: Any) -> None:
    """A prompt, or a progress bar: large output without a newline reaches the follower while it runs."""
    declare("bar", command=["sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; sleep 600"])
    lines = agent.stream("GET", "/mooring/v1/containers/bar/logs?follow=true", timeout=10.0 * PATIENCE)
    seen = 0
    for line in lines:
        seen += len(line["data"])
        if seen >= 80_000:
            break
    assert seen >= 80_000


def test_limits_of_the_log_change_live(agent: AgentUnderTest, declare: Any) -> None:
    command = ["sh", "-c", "while :; do seq 2000; usleep 20000; done"]
    declare("chatty", command=command, log={"max_size": "100m", "max_files": 2})
    place = directory(agent, "chatty")
    pid = view(agent, "chatty")["pid"]
    declare("chatty", command=command, log={"max_size": "20k", "max_files": 2})
    assert view(agent, "chatty")["pid"] == pid
    eventually(lambda: len([name for name in os.listdir(place) if name.endswith(".idx")]) == 2)

    def size() -> int:
        found = 0
        for entry in os.scandir(place):
            with suppress(FileNotFoundError):  # rotated away since it was listed
                found += entry.stat().st_size
        return found

    eventually(lambda: size() < 200_000)


def test_followers_over_the_death_of_the_keeper(start_agent: Callable[..., AgentUnderTest]) -> None:
    """The container writes on, the follower gets every line, and ends with it."""
    agent = start_agent()
    script = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); usleep 10000; done"
    agent.api("PUT", "/mooring/v1/containers/steady", {"image": "busybox", "command": ["sh", "-c", script]})
    with ThreadPoolExecutor(3) as pool:
        followers = [pool.submit(logged, agent, "steady", "?follow=true") for _ in range(3)]
        for _ in range(3):
            time.sleep(0.3)
            keeper = eventually(lambda: living_keeper(agent), what="a keeper")
            os.kill(keeper, 9)
        expected = [f"line {number}\n" for number in range(200)]
        assert [follower.result(30) for follower in followers] == [expected] * 3


def living_keeper(agent: AgentUnderTest) -> int:
    """The keeper's pid; 0 as long as the agent knows only of one that has been killed."""
    pid = agent.keeper_pids()[0]
    return 0 if has_died(pid) else pid


def test_a_container_that_writes_while_nobody_reads_is_not_held_up(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    """No agent: 5 MB are written to a log of 300 kB, and the container ends."""
    agent = start_agent()
    agent.api(
        "PUT",
        "/mooring/v1/containers/alone",
        {
            "image": "busybox",
            "command": ["sh", "-c", "sleep 0.5; seq 700000; exit 9"],
            "log": {"max_size": "100k", "max_files": 3},
        },
    )
    agent.kill9()
    time.sleep(2)
    agent.start()
    eventually(lambda: view(agent, "alone")["state"] == "exited", 20)
    assert view(agent, "alone")["exit_code"] == 9
    lines = logged(agent, "alone")
    assert lines[-1] == "700000\n"
    numbers = [int(line) for line in lines[1:]]  # the first one may have been cut by rotation
    assert numbers == list(range(numbers[0], 700_001))


def test_reading_a_large_log_holds_nobody_up(agent: AgentUnderTest, declare: Any) -> None:
    declare("large", command=["seq", "2000000"], log={"max_size": "100m", "max_files": 2})
    eventually(lambda: view(agent, "large")["state"] == "exited", 30)
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
        assert logged(agent, "large", "?tail=3") == ["1999998\n", "1999999\n", "2000000\n"]
        assert logged(agent, "large", "?tail=1&follow=true") == ["2000000\n"]
    finally:
        stop.set()
        asking.join()
    delays.sort()
    assert delays[len(delays) // 2] < 0.15
