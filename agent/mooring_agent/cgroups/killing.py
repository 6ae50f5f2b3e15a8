# SPDX-License-Identifier: Apache-2.0
"""SIGKILL for a whole group, also for one whose processes fork faster than they can be listed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from . import interface, tree
from .v1 import freezer as v1_freezer
from .v2 import freezer as v2_freezer

_KILL = "cgroup.kill"  # Linux 5.14
_STILL_S = 0.2  # how long processes may take to stand still once none is new
_ROUND_S = 5.0  # the longest that is looked for new ones before those that were signalled are let die
_AGAIN_S = 0.25  # after which it is looked for what a first round has missed

Freezer = tuple[str, int]
"""The directory with which a group can be frozen, and the version of its hierarchy."""
Processes = Callable[[], Collection[int]]
"""Lists the processes of a group, and of those inside it, as they are now."""


def empty(freezer: Freezer | None, processes: Processes, deadline_s: float) -> bool:
    """kill() until nothing is left (True) or the seconds are over (False). Raises OSError."""
    end = time.monotonic() + deadline_s
    patience = _AGAIN_S
    while True:
        # Not looked at before: a list of those who fork all the time takes the kernel seconds.
        kill(freezer, processes)
        left = end - time.monotonic()
        if interface.wait_until(lambda: not processes(), max(0.0, min(patience, left))):
            return True
        if left <= 0:
            return False
        # What is frozen anew ends later: so the rounds are ever further apart.
        patience *= 2


def kill(freezer: Freezer | None, processes: Processes) -> None:
    """Signal each process, and those that they fork meanwhile; afterwards nothing stands still any more.

    Back when all have been signalled, not when they have ended. Where there is no freezer, or a process hangs
    in the kernel, one that was just being forked may be left: empty() looks, and goes on. Raises OSError, not
    for a group that is not there.
    """
    if freezer is None:
        _signal(processes(), set())
        return
    directory, version = freezer
    try:
        if version == 1:
            _kill_standing(processes, f"{directory}/{v1_freezer.STATE}", "FROZEN", v1_freezer.is_frozen)
        elif not _kill_at_once(directory):
            _kill_standing(processes, f"{directory}/{v2_freezer.FREEZE}", "1", v2_freezer.is_frozen)
    except OSError as error:
        if error.errno not in interface.GONE:
            raise
    finally:
        _thaw(directory, version)


def _kill_at_once(directory: str) -> bool:
    """Let the kernel kill the whole tree. False where it cannot."""
    return interface.write_if_there(f"{directory}/{_KILL}", "1") or not os.path.isdir(directory)


def _kill_standing(processes: Processes, file: str, value: str, is_frozen: Callable[[str], bool]) -> None:
    """Signal what stands still or is about to: it neither forks nor frees its number for another process.

    Whoever is to be frozen has its fork interrupted, and a child that was being made is to be frozen too. It
    may be missing from the list that was just read, even with the state at FROZEN: so look until nobody is
    new. Written again at each look, because a fork can leave version 1 at FREEZING for good.
    """
    directory = os.path.dirname(file)
    signalled: set[int] = set()
    over = time.monotonic() + _ROUND_S
    still_by: float | None = None
    while (now := time.monotonic()) < over:
        interface.write(file, value)
        if _signal(processes(), signalled):
            still_by = None
            continue
        still_by = still_by or now + _STILL_S
        if now >= still_by or is_frozen(directory):
            return
        time.sleep(0.001)


def _signal(processes: Collection[int], signalled: set[int]) -> bool:
    """Signal those that have not been, and add them. Whether there was one."""
    new = set(processes) - signalled
    for pid in new:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    signalled |= new
    return bool(new)


def _thaw(directory: str, version: int) -> None:
    """Let the group and those inside it run, whoever froze them: what is frozen does not end."""
    file, value = (v1_freezer.STATE, "THAWED") if version == 1 else (v2_freezer.FREEZE, "0")
    for path in ("", *(f"/{inside}" for inside in tree.descendants(directory))):
        interface.write_if_there(f"{directory}{path}/{file}", value)
