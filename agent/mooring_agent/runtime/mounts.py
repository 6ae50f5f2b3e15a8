# SPDX-License-Identifier: Apache-2.0
"""Mounts as data: operation objects that can be described, compared and sent, and that know how to execute.

This module has file systems and binds, and the names of all operations; the others are beside it, by concern.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Any

from ..linux import syscalls
from .borrow import Borrow, within
from .copy_up import copy_tree
from .idmaps import IdMap
from .mount_attributes import Attributes, attribute_names
from .mounts_cgroups import ControlGroups
from .mounts_devices import Link, Node
from .mounts_masks import Mask, ReadOnly, Seal
from .mounts_operation import NULL_DEVICE, MountOperation
from .mounts_roots import BindRoot, Overlay, idmapped_tree, map_ids
from .mounts_targets import (
    CLONE,
    EMPTY_TO_EMPTY,
    ensure_directory,
    ensure_file,
    move_tree,
    open_existing,
    open_source,
    open_target,
)

__all__ = (
    "NULL_DEVICE",
    "OPERATIONS",
    "Bind",
    "BindRoot",
    "Borrow",
    "Change",
    "ControlGroups",
    "Directory",
    "Filesystem",
    "Link",
    "Mask",
    "MountOperation",
    "Node",
    "Overlay",
    "ReadOnly",
    "Seal",
    "ensure_directory",
    "ensure_file",
    "from_json",
    "idmapped_tree",
    "move_tree",
)


@dataclass(frozen=True)
class Filesystem(MountOperation):
    """A new instance of a file system, mount(2) flags and data as given.

    `fallback` is what of the host is shown instead where the kernel refuses a new instance: in a user
    namespace it gives none of /proc and /sys for a pid or network namespace that is not its own.
    `keep_mode` takes the mode of the directory that is mounted over, `copy_up` its content too.
    """

    fstype: str
    source: str
    target: str
    flags: int = 0
    data: str = ""
    fallback: str = ""
    keep_mode: bool = False
    copy_up: bool = False

    def describe(self) -> str:
        """One line for people."""
        return f"mount {self.fstype} on {self.target}"

    @property
    def covers_root(self) -> bool:
        """Whether it is mounted on the root itself."""
        return self.target == "/"

    def execute(self, root: int) -> None:
        """Make the target directory where it is missing, and mount there."""
        target = ensure_directory(root, self.target, resolve=_RESOLVE_OF.get(self.fstype, _IN_ROOT))
        try:
            self._mount(target)
            if self.copy_up:
                copy_tree(target, root, self.target)
        except OSError as error:
            if self._is_there(target, error):
                return
            if error.errno == errno.EINVAL and "context=" in self.data and not os.path.exists(_SELINUX):
                raise OSError(
                    error.errno, "config.linux.mountLabel wants SELinux, without which this kernel runs"
                ) from None
            if not self.fallback or error.errno not in (errno.EPERM, errno.EBUSY):
                raise
            self._show_host(target)
        finally:
            os.close(target)

    def _mount(self, target: int) -> None:
        data = self.data
        if self.keep_mode:
            mode = f"mode={stat.S_IMODE(os.fstat(target).st_mode):o}"
            data = f"{data},{mode}" if data else mode
        syscalls.mount(self.source, f"/proc/self/fd/{target}", self.fstype, self.flags, data or None)

    def _is_there(self, target: int, error: OSError) -> bool:
        """Whether the kernel refused because the very file system is mounted there already."""
        if error.errno != errno.EBUSY or self.fstype != "mqueue":
            return False
        return syscalls.file_system_type(target) == syscalls.MQUEUE_MAGIC

    def _show_host(self, target: int) -> None:
        """Bind the host's, whole: a part of it alone could uncover what another mount hides (EINVAL)."""
        tree = syscalls.open_tree(syscalls.AT_FDCWD, self.fallback, CLONE | syscalls.AT_RECURSIVE)
        try:
            attributes = 0
            for flag, attribute in _ATTRIBUTES_OF_FLAGS.items():
                if self.flags & flag:
                    attributes |= attribute
            if attributes:
                flags = syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE
                syscalls.mount_setattr(tree, "", flags, set_=attributes)
            syscalls.move_mount(tree, "", target, "", EMPTY_TO_EMPTY)
        finally:
            os.close(tree)


