# SPDX-License-Identifier: Apache-2.0
"""Mounts as data: operation objects that can be described, compared and sent, and that know how to execute.

Every target is resolved inside the container's root by openat2(2) with RESOLVE_IN_ROOT and then addressed by
descriptor, so no symbolic link of an image, and no race against one, leads outside.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from typing import Any

from ..linux import syscalls
from .idmaps import IdMap, acting_as, outside, user_namespace

_ATTRIBUTES = {
    "ro": syscalls.MOUNT_ATTR_RDONLY,
    "nosuid": syscalls.MOUNT_ATTR_NOSUID,
    "nodev": syscalls.MOUNT_ATTR_NODEV,
    "noexec": syscalls.MOUNT_ATTR_NOEXEC,
}
_EMPTY_TO_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
_CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
NULL_DEVICE = os.makedev(1, 3)  # Documentation/admin-guide/devices.txt


class MountOperation:
    """One step of building a container's file system below the directory open as `root`."""

    def describe(self) -> str:
        """One line for people."""
        raise TypeError(f"{type(self).__name__} does not describe itself")

    def execute(self, root: int) -> None:
        """Do it. Raises OSError that names the target."""
        raise TypeError(f"{type(self).__name__} cannot be executed")


@dataclass(frozen=True)
class Overlay:
    """A container's root from layers: `lower` top first, `upper` and `work` empty for a read-only one.

    With `uid_map` and `gid_map`, (inside, outside, count) each, the files on disk have the container's ids and
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


@dataclass(frozen=True)
class Filesystem(MountOperation):
    """A new instance of a file system, mount(2) flags and data as given."""

    fstype: str
    source: str
    target: str
    flags: int = 0
    data: str = ""

    def describe(self) -> str:
        """One line for people."""
        return f"mount {self.fstype} on {self.target}"

    def execute(self, root: int) -> None:
        """Make the target directory where it is missing, and mount there."""
        target = ensure_directory(root, self.target)
        try:
            syscalls.mount(self.source, f"/proc/self/fd/{target}", self.fstype, self.flags, self.data or None)
        finally:
            os.close(target)


@dataclass(frozen=True)
class Bind(MountOperation):
    """A file or directory of the host at `target`; `options` of ro, nosuid, nodev, noexec hold for the whole
    tree.
    """

    source: str
    target: str
    options: tuple[str, ...] = ()
    recursive: bool = True

    def describe(self) -> str:
        """One line for people."""
        return f"bind {self.source} to {self.target}" + (
            f" ({','.join(self.options)})" if self.options else ""
        )

    def execute(self, root: int) -> None:
        """Make the target like the source where it is missing, and attach a clone of the source's
        tree there.
        """
        recursive = syscalls.AT_RECURSIVE if self.recursive else 0
        tree = syscalls.open_tree(syscalls.AT_FDCWD, self.source, _CLONE | recursive)
        try:
            attributes = 0
            for option in self.options:
                attributes |= _ATTRIBUTES[option]
            if attributes:
                syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH | recursive, set_=attributes)
            if stat.S_ISDIR(os.fstat(tree).st_mode):
                target = ensure_directory(root, self.target)
            else:
                target = ensure_file(root, self.target)
            try:
                syscalls.move_mount(tree, "", target, "", _EMPTY_TO_EMPTY)
            finally:
                os.close(target)
        finally:
            os.close(tree)


@dataclass(frozen=True)
class Node(MountOperation):
    """A character device node."""

    target: str
    major: int
    minor: int
    mode: int = 0o666

    def describe(self) -> str:
        """One line for people."""
        return f"device {self.major}:{self.minor} at {self.target}"

    def execute(self, root: int) -> None:
        """mknod in the (existing) parent directory. The umask must be 0."""
        parent, name = os.path.split(self.target)
        directory = ensure_directory(root, parent)
        try:
            os.mknod(name, self.mode | stat.S_IFCHR, os.makedev(self.major, self.minor), dir_fd=directory)
        finally:
            os.close(directory)


@dataclass(frozen=True)
class Link(MountOperation):
    """A symbolic link."""

    target: str
    points_to: str

    def describe(self) -> str:
        """One line for people."""
        return f"link {self.target} to {self.points_to}"

    def execute(self, root: int) -> None:
        """Symlink in the (existing) parent directory."""
        parent, name = os.path.split(self.target)
        directory = ensure_directory(root, parent)
        try:
            os.symlink(self.points_to, name, dir_fd=directory)
        finally:
            os.close(directory)


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
                target = _open_existing(root, path)
                if target < 0:
                    continue
                try:
                    if not stat.S_ISDIR(os.fstat(target).st_mode):
                        _attach_clone(null, target)
                    elif empty < 0:
                        place = f"/proc/self/fd/{target}"
                        syscalls.mount(
                            "tmpfs",
                            place,
                            "tmpfs",
                            syscalls.MS_RDONLY | syscalls.MS_NOSUID,
                            "size=0,nr_inodes=1",
                        )
                        empty = _open_existing(root, path)
                    else:
                        _attach_clone(empty, target)
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
            target = _open_existing(root, path)
            if target < 0:
                continue
            try:
                recursive = syscalls.AT_RECURSIVE
                tree = syscalls.open_tree(target, "", _CLONE | syscalls.AT_EMPTY_PATH | recursive)
                try:
                    flags = syscalls.AT_EMPTY_PATH | recursive
                    syscalls.mount_setattr(tree, "", flags, set_=syscalls.MOUNT_ATTR_RDONLY)
                    syscalls.move_mount(tree, "", target, "", _EMPTY_TO_EMPTY)
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


OPERATIONS = (Overlay, BindRoot, Filesystem, Bind, Node, Link, Mask, ReadOnly, Seal)
_BY_NAME: dict[str, Any] = {operation.__name__: operation for operation in OPERATIONS}


def from_json(data: dict[str, Any]) -> Any:
    """The operation that was encoded with its class's name under `op`."""
    arguments = dict(data)
    return _BY_NAME[arguments.pop("op")](**arguments)


