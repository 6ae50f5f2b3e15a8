# SPDX-License-Identifier: Apache-2.0
"""Walking, measuring and deleting trees that containers wrote: no link followed, any depth."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.linux.paths import RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV, open_directory, openat2
from mooring_agent.storage.snapshotter import Usage

_BLOCK = 512  # unit of st_blocks, stat(2)
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_DEPTH = 64  # below it, delete_tree moves directories up instead of going down


@dataclass(frozen=True, slots=True)
class Directory:
    """One directory of a walk: path from the root (empty for itself), an open fd, entries by name.

    They are looked at as they are asked for, each time: a container may have millions in one directory.
    """

    path: bytes
    fd: int
    entries: Iterable[tuple[bytes, os.stat_result]]


class _Entries:
    """What is in an open directory, which is listed once."""

    def __init__(self, fd: int, enter: Callable[[os.stat_result], bool]) -> None:
        self._fd = fd
        self._enter = enter
        self._names = _names(fd)
        self._below: list[bytes] | None = None

    def __iter__(self) -> Iterator[tuple[bytes, os.stat_result]]:
        below = []
        for name, status in _looked_at(self._fd, self._names):
            if stat.S_ISDIR(status.st_mode) and self._enter(status):
                below.append(name)
            yield name, status
        self._below = below

    def directories(self) -> list[bytes]:
        """Names of the directories to go down into."""
        if self._below is None:
            for _ in self:
                pass
        return self._below or []


def walk_tree(
    root_fd: int, enter: Callable[[os.stat_result], bool] = lambda status: True
) -> Iterator[Directory]:
    """Walk the directories below `root_fd` in the order of their paths, each before what it holds.

    Only one descriptor is open at a time, and it is closed when the walk goes on. A directory that vanishes
    or is replaced meanwhile is left out. The order depends on names alone, so two equal trees are walked
    alike.
    """
    pending = [b""]
    while pending:
        path = pending.pop()
        try:
            fd = open_directory(root_fd, path)
        except (FileNotFoundError, NotADirectoryError):
            if not path:
                raise
            continue
        try:
            entries = _Entries(fd, enter)
            yield Directory(path, fd, entries)
            below = entries.directories()
        finally:
            os.close(fd)
        prefix = path + b"/" if path else b""
        pending.extend(prefix + name for name in reversed(below))


def list_directory(fd: int) -> Iterator[tuple[bytes, os.stat_result]]:
    """Names and what they are of an open directory, sorted; what vanishes meanwhile is left out."""
    return _looked_at(fd, _names(fd))


def _names(fd: int) -> list[bytes]:
    return sorted(map(os.fsencode, os.listdir(fd)))


def _looked_at(fd: int, names: Iterable[bytes]) -> Iterator[tuple[bytes, os.stat_result]]:
    for name in names:
        try:
            status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        yield name, status


class _Measure:
    """Adds up what files occupy; one with several names counts once."""

    def __init__(self) -> None:
        self._size = self._inodes = 0
        self._linked: set[tuple[int, int]] = set()

    def add(self, status: os.stat_result) -> None:
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            identity = (status.st_dev, status.st_ino)
            if identity in self._linked:
                return
            self._linked.add(identity)
        self._inodes += 1
        self._size += status.st_blocks * _BLOCK

    def usage(self) -> Usage:
        return Usage(self._size, self._inodes)


def measure_tree(root: Path) -> Usage:
    """Bytes on disk and inodes of all that is below `root`; a file with several names counts once."""
    measure = _Measure()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory in walk_tree(root_fd):
            for _, status in directory.entries:
                measure.add(status)
    finally:
        os.close(root_fd)
    return measure.usage()


def measure_paths(root: Path, paths: Iterable[bytes]) -> Usage:
    """The same of some paths below `root`; one that is not there any more is left out."""
    measure = _Measure()
    root_fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in paths:
            parent, _, name = path.rpartition(b"/")
            try:
                fd = open_directory(root_fd, parent)
                try:
                    measure.add(os.stat(name, dir_fd=fd, follow_symlinks=False))
                finally:
                    os.close(fd)
            except (FileNotFoundError, NotADirectoryError):
                continue
    finally:
        os.close(root_fd)
    return measure.usage()


def delete_tree(
    dir_fd: int,
    name: str,
    park: Callable[[int, str], None],
    *,
    proceed: Callable[[], None] = lambda: None,
    depth: int = 0,
) -> None:
    """Delete `name` below `dir_fd` with everything in it; raises OSError (EXDEV) at a mount point.

    A directory that lies too deep is given to `park(its parent's fd, its name)`, which has to move it
    elsewhere and delete it later; so neither the stack nor the number of descriptors grows with the depth.
    `proceed` is called for everything that is deleted and may raise to have the rest left.
    """
    proceed()
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except IsADirectoryError:
        fd = openat2(dir_fd, os.fsencode(name), _DIRECTORY, resolve=RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV)
    try:
        with os.scandir(fd) as found:
            entries = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
        for child, is_directory in entries:
            if not is_directory:
                os.unlink(child, dir_fd=fd)
            elif depth < _DEPTH:
                delete_tree(fd, child, park, proceed=proceed, depth=depth + 1)
            else:
                park(fd, child)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def has_default_acl(directory: int) -> bool:
    """Whether files made in a directory get permissions from it, acl(5)."""
    try:
        os.getxattr(directory, "system.posix_acl_default")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise
    return True


def exists(dir_fd: int, name: bytes) -> bool:
    """Whether an open directory has something of a name, a dangling link included."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