_SELINUX = "/sys/fs/selinux/enforce"
_IN_ROOT = syscalls.RESOLVE_IN_ROOT
# What programs trust at its place: a link of an image must not have it built elsewhere.
_RESOLVE_OF = dict.fromkeys(("proc", "sysfs"), _IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS)
_ATTRIBUTES_OF_FLAGS = {
    syscalls.MS_RDONLY: syscalls.MOUNT_ATTR_RDONLY,
    syscalls.MS_NOSUID: syscalls.MOUNT_ATTR_NOSUID,
    syscalls.MS_NODEV: syscalls.MOUNT_ATTR_NODEV,
    syscalls.MS_NOEXEC: syscalls.MOUNT_ATTR_NOEXEC,
}


@dataclass(frozen=True)
class Bind(MountOperation):
    """A file, directory, socket or device of the host at `target`.

    `set` and `clear` are attributes of mount_setattr(2) for the mount itself, `tree_set` and `tree_clear` for
    the whole tree; `propagation` are flags of mount(2), where a shared one makes the mount a peer of the
    host's. With `uid_map` and `gid_map` the ids of its files are mapped, of the whole tree with `map_tree`.
    With `of_host` the source is cloned in the host's mount namespace: in one that belongs to a user namespace
    what covers the host's directories cannot be left out.

    With `namespace`, the path of a mount namespace, the source is a path there. With `subpath` it is what is
    there inside of the source that is bound, see `open_source`.
    `copy_symlink` makes the same link where the source is one. Without `follow_source` or `follow_target` a
    symbolic link is bound, or covered, itself.
    """

    source: str
    target: str
    set: int = 0
    clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    recursive: bool = True
    propagation: int = 0
    uid_map: IdMap = ()
    gid_map: IdMap = ()
    map_tree: bool = False
    of_host: bool = False
    copy_symlink: bool = False
    follow_source: bool = True
    follow_target: bool = True
    subpath: str = ""
    namespace: str = ""

    def describe(self) -> str:
        """One line for people."""
        names = attribute_names(self.set | self.tree_set)
        source = f"{self.source}/{self.subpath}" if self.subpath else self.source
        return f"bind {source} to {self.target}" + (f" ({','.join(names)})" if names else "")

    @property
    def covers_root(self) -> bool:
        """Whether it is mounted on the root itself."""
        return self.target == "/"

    def execute(self, root: int) -> None:
        """Make the target like the source where it is missing, and attach a clone of the source's tree
        there.
        """
        if self.copy_symlink and os.path.islink(self.source):
            self._copy_link(root)
            return
        recursive = syscalls.AT_RECURSIVE if self.recursive else 0
        nofollow = 0 if self.follow_source else syscalls.AT_SYMLINK_NOFOLLOW
        tree = self._clone(CLONE | recursive | nofollow)
        try:
            self._change(tree)
            target = open_target(
                root,
                self.target,
                directory=stat.S_ISDIR(os.fstat(tree).st_mode),
                follow=self.follow_target,
            )
            try:
                syscalls.move_mount(tree, "", target, "", EMPTY_TO_EMPTY)
            finally:
                os.close(target)
        finally:
            os.close(tree)

    def _change(self, tree: int) -> None:
        if self.set or self.clear or self.tree_set or self.tree_clear:
            Attributes(self.set, self.clear, self.tree_set, self.tree_clear).apply(tree)
        if self.uid_map:
            below = syscalls.AT_RECURSIVE if self.map_tree else 0
            map_ids(tree, self.source, self.uid_map, self.gid_map, below)
        if self.propagation:
            set_propagation(tree, self.propagation)

    def _clone(self, flags: int) -> int:
        if self.namespace:
            with within(self.namespace):
                return self._open(flags)
        if not (self.of_host or self.propagation & syscalls.MS_SHARED):
            return self._open(flags)
        # What is mounted in a launcher's own namespace is a slave: it hears of the host's mounts and says
        # nothing of its own. Only a clone of the host's mount is its peer.
        with within(f"/proc/{_parent()}/ns/mnt"):
            return self._open(flags)

    def _open(self, flags: int) -> int:
        if not self.subpath:
            return syscalls.open_tree(syscalls.AT_FDCWD, self.source, flags)
        there = open_source(self.source, self.subpath)
        try:
            return syscalls.open_tree(there, "", flags | syscalls.AT_EMPTY_PATH)
        finally:
            os.close(there)

    def _copy_link(self, root: int) -> None:
        parent, name = os.path.split(self.target.rstrip("/"))
        directory = ensure_directory(root, parent or "/")
        try:
            wanted = os.readlink(self.source)
            try:
                os.symlink(wanted, name, dir_fd=directory)
            except FileExistsError:
                if _link_at(directory, name) != wanted:
                    raise OSError(
                        errno.EEXIST, f"{self.target} is there already and is no link to {wanted}"
                    ) from None
        finally:
            os.close(directory)


