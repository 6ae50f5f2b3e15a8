# SPDX-License-Identifier: Apache-2.0
"""A mount of another container in this one: /dev/shm of those that share their IPC namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ..linux import syscalls
from .mounts_operation import MountOperation
from .mounts_targets import ensure_directory

_INSIDE = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_NO_MAGICLINKS


@contextmanager
def within(namespace: str) -> Iterator[None]:
    """This thread in the mount namespace at the path `namespace` for a while. Its working directory is the
    root of its own namespace afterwards. Raises OSError.
    """
    own = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syscalls.setns(other, syscalls.CLONE_NEWNS)
        finally:
            os.close(other)
        try:
            yield
        finally:
            syscalls.setns(own, syscalls.CLONE_NEWNS)
    finally:
        os.close(own)


@dataclass(frozen=True)
class Borrow(MountOperation):
    """The mount at `source` in the mount namespace at `namespace`, also at `target`.

    A mount can be cloned in its own namespace only, so that is entered for it. No link of the other container
    is followed, as it could lead anywhere.
    """

    namespace: str
    source: str
    target: str

    def describe(self) -> str:
        """One line for people."""
        return f"share {self.source} of another container at {self.target}"

    def execute(self, root: int) -> None:
        """Clone it there, attach it here. Changes the working directory."""
        with within(self.namespace):
            tree = self._clone()
        target = ensure_directory(root, self.target)
        try:
            flags = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
            syscalls.move_mount(tree, "", target, "", flags)
        finally:
            os.close(target)
            os.close(tree)

    def _clone(self) -> int:
        there = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            found = syscalls.openat2(there, self.source, os.O_PATH | os.O_DIRECTORY, resolve=_INSIDE)
        finally:
            os.close(there)
        try:
            flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_EMPTY_PATH
            return syscalls.open_tree(found, "", flags)
        finally:
            os.close(found)
