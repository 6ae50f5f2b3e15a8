# SPDX-License-Identifier: Apache-2.0
"""No wait is for ever: for a keeper that stands still, for processes that ignore what they are told or cannot
hear it, for a stop that was cut off.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import mooring_agent
from harness.agent import AgentUnderTest
from harness.host import cgroup_mounts
from harness.waiting import PATIENCE, eventually

pytestmark = pytest.mark.root

DEAF = {"image": "busybox", "command": ["sh", "-c", "trap '' TERM; echo up; while :; do usleep 50000; done"]}
SLEEPER = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
BOUND = 25.0 * PATIENCE  # seconds within which every request is answered


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def put(agent: AgentUnderTest, name: str, spec: dict[str, Any]) -> None:
    agent.api("PUT", f"/mooring/v1/containers/{name}", spec)


def freezers(agent: AgentUnderTest, name: str) -> list[Path]:
    """The files by which a container's group is frozen, v1 or v2."""
    group = view(agent, name)["cgroup"]
    files = [mount / group / file for mount in cgroup_mounts() for file in ("freezer.state", "cgroup.freeze")]
    return [file for file in files if file.exists()]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_keeper_that_stands_still_is_named_in_time_and_taken_up_again(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    agent = start_agent()
    put(agent, "box", SLEEPER)
    agent.request("POST", "/v1.43/containers/create?name=new", {"Image": "busybox", "Cmd": ["sleep", "3600"]})
    pid = agent.api("GET", "/mooring/v1/host")["keeper"]["pid"]
    calls: list[tuple[str, str, object]] = [
        ("POST", "/v1.43/containers/box/stop?t=0", None),
        ("POST", "/v1.43/containers/box/kill?signal=KILL", None),
    ]
    with stopped(pid), ThreadPoolExecutor(len(calls)) as pool:
        began = time.monotonic()
        answers = [pool.submit(agent.request, *call, timeout=2 * BOUND) for call in calls]
        assert agent.api("GET", "/mooring/v1/containers/box")["state"] == "running"
        for answer in answers:
            found = answer.result()
            assert found.status in (500, 503)
            assert b"keeper" in found.body
        assert time.monotonic() - began < BOUND
    eventually(lambda: agent.request("POST", "/v1.43/containers/new/start").status < 300, 30)
    assert agent.api("DELETE", "/mooring/v1/containers/box")["changed"]
    assert agent.api("DELETE", "/mooring/v1/containers/new?timeout=0")["changed"]


def test_one_that_ignores_what_it_is_told_is_killed(agent: AgentUnderTest) -> None:
    put(agent, "deaf", DEAF)
    began = time.monotonic()
    assert agent.request("POST", "/v1.43/containers/deaf/stop?t=1").status == 204
    assert 1 <= time.monotonic() - began < 6 * PATIENCE
    assert view(agent, "deaf")["exit_code"] == 137
    agent.api("DELETE", "/mooring/v1/containers/deaf")


def test_a_patient_stop_holds_up_no_other(agent: AgentUnderTest) -> None:
    put(agent, "deaf", DEAF)
    with ThreadPoolExecutor(1) as pool:
        patient = pool.submit(agent.request, "POST", "/v1.43/containers/deaf/stop?t=600")
        time.sleep(0.3)
        began = time.monotonic()
        assert agent.request("DELETE", "/v1.43/containers/deaf?force=1").status == 204
        assert time.monotonic() - began < 6 * PATIENCE
        assert patient.result(5 * PATIENCE).status in (204, 404)


def test_a_container_that_somebody_has_frozen_is_stopped(agent: AgentUnderTest) -> None:
    """Its row says that it runs: neither the stop nor the removal may wait for what cannot hear."""
    put(agent, "ice", SLEEPER)
    for file in freezers(agent, "ice"):
        file.write_text("FROZEN" if file.name == "freezer.state" else "1")
    began = time.monotonic()
    assert agent.request("POST", "/v1.43/containers/ice/stop?t=0", timeout=2 * BOUND).status == 204
    assert time.monotonic() - began < BOUND
    assert view(agent, "ice")["exit_code"] == 137
    agent.api("DELETE", "/mooring/v1/containers/ice")


def test_a_stop_that_was_cut_off_can_be_asked_for_again(start_agent: Callable[..., AgentUnderTest]) -> None:
    agent = start_agent()
    put(agent, "deaf", DEAF)
    with ThreadPoolExecutor(1) as pool:
        cut = pool.submit(agent.request, "POST", "/v1.43/containers/deaf/stop?t=600")
        time.sleep(0.3)
        agent.kill9()
        assert isinstance(cut.exception(5 * PATIENCE), OSError)
    agent.start()
    assert view(agent, "deaf")["state"] == "running"
    assert agent.request("POST", "/v1.43/containers/deaf/stop?t=0").status == 204
    assert view(agent, "deaf")["state"] == "exited"


def test_an_agent_of_other_code_brings_the_keeper_to_it(
    start_agent: Callable[..., AgentUnderTest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent is upgraded, and the keeper with it, under a container that writes all the time."""
    code = tmp_path / "mooring_agent"
    shutil.copytree(Path(mooring_agent.__file__).parent, code, ignore=shutil.ignore_patterns("__pycache__"))
    init = code / "__init__.py"
    init.write_text(init.read_text().replace(f'"{mooring_agent.__version__}"', '"99.0.0"'))
    agent = start_agent()
    until = "while [ $i -lt 1000 ] || [ ! -e /over ]"  # it outlasts both changes, however slow those are
    script = f"i=0; {until}; do echo $i; i=$((i+1)); usleep 3000; done; echo $i in all; exit 9"
    put(agent, "writer", {"image": "busybox", "command": ["sh", "-c", script]})
    before = agent.api("GET", "/mooring/v1/host")["keeper"]
    agent.terminate()
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    agent.start()
    after = agent.api("GET", "/mooring/v1/host")["keeper"]
    assert (before["version"], after["version"]) == (mooring_agent.__version__, "99.0.0")
    assert (after["pid"], after["guardian_pid"]) == (before["pid"], before["guardian_pid"])
    monkeypatch.undo()
    agent.restart()
    assert agent.api("GET", "/mooring/v1/host")["keeper"] == before
    agent.api("POST", "/mooring/v1/containers/writer/exec", {"argv": ["touch", "/over"]})
    found = eventually(lambda: (one := view(agent, "writer"))["state"] == "exited" and one, 30)
    assert (found["exit_code"], found["exit_known"]) == (9, True)
    *lines, last = [line["data"] for line in agent.stream("GET", "/mooring/v1/containers/writer/logs")]
    assert lines == [f"{number}\n" for number in range(len(lines))]
    assert len(lines) >= 1000
    assert last == f"{len(lines)} in all\n"
