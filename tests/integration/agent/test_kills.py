# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of any process of Mooring: containers run on, no line is lost, and the exit code is known
afterwards.
"""

from __future__ import annotations

import json
import os
import platform
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually, has_died

pytestmark = pytest.mark.root

COUNT = 60  # tenths of a second: an agent has to be back before it ends, however slow the machine
TICKER = {
    "image": "busybox",
    "command": [
        "sh",
        "-c",
        f"i=0; while [ $i -lt {COUNT} ]; do echo $i; i=$((i+1)); sleep 0.1; done; exit 7",
    ],
}
SLEEPER = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}
Kill = Callable[[AgentUnderTest], None]


def kill_agent(agent: AgentUnderTest) -> None:
    agent.kill9()


def kill_keeper(agent: AgentUnderTest) -> None:
    os.kill(keeper(agent)["pid"], signal.SIGKILL)


def kill_both(agent: AgentUnderTest) -> None:
    pid = keeper(agent)["pid"]
    agent.kill9()
    os.kill(pid, signal.SIGKILL)


def kill_both_and_the_guardian(agent: AgentUnderTest) -> None:
    pids = keeper(agent)
    agent.kill9()
    os.kill(pids["guardian_pid"], signal.SIGKILL)
    os.kill(pids["pid"], signal.SIGKILL)


def keeper(agent: AgentUnderTest) -> dict[str, int]:
    found: dict[str, int] = agent.api("GET", "/mooring/v1/host")["keeper"]
    return found


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def lines(agent: AgentUnderTest, name: str) -> list[str]:
    return [line["data"] for line in agent.stream("GET", f"/mooring/v1/containers/{name}/logs")]


def ended(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    return eventually(lambda: (found := view(agent, name))["state"] == "exited" and found, 30, f"{name} ends")


def answers(agent: AgentUnderTest, name: str) -> bool:
    done = agent.request("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["echo", "here"]})
    return done.status == 200 and done.json()["stdout"] == "here\n"


@pytest.mark.parametrize("kill", [kill_agent, kill_keeper, kill_both], ids=lambda kill: kill.__name__)
def test_a_talking_container_loses_no_line_and_its_exit_code_is_known(
    start_agent: Callable[..., AgentUnderTest], kill: Kill
) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/ticker", TICKER)
    agent.api("PUT", "/mooring/v1/containers/other", SLEEPER)
    other = view(agent, "other")["pid"]
    eventually(lambda: len(lines(agent, "ticker")) > 3, what="the first lines")
    kill(agent)
    revive(agent)
    found = ended(agent, "ticker")
    assert (found["exit_code"], found["exit_known"]) == (7, True)
    assert lines(agent, "ticker") == [f"{number}\n" for number in range(COUNT)]
    assert view(agent, "other")["pid"] == other
    eventually(lambda: answers(agent, "other"), what="exec")


def test_with_the_guardian_killed_too_a_running_container_goes_on(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/ticker", TICKER)
    eventually(lambda: len(lines(agent, "ticker")) > 3, what="the first lines")
    kill_both_and_the_guardian(agent)
    revive(agent)
    found = ended(agent, "ticker")
    assert lines(agent, "ticker") == [f"{number}\n" for number in range(COUNT)]
    # Nobody of Mooring is its parent any more: since Linux 6.15 the kernel tells whatever happens, and before
    # it can be seen until init reaps the process.
    expected = [(7, True)] if kernel_version() >= (6, 15) else [(7, True), (255, False)]
    assert (found["exit_code"], found["exit_known"]) in expected


def test_a_guardian_that_was_killed_is_nobody_else(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/other", SLEEPER)
    before = keeper(agent)
    os.kill(before["guardian_pid"], signal.SIGKILL)
    eventually(lambda: has_died(before["guardian_pid"]), what="the guardian's end")
    agent.restart()
    after = keeper(agent)
    assert (after["pid"], after["guardian_pid"]) == (before["pid"], None)


def test_an_end_while_nobody_of_mooring_lives_is_known_afterwards(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    agent = start_agent()
    agent.api(
        "PUT",
        "/mooring/v1/containers/ticker",
        {**TICKER, "command": ["sh", "-c", "sleep 1; echo late; exit 7"]},
    )
    agent.kill9()
    pid = view_pid(agent)
    eventually(lambda: not alive(pid), what="the end of the container")
    agent.start()
    found = ended(agent, "ticker")
    assert (found["exit_code"], found["exit_known"]) == (7, True)
    assert lines(agent, "ticker") == ["late\n"]


def test_a_stop_after_a_kill_works_and_leaves_nothing(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    for number in range(3):
        agent.api("PUT", f"/mooring/v1/containers/c{number}", SLEEPER)
    kill_both(agent)
    revive(agent)
    for number in range(3):
        assert agent.api("DELETE", f"/mooring/v1/containers/c{number}")["changed"]
    assert agent.api("GET", "/mooring/v1/containers") == []
    assert os.listdir(agent.config.data_root / "containers") == []


def test_a_terminal_outlives_its_keeper(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    agent.api(
        "PUT",
        "/mooring/v1/containers/tty",
        {**TICKER, "tty": True, "interactive": True},
    )
    eventually(lambda: len(lines(agent, "tty")) > 3, what="the first lines")
    kill_keeper(agent)
    found = ended(agent, "tty")
    assert (found["exit_code"], found["exit_known"]) == (7, True)
    assert lines(agent, "tty") == [f"{number}\r\n" for number in range(COUNT)]


def test_a_replacement_cut_off_leaves_one_container_running(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    """The kill comes at any moment of the replacement; the declared name runs afterwards, old or new."""
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/web", SLEEPER)
    for attempt in range(4):
        spec = {**SLEEPER, "env": {"ATTEMPT": str(attempt)}}
        with ThreadPoolExecutor(1) as pool:
            request = pool.submit(agent.request, "PUT", "/mooring/v1/containers/web", spec)
            wait([request], timeout=attempt * 0.02)
            agent.kill9()
            request.exception(10)  # whether it was answered in time is chance
        revive(agent)
        eventually(lambda: view(agent, "web")["state"] == "running", what="web runs")
        eventually(
            lambda: [each["name"] for each in agent.api("GET", "/mooring/v1/containers")] == ["web"],
            what="web alone is left",
        )


def view_pid(agent: AgentUnderTest) -> int:
    """The pid of the only container, from the keeper's journal: the agent is dead."""
    records = list((agent.config.run_root / "keeper/records").glob("*.json"))
    return int(json.loads(records[0].read_text())["pid"])


def kernel_version() -> tuple[int, int]:
    major, minor = platform.release().split(".")[:2]
    return int(major), int(minor)


def alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def revive(agent: AgentUnderTest) -> None:
    """Start the agent if it has been killed; a killed keeper comes back by itself."""
    if agent.process is None or agent.process.poll() is not None:
        agent.start()
