# SPDX-License-Identifier: Apache-2.0
"""Hiding and protecting what is already there: masked, read-only and sealed paths."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from ..linux import syscalls
from .mounts_operation import NULL_DEVICE, MountOperation
from .mounts_targets import CLONE, EMPTY_TO_EMPTY, attach_clone, open_existing


@dataclass(frozen=True)
class Mask(MountOperation):
    """Hide paths: directories below an empty read-only tmpfs that all of them share, files below /dev/null.

    Paths that do not exist are passed over, runtime-spec `maskedPaths`.
    """

    paths: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        return "mask " + " ".join(self.paths)

    def execute(self, root: int) -> None:
        """Cover each path that is there."""
        null = _open_null()
        empty = -1
        try:
            for path in self.paths:
                target = open_existing(root, path)
                if target < 0:
                    continue
                try:
                    if not stat.S_ISDIR(os.fstat(target).st_mode):
                        attach_clone(null, target)
                    elif empty < 0:
                        place = f"/proc/self/fd/{target}"
                        syscalls.mount(
                            "tmpfs",
                            place,
                            "tmpfs",
                            syscalls.MS_RDONLY | syscalls.MS_NOSUID,
                            "size=0,nr_inodes=1",
                        )
                        empty = open_existing(root, path)
                    else:
                        attach_clone(empty, target)
                finally:
                    os.close(target)
        finally:
            os.close(null)
            if empty >= 0:
                os.close(empty)


@dataclass(frozen=True)
class ReadOnly(MountOperation):
    """Make paths read-only in place, runtime-spec `readonlyPaths`; missing ones are passed over."""

    paths: tuple[str, ...]

    def describe(self) -> str:
        """One line for people."""
        return "read-only " + " ".join(self.paths)

    def execute(self, root: int) -> None:
        """Bind each path that is there over itself, read-only."""
        for path in self.paths:
            target = open_existing(root, path)
            if target < 0:
                continue
            try:
                recursive = syscalls.AT_RECURSIVE
                tree = syscalls.open_tree(target, "", CLONE | syscalls.AT_EMPTY_PATH | recursive)
                try:
                    flags = syscalls.AT_EMPTY_PATH | recursive
                    syscalls.mount_setattr(tree, "", flags, set_=syscalls.MOUNT_ATTR_RDONLY)
                    syscalls.move_mount(tree, "", target, "", EMPTY_TO_EMPTY)
                finally:
                    os.close(tree)
            finally:
                os.close(target)


@dataclass(frozen=True)
class Seal(MountOperation):
    """Make the mount whose root is `target` read-only as it stands, without another one over it."""

    target: str

    def describe(self) -> str:
        """One line for people."""
        return f"seal {self.target}"

    def execute(self, root: int) -> None:
        """mount_setattr on the mount itself."""
        target = syscalls.openat2(root, self.target, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
        try:
            syscalls.mount_setattr(target, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
        finally:
            os.close(target)


def _open_null() -> int:
    null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    found = os.fstat(null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NULL_DEVICE:
        os.close(null)
        raise OSError(
            errno.ENODEV, "/dev/null of the host is not the null device: nothing can be masked with it"
        )
    return null
