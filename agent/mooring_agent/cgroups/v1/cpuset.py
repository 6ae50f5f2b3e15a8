# SPDX-License-Identifier: Apache-2.0
"""The cpuset controller, version 1 (Documentation/admin-guide/cgroup-v1/cpusets.rst).

A group of version 1 starts with no CPU and no memory node and takes no process until it has both.
`v1/tree.py` gives a new group its parent's; here are the changes.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from ...errors import Conflict, MooringError
from ..controller import Contents, Refusal
from ..cpulist import format_cpulist, parse_cpulist
from ..resources import Resources, Setting

NAME = "cpuset"
CPUS = "cpuset.cpus"
MEMS = "cpuset.mems"
FILES = (CPUS, MEMS)
_FIELDS = (("cpuset_cpus", CPUS), ("cpuset_mems", MEMS))


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group, which has its parent's CPUs and nodes already."""
    return tuple(
        Setting(NAME, file, getattr(resources, field))
        for field, file in _FIELDS
        if getattr(resources, field) is not None
    )


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """What is not stated is the parent's."""
    wanted: list[Setting] = []
    for field, file in _FIELDS:
        value = getattr(resources, field)
        if value is None:
            value = parent.get(file, "")
        if parse_cpulist(value) != parse_cpulist(contents.get(file, "")):
            wanted.append(Setting(NAME, file, value))
    return tuple(wanted)


def parse(contents: Contents) -> dict[str, Any]:
    """The lists as the kernel prints them."""
    return {field: contents.get(file) or None for field, file in _FIELDS}


def explain(refusal: Refusal) -> MooringError:
    """EINVAL and EACCES: not within the parent's; EBUSY: a group inside needs what is to be taken away."""
    field = "cpuset_cpus" if refusal.setting.file == CPUS else "cpuset_mems"
    if refusal.errno in (errno.EINVAL, errno.EACCES, errno.ERANGE):
        return Conflict(
            f'{field} "{refusal.setting.value}" of group {refusal.group} is not within '
            f'"{refusal.parent.get(refusal.setting.file, "")}", all that its parent group has; choose of '
            "those"
        )
    if refusal.errno == errno.EBUSY:
        return Conflict(
            f'{field} "{refusal.setting.value}" of group {refusal.group} leaves out some that a group '
            "inside it was given; "
            "change those inside first"
        )
    return refusal.error()


def cascade(old: str, new: str, inside: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The writes that take a group's list from `old` to `new` while groups live inside it.

    `inside` maps each descendant's path relative to the group, parents before their children, to its list.
    The kernel wants every child within its parent after every write. A descendant that has all of its
    parent's follows the change; one that was given a list of its own keeps it (and the kernel refuses the
    change if that no longer fits). Answers (path, list) in order; "" is the group itself.
    """
    before, after = parse_cpulist(old), parse_cpulist(new)
    lists = {path: parse_cpulist(text) for path, text in inside.items()}
    followers: list[str] = []
    for path, numbers in lists.items():
        above = path.rpartition("/")[0]
        if numbers == before and (not above or above in followers):
            followers.append(path)
    writes: list[tuple[str, str]] = []
    if not after <= before and followers:
        union = format_cpulist(before | after)
        writes += [("", union)] if before | after != after else []
        writes += [(path, union) for path in followers if before | after != after]
    narrow = before | after != after
    if narrow:
        writes += [(path, new) for path in reversed(followers)]
        writes.append(("", new))
    else:
        writes.append(("", new))
        writes += [(path, new) for path in followers]
    return tuple(writes)
