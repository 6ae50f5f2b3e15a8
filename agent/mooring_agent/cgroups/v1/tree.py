# SPDX-License-Identifier: Apache-2.0
"""Making groups in a version 1 hierarchy."""

from __future__ import annotations

import os

from .. import interface
from .cpuset import CPUS, MEMS

CLONE_CHILDREN = "cgroup.clone_children"


def make(mount: str, path: str, *, cpuset: bool, delegate: bool = False) -> None:
    """Make the group and those above it; one that is there already is fine. Raises OSError.

    With `cpuset`, each new group gets its parent's CPUs and memory nodes, without which no process can join
    it. A group above is told to do so by itself for groups to come (cgroup.clone_children), so that a sibling
    costs one mkdir.
    """
    directory = f"{mount}/{path}"
    try:
        os.mkdir(directory)
    except FileExistsError:
        pass
    except FileNotFoundError:
        _make_parents(mount, path, cpuset=cpuset)
        os.makedirs(directory, exist_ok=True)
    if cpuset:
        _inherit(mount, path)
        if delegate:
            interface.write(f"{directory}/{CLONE_CHILDREN}", "1")


def _make_parents(mount: str, path: str, *, cpuset: bool) -> None:
    parts = path.split("/")
    for depth in range(1, len(parts)):
        above = "/".join(parts[:depth])
        os.makedirs(f"{mount}/{above}", exist_ok=True)
        if cpuset:
            _inherit(mount, above)
            interface.write(f"{mount}/{above}/{CLONE_CHILDREN}", "1")


def _inherit(mount: str, path: str) -> None:
    """Fill an empty list from the parent, whose own may be empty too when somebody else made it."""
    for file in (CPUS, MEMS):
        if interface.read(f"{mount}/{path}/{file}"):
            continue
        above = path.rpartition("/")[0]
        if above:
            _inherit(mount, above)
        interface.write(f"{mount}/{path}/{file}", interface.read(f"{mount}/{above}/{file}"))
