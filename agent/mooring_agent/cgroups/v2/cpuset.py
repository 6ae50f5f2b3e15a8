# SPDX-License-Identifier: Apache-2.0
"""The cpuset controller, version 2 (Documentation/admin-guide/cgroup-v2.rst, "Cpuset Interface Files").

An empty list means the parent's. The kernel takes a list that is not within the parent's and quietly uses
what it can of it; we refuse it instead.
"""

from __future__ import annotations

from typing import Any

from ...errors import Conflict, MooringError
from ..controller import Contents, Refusal
from ..cpulist import format_cpulist, parse_cpulist
from ..resources import Resources, Setting

NAME = "cpuset"
CPUS = "cpuset.cpus"
MEMS = "cpuset.mems"
FILES = (CPUS, MEMS, f"{CPUS}.effective", f"{MEMS}.effective")
_FIELDS = (("cpuset_cpus", CPUS), ("cpuset_mems", MEMS))


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group."""
    return tuple(
        Setting(NAME, file, getattr(resources, field))
        for field, file in _FIELDS
        if getattr(resources, field) is not None
    )


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """What is not stated is the parent's. Conflict for CPUs or nodes that the parent does not have."""
    wanted: list[Setting] = []
    for field, file in _FIELDS:
        value = getattr(resources, field) or ""
        above = parse_cpulist(parent.get(f"{file}.effective", ""))
        numbers = parse_cpulist(value)
        if above and not numbers <= above:
            raise Conflict(
                f'{field} "{value}" is not within "{format_cpulist(above)}", all that the parent group '
                "has; choose of those"
            )
        if numbers != parse_cpulist(contents.get(file, "")):
            wanted.append(Setting(NAME, file, value))
    return tuple(wanted)


def parse(contents: Contents) -> dict[str, Any]:
    """The lists in force."""
    return {field: contents.get(file) or contents.get(f"{file}.effective") or None for field, file in _FIELDS}


def explain(refusal: Refusal) -> MooringError:
    """The kernel takes every well-formed list."""
    return refusal.error()
