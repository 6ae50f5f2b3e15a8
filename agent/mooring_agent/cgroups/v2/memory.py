# SPDX-License-Identifier: Apache-2.0
"""The memory controller, version 2 (Documentation/admin-guide/cgroup-v2.rst, "Memory Interface Files")."""

from __future__ import annotations

import mmap
from typing import Any

from ...errors import MooringError
from .. import interface
from ..controller import Contents, Refusal
from ..resources import UNLIMITED, Resources, Setting
from ..v1.memory import below_usage, swap_not_accounted

NAME = "memory"
MAX = "memory.max"
HIGH = "memory.high"
LOW = "memory.low"
SWAP_MAX = "memory.swap.max"
CURRENT = "memory.current"
FILES = (MAX, HIGH, LOW, SWAP_MAX, CURRENT)


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group."""
    wanted: list[Setting] = []
    swap, limit, low = (
        swap_max(resources),
        _limit(resources.memory),
        _protection(resources.memory_reservation),
    )
    if swap != "max":
        wanted.append(Setting(NAME, SWAP_MAX, swap))
    if limit != "max":
        wanted.append(Setting(NAME, MAX, limit))
    if low != "0":
        wanted.append(Setting(NAME, LOW, low))
    return tuple(wanted)


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """More swap comes before a change of the limit and less comes after it, so that what is pushed out finds
    room."""
    swap = swap_max(resources)
    if SWAP_MAX not in contents and swap != "max":
        raise swap_not_accounted()
    ordered = [(MAX, _limit(resources.memory)), (LOW, _protection(resources.memory_reservation))]
    if SWAP_MAX in contents:
        ordered.insert(0 if _number(swap) > _number(contents[SWAP_MAX]) else 1, (SWAP_MAX, swap))
    return tuple(
        Setting(NAME, file, value)
        for file, value in ordered
        if file in contents and _number(value) // mmap.PAGESIZE != _number(contents[file]) // mmap.PAGESIZE
    )


def parse(contents: Contents) -> dict[str, Any]:
    """Limits in bytes, swap counted as memory and swap together; None for none."""
    limit, swap = contents.get(MAX, "max"), contents.get(SWAP_MAX, "max")
    low = int(contents.get(LOW, "0").replace("max", "0"))
    return {
        "memory": None if limit == "max" else int(limit),
        "memory_swap": None if "max" in (limit, swap) else int(limit) + int(swap),
        "memory_reservation": low or None,
    }


def explain(refusal: Refusal) -> MooringError:
    """Version 2 takes every value; one below the usage is refused before it is written (see `lower`)."""
    return refusal.error()


def swap_max(resources: Resources) -> str:
    """Version 2 counts swap alone; Docker's `memory_swap` is memory and swap together."""
    memory, combined = resources.memory, resources.memory_swap
    if memory is None or combined is None or UNLIMITED in (memory, combined):
        return "max"
    return str(combined - memory)


def lower(directory: str, group: str, limit: int, contents: Contents) -> None:
    """Make room for a limit below the usage, or raise Conflict with both numbers and leave everything as it
    was.

    The kernel would take the limit and kill processes until it holds. `memory.high` makes it free what can be
    freed and harms nobody, so that one is lowered first, for a look at what remains.
    """
    if int(contents[CURRENT]) <= limit:
        return
    before = contents.get(HIGH, "max")
    interface.write(f"{directory}/{HIGH}", str(limit))
    try:
        usage = int(interface.read(f"{directory}/{CURRENT}"))
    finally:
        interface.write(f"{directory}/{HIGH}", before)
    if usage > limit:
        raise below_usage(group, "memory", limit, usage)


def _limit(value: int | None) -> str:
    return "max" if value is None or value == UNLIMITED else str(value)


def _protection(value: int | None) -> str:
    return "0" if value is None or value == UNLIMITED else str(value)


def _number(value: str) -> int:
    return 1 << 63 if value == "max" else int(value)