@dataclass(frozen=True)
class Change(MountOperation):
    """Another propagation, or other attributes, for the mount whose root is `target`."""

    target: str
    set: int = 0
    clear: int = 0
    tree_set: int = 0
    tree_clear: int = 0
    propagation: int = 0

    def describe(self) -> str:
        """One line for people."""
        return f"change the mount on {self.target}"

    def execute(self, root: int) -> None:
        """mount_setattr on the mount itself."""
        target = open_existing(root, self.target)
        if target < 0:
            raise OSError(errno.ENOENT, f"{self.target} does not exist: expected a mount to change")
        try:
            Attributes(self.set, self.clear, self.tree_set, self.tree_clear).apply(target)
            if self.propagation:
                set_propagation(target, self.propagation)
        finally:
            os.close(target)


@dataclass(frozen=True)
class Directory(MountOperation):
    """A directory, made where it is missing: the working directory of a process whose root is read-only."""

    target: str

    def describe(self) -> str:
        """One line for people."""
        return f"directory {self.target}"

    def execute(self, root: int) -> None:
        """mkdir, with the directories above it; on a file system that takes none it is left to its user."""
        try:
            os.close(ensure_directory(root, self.target))
        except OSError as error:
            if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                raise


def set_propagation(mount: int, flags: int) -> None:
    """Give the mount open as `mount` (and those below, with MS_REC) the propagation of mount(2)'s `flags`."""
    recursive = syscalls.AT_RECURSIVE if flags & syscalls.MS_REC else 0
    syscalls.mount_setattr(
        mount, "", syscalls.AT_EMPTY_PATH | recursive, propagation=flags & ~syscalls.MS_REC
    )


def _parent() -> int:
    """This process's parent in the numbers of /proc; getppid(2) gives 0 across a pid namespace."""
    descriptor = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return int(content[content.rindex(b")") + 2 :].split()[1])


def _link_at(directory: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=directory)
    except OSError as error:
        if error.errno == errno.EINVAL:  # it is no link
            return None
        raise


OPERATIONS = (
    Overlay,
    BindRoot,
    Filesystem,
    Bind,
    Borrow,
    Change,
    ControlGroups,
    Directory,
    Node,
    Link,
    Mask,
    ReadOnly,
    Seal,
)
_BY_NAME: dict[str, Any] = {operation.__name__: operation for operation in OPERATIONS}


def from_json(data: dict[str, Any]) -> Any:
    """The operation that was encoded with its class's name under `op`."""
    arguments = dict(data)
    return _BY_NAME[arguments.pop("op")](**arguments)
