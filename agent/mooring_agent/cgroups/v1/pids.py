# SPDX-License-Identifier: Apache-2.0
"""The pids controller, version 1 (Documentation/admin-guide/cgroup-v1/pids.rst)."""

from __future__ import annotations

from typing import Any

from ...errors import MooringError
from ..controller import Contents, Refusal
from ..resources import UNLIMITED, Resources, Setting

NAME = "pids"
MAX = "pids.max"
FILES = (MAX,)


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group."""
    if resources.pids_limit is None or resources.pids_limit == UNLIMITED:
        return ()
    return (Setting(NAME, MAX, str(resources.pids_limit)),)


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """The limit may go below the number of tasks: none is ended, no new one is made until enough have
    gone."""
    unlimited = resources.pids_limit is None or resources.pids_limit == UNLIMITED
    value = "max" if unlimited else str(resources.pids_limit)
    return () if contents.get(MAX) == value else (Setting(NAME, MAX, value),)


def parse(contents: Contents) -> dict[str, Any]:
    """The limit; None for none."""
    value = contents.get(MAX, "max")
    return {"pids_limit": None if value == "max" else int(value)}


def explain(refusal: Refusal) -> MooringError:
    """The kernel takes every well-formed value up to its largest process id."""
    return refusal.error()
