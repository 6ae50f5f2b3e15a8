# SPDX-License-Identifier: Apache-2.0
"""The memory controller, version 1 (Documentation/admin-guide/cgroup-v1/memory.rst)."""

from __future__ import annotations

import errno
import mmap
from typing import Any

from ...errors import Conflict, MooringError, NotSupported
from ..controller import Contents, Refusal
from ..interface import flat_keyed
from ..resources import UNLIMITED, Resources, Setting, describe_bytes

NAME = "memory"
LIMIT = "memory.limit_in_bytes"
SWAP_LIMIT = "memory.memsw.limit_in_bytes"
SOFT_LIMIT = "memory.soft_limit_in_bytes"
USAGE = "memory.usage_in_bytes"
SWAP_USAGE = "memory.memsw.usage_in_bytes"
SWAPPINESS = "memory.swappiness"
OOM_CONTROL = "memory.oom_control"
FILES = (LIMIT, SWAP_LIMIT, SOFT_LIMIT, USAGE, SWAP_USAGE, SWAPPINESS, OOM_CONTROL)

# "No limit" reads as LONG_MAX rounded down to a page, whose size differs (PAGE_COUNTER_MAX,
# include/linux/page_counter.h).
_NO_LIMIT = (1 << 63) - (1 << 21)


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group: both limits are open, so memory goes first and memory and swap together second."""
    wanted = (
        (LIMIT, resources.memory),
        (SWAP_LIMIT, resources.memory_swap),
        (SOFT_LIMIT, resources.memory_reservation),
    )
    limits = [
        Setting(NAME, file, str(value)) for file, value in wanted if value is not None and value != UNLIMITED
    ]
    if resources.memory_swappiness is not None:
        limits.append(Setting(NAME, SWAPPINESS, str(resources.memory_swappiness)))
    if resources.oom_kill_disable:
        limits.append(Setting(NAME, OOM_CONTROL, "1"))
    return tuple(limits)


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """Limits in the order that keeps `memory ≤ memory and swap` true after every single write
    (moby#39541)."""
    if SWAP_LIMIT not in contents and resources.memory_swap not in (None, UNLIMITED):
        raise swap_not_accounted()
    memory, swap = resources.memory, resources.memory_swap
    ordered = [(LIMIT, memory), (SWAP_LIMIT, swap)]
    if SWAP_LIMIT in contents and _value(memory) > int(contents[SWAP_LIMIT]):
        ordered.reverse()
    ordered.append((SOFT_LIMIT, resources.memory_reservation))
    limits = [
        Setting(NAME, file, str(UNLIMITED if value is None else value))
        for file, value in ordered
        if file in contents and _pages(_value(value)) != _pages(int(contents[file]))
    ]
    swappiness = (
        parent.get(SWAPPINESS) if resources.memory_swappiness is None else resources.memory_swappiness
    )
    if swappiness is not None and SWAPPINESS in contents and contents[SWAPPINESS] != str(swappiness):
        limits.append(Setting(NAME, SWAPPINESS, str(swappiness)))
    if OOM_CONTROL in contents and resources.oom_kill_disable != _kills_not(contents):
        # The group has a limit as long as its processes wait instead of being killed.
        wanted = Setting(
            NAME, OOM_CONTROL, str(int(resources.oom_kill_disable)), undo=str(int(_kills_not(contents)))
        )
        limits.insert(len(limits) if resources.oom_kill_disable else 0, wanted)
    return tuple(limits)


def parse(contents: Contents) -> dict[str, Any]:
    """Limits in bytes; None for none."""
    swappiness = contents.get(SWAPPINESS)
    return {
        "memory_swappiness": None if swappiness is None else int(swappiness),
        "oom_kill_disable": _kills_not(contents),
    } | {
        field: None if file not in contents or int(contents[file]) >= _NO_LIMIT else int(contents[file])
        for field, file in (
            ("memory", LIMIT),
            ("memory_swap", SWAP_LIMIT),
            ("memory_reservation", SOFT_LIMIT),
        )
    }


def explain(refusal: Refusal) -> MooringError:
    """EBUSY is the kernel's word for "more than that is in use and cannot be freed"."""
    if refusal.errno != errno.EBUSY or refusal.setting.file not in (LIMIT, SWAP_LIMIT):
        return refusal.error()
    combined = refusal.setting.file == SWAP_LIMIT
    return below_usage(
        refusal.group,
        "memory_swap" if combined else "memory",
        int(refusal.setting.value),
        int(refusal.contents.get(SWAP_USAGE if combined else USAGE, "0")),
    )


def below_usage(group: str, field: str, limit: int, usage: int) -> Conflict:
    """The error for a limit that is smaller than what the group holds; names both."""
    return Conflict(
        f"{field} {describe_bytes(limit)} of group {group} is below the {describe_bytes(usage)} in use "
        "that cannot be freed; choose a larger limit or end processes in the group first"
    )


def swap_not_accounted() -> NotSupported:
    """The error for memory_swap on a kernel that does not count swap."""
    return NotSupported(
        "memory_swap was asked for, but this kernel does not account swap to groups (it needs CONFIG_MEMCG "
        "with CONFIG_SWAP, and swapaccount=1 on the command line of kernels before 6.0); leave memory_swap "
        "out or boot such a kernel"
    )


def _kills_not(contents: Contents) -> bool:
    return flat_keyed(contents.get(OOM_CONTROL, "")).get("oom_kill_disable") == 1


def _value(limit: int | None) -> int:
    return (1 << 63) - 1 if limit is None or limit == UNLIMITED else limit


def _pages(limit: int) -> int:
    """The kernel counts in pages and rounds down; all values beyond its largest are one."""
    return min(limit, _NO_LIMIT) // mmap.PAGESIZE
