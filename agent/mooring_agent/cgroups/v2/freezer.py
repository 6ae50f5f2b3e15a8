# SPDX-License-Identifier: Apache-2.0
"""The freezer, version 2: part of the core, in every group but the root (cgroup-v2.rst, "Core Interface
Files"; Linux 5.2)."""

from __future__ import annotations

from ...errors import Conflict, Unavailable
from .. import interface

NAME = "freezer"
FREEZE = "cgroup.freeze"
EVENTS = "cgroup.events"


def freeze(directory: str, group: str, deadline_s: float) -> None:
    """Stop every task in the group and below it; back when all stand still. Unavailable, and thawed again,
    after the deadline."""
    interface.write(f"{directory}/{FREEZE}", "1")
    if not interface.wait_until(lambda: is_frozen(directory), deadline_s):
        interface.write(f"{directory}/{FREEZE}", "0")
        raise Unavailable(
            f"group {group} did not freeze within {deadline_s:g} s, most likely a process in it waits for "
            "the disk or the network without being interruptible; it was thawed again, try later"
        )


def thaw(directory: str, group: str, deadline_s: float) -> None:
    """Let the group run on. Conflict when it stays frozen because a group above it is."""
    interface.write(f"{directory}/{FREEZE}", "0")
    if not interface.wait_until(lambda: not is_frozen(directory), deadline_s):
        raise Conflict(f"group {group} stays frozen because a group above it is frozen; thaw that one")


def is_frozen(directory: str) -> bool:
    """Whether every task stands still, because of this group or of one above it."""
    return interface.flat_keyed(interface.read(f"{directory}/{EVENTS}")).get("frozen") == 1
