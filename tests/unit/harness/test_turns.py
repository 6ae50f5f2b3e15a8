# SPDX-License-Identifier: Apache-2.0
"""A test marked `alone` runs while no other does, and is not kept waiting by those that come after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest

from harness.turns import NoTurn, Turns
from harness.waiting import eventually


def waiting(turns: Turns, alone: bool, pool: ThreadPoolExecutor) -> Callable[[], bool]:
    """Ask for a turn in another thread, and return whether it has had it."""
    had = Event()

    def ask() -> None:
        with turns.turn(alone=alone):
            had.set()

    pool.submit(ask)
    return had.is_set


def blocked_on_locks(count: int) -> bool:
    """Whether as many threads of this process wait in flock(2), proc_locks(5)."""
    lines = Path("/proc/locks").read_text().splitlines()
    return sum("->" in line and f" {os.getpid()} " in line for line in lines) >= count


def test_many_run_together_and_one_alone(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    with ThreadPoolExecutor() as pool:
        with turns.turn(alone=False):
            together = waiting(turns, False, pool)
            eventually(together)
            alone = waiting(turns, True, pool)
            eventually(lambda: blocked_on_locks(1))
            assert not alone()
        eventually(alone)


def test_who_waits_to_be_alone_is_next(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    with ThreadPoolExecutor() as pool:
        with turns.turn(alone=False):
            alone = waiting(turns, True, pool)
            eventually(lambda: blocked_on_locks(1))
            later = waiting(turns, False, pool)
            eventually(lambda: blocked_on_locks(2))
            assert not alone()
            assert not later()
        eventually(alone)
        eventually(later)


def test_nobody_joins_who_is_alone(tmp_path: Path) -> None:
    turns = Turns(tmp_path)
    with ThreadPoolExecutor() as pool:
        with turns.turn(alone=True):
            other = waiting(turns, False, pool)
            eventually(lambda: blocked_on_locks(1))
            assert not other()
        eventually(other)


def test_who_gets_no_turn_is_told_who_has_it(tmp_path: Path) -> None:
    with Turns(tmp_path).turn(alone=False):
        told = pytest.raises(NoTurn, match=rf"room is held by the processes \[{os.getpid()}\]")
        with told, Turns(tmp_path, 0.1).turn(alone=True):
            pass
        with Turns(tmp_path).turn(alone=False):  # the gate is open again
            pass
