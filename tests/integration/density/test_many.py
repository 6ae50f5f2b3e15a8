# SPDX-License-Identifier: Apache-2.0
"""Many containers on one host: what each of them costs; that all can be reached, kept and removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.processes import open_files, resident_memory
from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually

pytestmark = pytest.mark.root

COUNT = 100
# Two pipes each, which keeper and guardian have open; what agent and keeper grow by is 12 KiB or so.
_DESCRIPTORS_EACH = 2
_MEMORY_EACH = 64 << 10
_SPEC = {"image": "busybox", "command": ["sleep", "86400"], "networks": ["none"], "stop_timeout": 0}


def _names(count: int) -> list[str]:
    return [f"many{number}" for number in range(count)]


def _start_all(agent: AgentUnderTest) -> None:
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: agent.api("PUT", f"/mooring/v1/containers/{name}", _SPEC), _names(COUNT)))


def _threads(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))


def _run(agent: AgentUnderTest, name: str) -> int:
    done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["true"]})
    code: int = done["exit_code"]
    return code


def test_many_containers_cost_little_outlive_their_keeper_and_leave_nothing(
    start_agent: Callable[..., AgentUnderTest],
) -> None:
    # Given an agent that has done everything once
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/first", _SPEC)
    host = agent.api("GET", "/mooring/v1/host")
    keeper = host["keeper"]["pid"]
    daemons = [host["agent"]["pid"], keeper, host["keeper"]["guardian_pid"]]
    before = [open_files(pid) for pid in daemons]
    memory = resident_memory(daemons)

    # When it gets many containers
    _start_all(agent)

    # Then each has cost two descriptors of keeper and guardian, some memory, and no thread or process
    grown = [open_files(pid) - files for pid, files in zip(daemons, before, strict=True)]
    assert grown[0] < COUNT / 2, "the agent holds descriptors of containers"
    assert max(grown[1:]) < _DESCRIPTORS_EACH * COUNT + COUNT / 2
    assert resident_memory(daemons) - memory < _MEMORY_EACH * COUNT
    assert _threads(keeper) == 1
    assert _threads(daemons[0]) < COUNT / 2

    # When the keeper is killed
    os.kill(keeper, signal.SIGKILL)

    # Then all of them go on below the next one, and can be reached
    eventually(lambda: agent.keeper_pids()[0] != keeper, 30, "the next keeper")
    views = agent.api("GET", "/mooring/v1/containers")
    assert [view["state"] for view in views] == ["running"] * (COUNT + 1)
    assert [_run(agent, name) for name in _names(COUNT)[::20]] == [0] * 5

    # When the host is torn down
    assert agent.process is not None
    command = [sys.executable, "-m", "mooring_agent", "--socket", str(agent.socket), "system", "down"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as down:
        assert agent.process.wait(60 * PATIENCE) == 0
        agent.process = None
        assert down.wait(30 * PATIENCE) == 0

    # Then nothing is left, in the kernel or on disk
    assert agent.traces.wait_until_gone(10) == []
    assert _entries(agent.config.data_root / "containers") == []
    assert _entries(agent.config.run_root / "keeper/records") == []
    assert _entries(agent.config.run_root / "keeper/pipes") == []


def _entries(directory: Path) -> list[str]:
    return sorted(os.listdir(directory))
