# SPDX-License-Identifier: Apache-2.0
"""What an agent does while nobody asks for anything: nothing."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker]

_WATCHED = 3.0  # seconds


def _wakeups(pid: int) -> int:
    """How often the threads of a process have gone to sleep of their own accord, proc_pid_status(5)."""
    count = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        fields = dict(line.split(":\t") for line in status.read_text().splitlines() if ":\t" in line)
        count += int(fields["voluntary_ctxt_switches"])
    return count


def test_daemons_sleep_while_nobody_asks(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--network", "none", "--name", "sleeps", "busybox", "sleep", "600")
    assert agent.process is not None
    daemons = [agent.process.pid, *agent.keeper_pids()]

    def slept() -> bool:
        before = [_wakeups(pid) for pid in daemons]
        time.sleep(_WATCHED)  # nothing tells that nothing happens
        return [_wakeups(pid) for pid in daemons] == before

    eventually(slept, timeout=30.0, what="daemons that sleep")
