# SPDX-License-Identifier: Apache-2.0
"""A container's view of its own control groups: a mount of type `cgroup` in a config, on any kind of host."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ..linux import kernelfiles, syscalls
from .mount_attributes import Attributes
from .mounts_operation import MountOperation
from .mounts_targets import CLONE, EMPTY_TO_EMPTY, ensure_directory, open_existing

_ESCAPE = re.compile(r"\\([0-7]{3})")
# What mountinfo says of a version 1 hierarchy beside its controllers.
_NO_CONTROLLERS = frozenset(("rw", "ro", "xattr", "clone_children", "seclabel", "noprefix", "cpuset_v2_mode"))


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy: where, which group of it is the mount's top (as this cgroup namespace sees it),
    and the options that mount it once more ("" for version 2).
    """

    mount_point: str
    top: str
    options: str

    @property
    def name(self) -> str:
        """Its directory's name below /sys/fs/cgroup."""
        return os.path.basename(self.mount_point)


@dataclass(frozen=True)
class ControlGroups(MountOperation):
    """The container's own control groups at `target`.

    On a host of version 2 one mount; else a tmpfs with a directory for each hierarchy in which the container
    has a group of its own, and links for controllers that share one. With `own_namespace` these are mounts
    of the container's cgroup namespace; without, binds of its groups, so that nothing above them shows.
    `flags` are those of mount(2).
    """

    target: str
    flags: int = 0
    own_namespace: bool = True

    def describe(self) -> str:
        """One line for people."""
        return f"control groups at {self.target}"

    def execute(self, root: int) -> None:
        """Mount what is there; nothing where the host has no control groups mounted."""
        hierarchies = read_hierarchies()
        groups = {} if self.own_namespace else read_groups()
        if len(hierarchies) == 1 and not hierarchies[0].options:
            self._show(root, self.target, hierarchies[0], groups)
            return
        hierarchies = tuple(one for one in hierarchies if self._has_own(one, groups))
        if not hierarchies:
            return
        locked = self.flags & ~syscalls.MS_RDONLY
        _mount(root, self.target, "tmpfs", locked, "mode=755")
        for one in hierarchies:
            self._show(root, f"{self.target}/{one.name}", one, groups)
            self._link_controllers(root, one)
        if self.flags & syscalls.MS_RDONLY:
            top = open_existing(root, self.target)
            try:
                Attributes(set=syscalls.MOUNT_ATTR_RDONLY).apply(top)
            finally:
                os.close(top)

    def _has_own(self, hierarchy: Hierarchy, groups: dict[str, str]) -> bool:
        """Whether the container is in a group below the top: of the others it would see the host's."""
        if self.own_namespace:
            return hierarchy.top != "/"
        return _below(hierarchy, groups) not in (None, "")

    def _show(self, root: int, target: str, hierarchy: Hierarchy, groups: dict[str, str]) -> None:
        if self.own_namespace:
            fstype = "cgroup" if hierarchy.options else "cgroup2"
            _mount(root, target, fstype, self.flags, hierarchy.options)
            return
        below = _below(hierarchy, groups) or ""
        source = f"{hierarchy.mount_point}/{below}".rstrip("/")
        tree = syscalls.open_tree(syscalls.AT_FDCWD, source, CLONE)
        try:
            Attributes(set=_as_attributes(self.flags)).apply(tree)
            place = ensure_directory(root, target)
            try:
                syscalls.move_mount(tree, "", place, "", EMPTY_TO_EMPTY)
            finally:
                os.close(place)
        finally:
            os.close(tree)

    def _link_controllers(self, root: int, hierarchy: Hierarchy) -> None:
        names = hierarchy.options.split(",")
        if len(names) < 2 or "none" in names:
            return
        directory = ensure_directory(root, self.target)
        try:
            for name in names:
                if name != hierarchy.name:
                    os.symlink(hierarchy.name, name, dir_fd=directory)
        finally:
            os.close(directory)


def read_hierarchies() -> tuple[Hierarchy, ...]:
    """The mounted hierarchies, each once, /proc/self/mountinfo."""
    return parse_hierarchies(_read("/proc/self/mountinfo"))


def parse_hierarchies(mountinfo: str) -> tuple[Hierarchy, ...]:
    """The same from a text; pure."""
    found: dict[str, Hierarchy] = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if "-" not in fields:
            continue
        separator = fields.index("-")
        fstype = fields[separator + 1]
        if fstype not in ("cgroup", "cgroup2"):
            continue
        options = ""
        if fstype == "cgroup":
            named = [one for one in fields[separator + 3].split(",") if one not in _NO_CONTROLLERS]
            named = [one for one in named if not one.startswith("release_agent=")]
            options = ",".join(["none", *named] if named[0].startswith("name=") else named)
        found.setdefault(options, Hierarchy(_plain(fields[4]), _plain(fields[3]), options))
    return tuple(found.values())


def read_groups() -> dict[str, str]:
    """Which group this process is in: the controllers as mounted ("" for version 2) → its path."""
    found = {}
    for line in _read("/proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        found[f"none,{controllers}" if controllers.startswith("name=") else controllers] = path
    return found


def _below(hierarchy: Hierarchy, groups: dict[str, str]) -> str | None:
    """Where the own group is below the hierarchy's mount, None if outside of it."""
    wanted = set(hierarchy.options.split(","))
    for options, path in groups.items():
        if set(options.split(",")) == wanted:
            relative = os.path.relpath(path, hierarchy.top)
            if relative.startswith(".."):
                return None
            return "" if relative == "." else relative
    return None


def _as_attributes(flags: int) -> int:
    pairs = (
        (syscalls.MS_RDONLY, syscalls.MOUNT_ATTR_RDONLY),
        (syscalls.MS_NOSUID, syscalls.MOUNT_ATTR_NOSUID),
        (syscalls.MS_NODEV, syscalls.MOUNT_ATTR_NODEV),
        (syscalls.MS_NOEXEC, syscalls.MOUNT_ATTR_NOEXEC),
    )
    return sum(attribute for flag, attribute in pairs if flags & flag)


def _mount(root: int, target: str, fstype: str, flags: int, data: str) -> None:
    place = ensure_directory(root, target)
    try:
        syscalls.mount(fstype, f"/proc/self/fd/{place}", fstype, flags, data or None)
    finally:
        os.close(place)


def _plain(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def _read(path: str) -> str:
    return kernelfiles.read(path).decode(errors="surrogateescape")
