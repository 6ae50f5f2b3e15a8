# SPDX-License-Identifier: Apache-2.0
"""Device nodes, FIFOs and symbolic links of a container."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from ..linux import syscalls
from .mounts_operation import MountOperation
from .mounts_targets import CLONE, EMPTY_TO_EMPTY, ensure_directory, open_target

_KINDS = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
_LOCKED = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class Node(MountOperation):
    """A device node, character ("c") or block ("b"), or a FIFO ("p"), runtime-spec `linux.devices`.

    `uid` and `gid` are numbers of the host. Where the runtime itself may make no devices, as in a user
    namespace, the host's own node is bound in their place.
    """

    target: str
    major: int
    minor: int
    mode: int = 0o666
    kind: str = "c"
    uid: int = 0
    gid: int = 0

    def describe(self) -> str:
        """One line for people."""
        return f"device {self.major}:{self.minor} at {self.target}"

    def execute(self, root: int) -> None:
        """mknod in the parent directory, made where it is missing. The umask must be 0."""
        directory, name = _parent(root, self.target)
        try:
            try:
                os.mknod(name, self.mode | _KINDS[self.kind], self._number, dir_fd=directory)
            except FileExistsError:
                self._check(directory, name)
            except PermissionError:
                self._bind_of_host(root)
                return
            if self.uid or self.gid:
                os.chown(name, self.uid, self.gid, dir_fd=directory, follow_symlinks=False)
        finally:
            os.close(directory)

    def _bind_of_host(self, root: int) -> None:
        tree = syscalls.open_tree(syscalls.AT_FDCWD, self.target, CLONE)
        try:
            found = os.fstat(tree)
            if stat.S_IFMT(found.st_mode) != _KINDS[self.kind] or found.st_rdev != self._number:
                raise OSError(errno.EPERM, f"{self.target} cannot be made, and the host's is another device")
            syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_=_LOCKED)
            target = open_target(root, self.target, directory=False)
            try:
                syscalls.move_mount(tree, "", target, "", EMPTY_TO_EMPTY)
            finally:
                os.close(target)
        finally:
            os.close(tree)

    @property
    def _number(self) -> int:
        return os.makedev(self.major, self.minor)

    def _check(self, directory: int, name: str) -> None:
        """What is there already has to be the very device, runtime-spec config-linux.md, Devices."""
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        same = stat.S_IFMT(found.st_mode) == _KINDS[self.kind]
        if same and self.kind != "p":
            same = found.st_rdev == self._number
        if not same:
            raise OSError(errno.EEXIST, f"{self.target} is there already and is another file")


@dataclass(frozen=True)
class Link(MountOperation):
    """A symbolic link. `replace` takes a file of that name away, else one that is there is left as it is."""

    target: str
    points_to: str
    replace: bool = False

    def describe(self) -> str:
        """One line for people."""
        return f"link {self.target} to {self.points_to}"

    def execute(self, root: int) -> None:
        """Symlink in the parent directory, made where it is missing."""
        directory, name = _parent(root, self.target)
        try:
            try:
                os.symlink(self.points_to, name, dir_fd=directory)
            except FileExistsError:
                if self.replace:
                    os.unlink(name, dir_fd=directory)
                    os.symlink(self.points_to, name, dir_fd=directory)
        finally:
            os.close(directory)


def _parent(root: int, target: str) -> tuple[int, str]:
    """The directory of `target`, made where it is missing, and the name in it.

    An image whose /dev is a link cannot have its devices made elsewhere.
    """
    parent, name = os.path.split(target)
    resolve = syscalls.RESOLVE_IN_ROOT
    if parent == "/dev":
        resolve |= syscalls.RESOLVE_NO_SYMLINKS
    return ensure_directory(root, parent, resolve=resolve), name