def idmapped_tree(source: str, uids: IdMap, gids: IdMap) -> int:
    """A detached clone of the mount at `source` in which ids on disk show as those the maps give for them.

    Raises OSError, EINVAL where the file system cannot be idmapped: ext4, xfs, btrfs and, since Linux 6.3,
    tmpfs can.
    """
    tree = syscalls.open_tree(syscalls.AT_FDCWD, source, _CLONE)
    try:
        syscalls.mount_setattr(
            tree,
            "",
            syscalls.AT_EMPTY_PATH,
            set_=syscalls.MOUNT_ATTR_IDMAP,
            user_namespace=user_namespace(uids, gids),
        )
    except OSError as error:
        os.close(tree)
        raise OSError(error.errno, f"idmapped mount of {source}: {error.strerror}") from None
    return tree


def ensure_directory(root: int, path: str, *, resolve: int = syscalls.RESOLVE_IN_ROOT) -> int:
    """Open (O_PATH) the directory `path` inside `root`, made with mode 0755 where it is missing.

    So is what a dangling link points to, inside `root` too. Raises OSError, also where something else than a
    directory is in the way.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return syscalls.openat2(root, path, flags, resolve=resolve)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path.rstrip("/"))
    if not name or name in (".", ".."):
        raise OSError(errno.EINVAL, f"{path!r} does not name a directory that could be made")
    directory = ensure_directory(root, parent or "/", resolve=resolve)
    try:
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
        except FileExistsError:
            if resolve == syscalls.RESOLVE_IN_ROOT:
                os.close(ensure_directory(root, _destination(directory, parent, name)))
    finally:
        os.close(directory)
    return syscalls.openat2(root, path, flags, resolve=resolve)


def ensure_file(root: int, path: str) -> int:
    """Open (O_PATH) the file `path` inside `root`, made empty where it is missing.

    So is what a dangling link points to, inside `root` too: an image's /etc/resolv.conf often is one. Raises
    OSError, also where a directory is in the way.
    """
    try:
        return _open_file(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path)
    directory = ensure_directory(root, parent or "/")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, 0o644, dir_fd=directory))
        except FileExistsError:
            os.close(ensure_file(root, _destination(directory, parent, name)))
    finally:
        os.close(directory)
    return _open_file(root, path)


def _open_file(root: int, path: str) -> int:
    found = syscalls.openat2(root, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EISDIR, f"{path} is a directory: expected a file")
    return found


def _destination(directory: int, parent: str, name: str) -> str:
    """Where the dangling link `name` of `directory`, which is `parent`, points to, as a path inside the root.

    Links in a circle never get here: the kernel refuses them with ELOOP.
    """
    try:
        return os.path.join(parent, os.readlink(name, dir_fd=directory))
    except OSError as error:
        raise OSError(error.errno, f"{parent}/{name}: {error.strerror}") from None


def move_tree(source: str, root: int, target: str) -> None:
    """Move the mount at `source` to the directory `target` inside `root`, no link on the way followed.

    An image whose /dev is a link could otherwise have its devices built elsewhere.
    """
    try:
        directory = ensure_directory(
            root, target, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, f"{target} of the image is a symbolic link: expected a directory"
            ) from None
        raise
    try:
        syscalls.move_mount(syscalls.AT_FDCWD, source, directory, "", syscalls.MOVE_MOUNT_T_EMPTY_PATH)
    finally:
        os.close(directory)


def _open_existing(root: int, path: str) -> int:
    try:
        return syscalls.openat2(root, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise


def _open_null() -> int:
    null = os.open("/dev/null", os.O_PATH | os.O_CLOEXEC)
    found = os.fstat(null)
    if not stat.S_ISCHR(found.st_mode) or found.st_rdev != NULL_DEVICE:
        os.close(null)
        raise OSError(
            errno.ENODEV, "/dev/null of the host is not the null device: nothing can be masked with it"
        )
    return null


def _attach_clone(source: int, target: int) -> None:
    tree = syscalls.open_tree(source, "", _CLONE | syscalls.AT_EMPTY_PATH)
    try:
        syscalls.move_mount(tree, "", target, "", _EMPTY_TO_EMPTY)
    finally:
        os.close(tree)


def _plain(path: str) -> str:
    if any(sign in path for sign in ":,\\"):
        raise OSError(errno.EINVAL, f"layer directory {path!r} has a sign that overlay options cannot carry")
    return path
