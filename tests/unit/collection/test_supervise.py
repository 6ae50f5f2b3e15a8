# SPDX-License-Identifier: Apache-2.0
"""The supervisor of hosts without systemd: one program, kept running, ended when asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import eventually

SUPERVISE = Path(__file__).parents[3] / "collection" / "roles" / "agent" / "files" / "supervise.py"


class Supervised:
    """A program under a supervisor, which writes its pids to a file."""

    def __init__(self, directory: Path, script: str) -> None:
        self.directory = directory
        self.pids_file = directory / "pids"
        self.pids_file.touch()
        self.log = directory / "log"
        self.config = directory / "config.json"
        self.config.write_text(
            json.dumps(
                {
                    "command": ["sh", "-c", f"echo $$ >>{self.pids_file}; {script}"],
                    "pid_file": str(directory / "run" / "pid"),
                    "log_file": str(self.log),
                }
            )
        )

    def __call__(self, action: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-I", SUPERVISE, action, self.config]
        return subprocess.run(command, capture_output=True, text=True, timeout=70, check=False)

    def pids(self, number: int = 1) -> list[int]:
        """Return the pids of all programs that were started, at least so many."""
        read = lambda: [int(line) for line in self.pids_file.read_text().splitlines()]  # noqa: E731
        eventually(lambda: len(read()) >= number)
        return read()


@pytest.fixture
def supervised(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path, getattr(request, "param", "exec sleep 300"))
    yield supervised
    supervised("stop")


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def answer(done: subprocess.CompletedProcess[str]) -> tuple[int, Any]:
    return done.returncode, done.stdout.strip()


def test_it_is_started_once_and_stopped(supervised: Supervised) -> None:
    assert answer(supervised("status")) == (3, "stopped")
    assert answer(supervised("start")) == (0, "started")
    assert answer(supervised("start")) == (0, "running")
    assert supervised("status").stdout.startswith("running as process ")
    (pid,) = supervised.pids()

    assert supervised("stop").returncode == 0

    assert not lives(pid)
    assert answer(supervised("status")) == (3, "stopped")
    assert supervised("stop").returncode == 0


def test_a_restart_right_after_a_start_loses_no_program(supervised: Supervised) -> None:
    for _ in range(5):
        supervised("start")
        assert supervised("restart").stdout.strip() == "started"

    assert supervised("status").returncode == 0
    # A program that has just been started has yet to write its pid.
    eventually(lambda: [lives(pid) for pid in supervised.pids()][-1])
    assert sum(lives(pid) for pid in supervised.pids()) == 1


def test_a_program_that_fails_is_started_again(supervised: Supervised) -> None:
    supervised("start")
    os.kill(supervised.pids()[0], signal.SIGKILL)

    first, second = supervised.pids(2)

    assert not lives(first)
    assert lives(second)
    assert "sh ended with -9, starting it again in 1 s" in supervised.log.read_text()


@pytest.mark.parametrize("supervised", ["exit 0"], indirect=True)
def test_a_program_that_was_meant_to_end_is_not_started_again(supervised: Supervised) -> None:
    supervised("start")

    eventually(lambda: supervised("status").returncode == 3)

    assert len(supervised.pids()) == 1


def test_a_log_that_was_removed_leaves_the_program_supervised(supervised: Supervised) -> None:
    supervised("start")
    supervised.pids()
    supervised.log.unlink()
    os.kill(int((supervised.directory / "run" / "pid").read_text()), signal.SIGCHLD)

    os.kill(supervised.pids()[0], signal.SIGKILL)

    assert len(supervised.pids(2)) == 2


def test_a_command_line_that_is_none(supervised: Supervised) -> None:
    done = supervised("begin")

    assert done.returncode == 2
    assert "start|restart|stop|status CONFIG" in done.stderr
