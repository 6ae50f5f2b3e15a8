# SPDX-License-Identifier: Apache-2.0
"""What a container's root directory is made of: layers, or a directory of the host."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from ..linux import syscalls
from .idmaps import IdMap, acting_as, outside, user_namespace
from .mounts_targets import CLONE


@dataclass(frozen=True)
class Overlay:
    """A container's root from layers: `lower` top first, `upper` and `work` empty for a read-only one.

    With `uid_map` and `gid_map`, (inside, outside, count) each, files on disk have the container's ids and
    show as the host's that these stand for: layers are shared between containers with other maps, nothing is
    chowned, and what a container writes is kept with its own ids too.
    """

    lower: tuple[str, ...]
    upper: str = ""
    work: str = ""
    uid_map: IdMap = ()
    gid_map: IdMap = ()

    def describe(self) -> str:
        """One line for people."""
        return f"overlay of {len(self.lower)} layers, writes to {self.upper or 'nothing'}"

    def mount(self, target: str) -> None:
        """Mount it at `target`, an absolute path. Changes the working directory.

        The option string is limited to one page, so the directories are named relative to the one they share.
        """
        directories = [*self.lower, *(path for path in (self.upper, self.work) if path)]
        base = os.path.commonpath([os.path.dirname(path) for path in directories])
        if self.uid_map:
            self._mount_mapped(target, base, directories)
            return
        os.chdir(base)
        syscalls.mount("overlay", target, "overlay", 0, self._options(base))

    def _mount_mapped(self, target: str, base: str, directories: list[str]) -> None:
        """The same through one idmapped mount of the directory that all layers are below.

        It has to be attached while overlay looks at its layers: the kernel takes no layer from a detached
        mount before 6.15. Overlay keeps private clones of its own, with the map.
        """
        device = os.stat(base).st_dev
        for path in directories:
            if os.stat(path).st_dev != device:
                raise OSError(
                    errno.EXDEV, f"layer {path} is on another file system than {base}: expected one for all"
                )
        place = f"{target}.layers"
        os.mkdir(place, 0o700)
        try:
            tree = idmapped_tree(base, self.uid_map, self.gid_map)
            try:
                syscalls.move_mount(tree, "", syscalls.AT_FDCWD, place, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
            finally:
                os.close(tree)
            os.chdir(place)
            with acting_as(outside(self.uid_map), outside(self.gid_map)):
                syscalls.mount("overlay", target, "overlay", 0, self._options(base))
            os.chdir("/")
            syscalls.umount(place, syscalls.MNT_DETACH)
        finally:
            os.rmdir(place)

    def _options(self, base: str) -> str:
        start = len(base.rstrip("/")) + 1
        options = "lowerdir=" + ":".join(_plain(path[start:]) for path in self.lower)
        if self.upper:
            options += f",upperdir={_plain(self.upper[start:])},workdir={_plain(self.work[start:])}"
        return options


@dataclass(frozen=True)
class BindRoot:
    """A container's root that is a directory of the host as it is, or with its ids mapped as in `Overlay`."""

    source: str
    uid_map: IdMap = ()
    gid_map: IdMap = ()

    def describe(self) -> str:
        """One line for people."""
        return f"directory {self.source}"

    def mount(self, target: str) -> None:
        """Bind it to `target`."""
        if self.uid_map:
            tree = idmapped_tree(self.source, self.uid_map, self.gid_map)
            try:
                syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
            finally:
                os.close(tree)
            return
        syscalls.mount(self.source, target, None, syscalls.MS_BIND | syscalls.MS_REC)


def idmapped_tree(source: str, uids: IdMap, gids: IdMap) -> int:
    """A detached clone of the mount at `source` in which ids on disk show as those the maps give for them.

    Raises OSError, EINVAL where the file system cannot be idmapped: ext4, xfs, btrfs and, since Linux 6.3,
    tmpfs can.
    """
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, CLONE)
    try:
        map_ids(tree, source, uids, gids)
    except OSError:
        os.close(tree)
        raise
    return tree


def map_ids(tree: int, source: str, uids: IdMap, gids: IdMap, flags: int = 0) -> None:
    """Have the detached mount `tree`, a clone of the one at `source`, show ids on disk as those the maps give
    for them; with AT_RECURSIVE in `flags` the mounts below it, too. Raises OSError as `idmapped_tree`.
    """
    try:
        syscalls.mount_setattr(
            tree,
            "",
            syscalls.AT_EMPTY_PATH | flags,
            set_=syscalls.MOUNT_ATTR_IDMAP,
            user_namespace=user_namespace(uids, gids),
        )
    except OSError as error:
        reason = error.strerror
        if error.errno == errno.EINVAL:
            reason = (
                "this kernel cannot map ids on its file system: expected ext4, xfs or btrfs, or tmpfs from "
                "Linux 6.3 on; keep it on one of these, or do without users of its own"
            )
        raise OSError(error.errno, f"idmapped mount of {source}: {reason}") from None


def _plain(path: str) -> str:
    if any(sign in path for sign in ":,\\"):
        raise OSError(errno.EINVAL, f"layer directory {path!r} has a sign that overlay options cannot carry")
    return path
