# SPDX-License-Identifier: Apache-2.0
"""Where cgroup file systems are mounted and where a process sits in them: parsers of two files of proc(5).

`/proc/PID/mountinfo` (Documentation/filesystems/proc.rst, section 3.5) and `/proc/PID/cgroup` (cgroups(7)).
Pure functions.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

_ESCAPE = re.compile(r"\\([0-7]{3})")

# Mount options of a version 1 hierarchy that are no controllers (kernel/cgroup/cgroup-v1.c,
# cgroup1_fs_parameters, and the generic ones of fs/proc_namespace.c and the security modules).
_GENERIC = frozenset(("rw", "ro", "sync", "dirsync", "mand", "lazytime", "seclabel"))
_OF_CGROUPS = frozenset(
    ("none", "all", "noprefix", "xattr", "clone_children", "cpuset_v2_mode", "favordynmods", "nofavordynmods")
)
_NO_CONTROLLERS = _GENERIC | _OF_CGROUPS


@dataclass(frozen=True)
class CgroupMount:
    """One mounted cgroup hierarchy.

    version      1 or 2
    mount_point  where it is mounted
    root         which group of the hierarchy the mount shows as its top ("/" unless inside a container); it
    has
                 leading "/.." parts when that group lies above the root of our cgroup namespace
    controllers  v1: the controllers mounted together here; v2: empty, the file cgroup.controllers tells them
    name         v1: the name of a named hierarchy such as "systemd", else ""
    """

    version: int
    mount_point: str
    root: str = "/"
    controllers: tuple[str, ...] = ()
    name: str = ""


def parse_mountinfo(text: str) -> tuple[CgroupMount, ...]:
    """The cgroup mounts of a mountinfo text, in its order. Lines of other file systems, and malformed ones,
    are passed over."""
    mounts: list[CgroupMount] = []
    for line in text.split("\n"):
        fields = line.split(" ")
        # The optional fields end with a lone "-"; it cannot come before the seventh field.
        try:
            separator = fields.index("-", 6)
        except ValueError:
            continue
        if len(fields) < separator + 4:
            continue
        kind = fields[separator + 1]
        root, mount_point = unescape(fields[3]), unescape(fields[4])
        if kind == "cgroup2":
            mounts.append(CgroupMount(2, mount_point, root))
        elif kind == "cgroup":
            options = fields[separator + 3].split(",")
            name = next((option[5:] for option in options if option.startswith("name=")), "")
            controllers = tuple(
                option for option in options if option and "=" not in option and option not in _NO_CONTROLLERS
            )
            mounts.append(CgroupMount(1, mount_point, root, controllers, name))
    return tuple(mounts)


def unescape(field: str) -> str:
    r"""A path of mountinfo with its \040, \011, \012 and \134 put back."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def parse_membership(text: str) -> dict[str, str]:
    """Which group a process is in: controller, or "name=…" of a named hierarchy, or "" for v2 → path of the
    group."""
    membership: dict[str, str] = {}
    for line in text.split("\n"):
        parts = line.split(":", 2)
        if len(parts) != 3 or not parts[0].isdigit():
            continue
        for controller in parts[1].split(","):
            membership[controller] = parts[2]
    return membership


def within_mount(group: str, root: str) -> str | None:
    """Path of `group` relative to a mount that shows `root` as its top: "" for the top itself, None if it
    lies outside."""
    relative = posixpath.relpath(group, root) if not root.startswith("/..") else None
    if relative is None or relative == ".." or relative.startswith("../"):
        return None
    return "" if relative == "." else relative
