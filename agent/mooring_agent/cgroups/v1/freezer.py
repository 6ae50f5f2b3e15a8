# SPDX-License-Identifier: Apache-2.0
"""The freezer, version 1 (Documentation/admin-guide/cgroup-v1/freezer-subsystem.rst)."""

from __future__ import annotations

import time

from ...errors import Conflict, Unavailable
from .. import interface

NAME = "freezer"
STATE = "freezer.state"
PARENT_FREEZING = "freezer.parent_freezing"


def freeze(directory: str, group: str, deadline_s: float) -> None:
    """Stop every task in the group and below it; back when all stand still. Unavailable, and thawed again,
    after the deadline.

    FROZEN is written again at each look: a task that forks or joins meanwhile can leave the state at FREEZING
    for good.
    """
    end = time.monotonic() + deadline_s
    pause = 0.0002
    while True:
        interface.write(f"{directory}/{STATE}", "FROZEN")
        if interface.read(f"{directory}/{STATE}") == "FROZEN":
            return
        if time.monotonic() >= end:
            interface.write(f"{directory}/{STATE}", "THAWED")
            raise Unavailable(
                f"group {group} did not freeze within {deadline_s:g} s, most likely a process in it waits "
                "for the disk or the network without being interruptible; it was thawed again, try later"
            )
        time.sleep(pause)
        pause = min(pause * 1.5, 0.01)


def thaw(directory: str, group: str, deadline_s: float) -> None:
    """Let the group run on. Conflict when it stays frozen because a group above it is."""
    interface.write(f"{directory}/{STATE}", "THAWED")
    if interface.read(f"{directory}/{STATE}") == "THAWED":
        return
    if interface.read(f"{directory}/{PARENT_FREEZING}") == "1":
        raise Conflict(f"group {group} stays frozen because a group above it is frozen; thaw that one")
    if not interface.wait_until(lambda: interface.read(f"{directory}/{STATE}") == "THAWED", deadline_s):
        raise Unavailable(f"group {group} did not thaw within {deadline_s:g} s, expected at once; try again")


def is_frozen(directory: str) -> bool:
    """Whether every task stands still, because of this group or of one above it."""
    return interface.read(f"{directory}/{STATE}") == "FROZEN"
