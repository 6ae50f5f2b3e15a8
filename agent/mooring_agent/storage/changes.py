# SPDX-License-Identifier: Apache-2.0
"""What a snapshot changed of its parent, read from overlay's upper directory or from two whole trees.

Both readings keep to what `Snapshotter.changes` promises, so that a diff is alike whatever the driver.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

from mooring_agent.linux.paths import open_directory
from mooring_agent.storage.snapshotter import Change, ChangeKind
from mooring_agent.storage.tree import Directory, list_directory, walk_tree

OVERLAY_OPAQUE = "trusted.overlay.opaque"  # Documentation/filesystems/overlayfs.rst
_OVERLAY_OWN = ("trusted.overlay.", "user.overlay.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def is_whiteout(status: os.stat_result) -> bool:
    """Whether overlay takes this for the mark of a removed name: a character device 0/0."""
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def is_opaque(directory: int | bytes) -> bool:
    """Whether a directory, open or by its path, hides the directories of its name below."""
    try:
        return os.getxattr(directory, OVERLAY_OPAQUE) == b"y"
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return False
        raise


def find_merged(
    fds: Mapping[int, int], layers: Collection[int], path: bytes
) -> tuple[os.stat_result | None, tuple[int, ...]]:
    """What overlay shows at a path of layers, topmost first, and of a directory those that it merges in it.

    `fds` are open directories by the number of their layer; above the path all of them have directories.
    """
    found: os.stat_result | None = None
    merged: list[int] = []
    for layer in layers:
        fd = fds[layer]
        try:
            status = os.stat(path, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if is_whiteout(status):
            break
        if not stat.S_ISDIR(status.st_mode):
            return found or status, tuple(merged)
        found = found or status
        merged.append(layer)
        if len(layers) > 1 and is_opaque(_within(fd, path)):
            break
    return found, tuple(merged)


def overlay_changes(upper: Path, lower: tuple[Path, ...]) -> Iterator[Change]:
    """Yield what the directory `upper` changes of the layers `lower`, topmost first.

    A file that is in `upper` counts as modified although it was only opened for writing; a directory, which
    overlay copies up for whatever lies in it, only when it differs itself.
    """
    with ExitStack() as opened:
        layers = [_opened(opened, os.open(path, _DIRECTORY)) for path in lower]
        upper_fd = _opened(opened, os.open(upper, _DIRECTORY))
        telling = _Telling()
        merged: dict[bytes, tuple[int, ...]] = {b"": tuple(range(len(layers)))}
        for level in walk_tree(upper_fd):
            with _Merged(layers, merged.pop(level.path, ()), level.path) as below:
                for name, status in level.entries:
                    path = level.path + b"/" + name if level.path else name
                    found, directories = below.find(name)
                    if is_whiteout(status):
                        if found is not None:
                            yield from telling.tell(path, ChangeKind.DELETED)
                        continue
                    is_directory = stat.S_ISDIR(status.st_mode)
                    if found is None:
                        yield from telling.tell(path, ChangeKind.ADDED, directory=is_directory)
                        continue
                    if is_directory and stat.S_ISDIR(found.st_mode):
                        merged[path] = directories
                        if not _directory_differs(level, name, status, below, directories[0], found):
                            continue
                    yield from telling.tell(path, ChangeKind.MODIFIED, directory=is_directory)
                if level.path and is_opaque(level.fd):
                    present = {name for name, _ in level.entries}
                    for name in sorted(below.names() - present):
                        yield from telling.tell(level.path + b"/" + name, ChangeKind.DELETED)


def tree_changes(old: Path | None, new: Path) -> Iterator[Change]:
    """Yield what the tree `new` changes of `old`, of which it began as a snapshot; None is an empty tree.

    A snapshot keeps the inode number and the time of the last change of status, so one that has both is
    untouched: whatever is done to a file sets the second (inode(7), ctime), and nobody can set it back.
    """
    with ExitStack() as opened:
        old_fd = _opened(opened, os.open(old, _DIRECTORY)) if old is not None else -1
        new_fd = _opened(opened, os.open(new, _DIRECTORY))
        telling = _Telling()
        in_both = {b""} if old is not None else set()
        for level in walk_tree(new_fd):
            before: dict[bytes, os.stat_result] = {}
            if level.path in in_both:
                in_both.discard(level.path)
                fd = open_directory(old_fd, level.path)
                try:
                    before = dict(list_directory(fd))
                finally:
                    os.close(fd)
            for name, status in level.entries:
                path = level.path + b"/" + name if level.path else name
                is_directory = stat.S_ISDIR(status.st_mode)
                found = before.pop(name, None)
                if found is None:
                    yield from telling.tell(path, ChangeKind.ADDED, directory=is_directory)
                    continue
                if is_directory and stat.S_ISDIR(found.st_mode):
                    in_both.add(path)
                if _identity(found) != _identity(status):
                    yield from telling.tell(path, ChangeKind.MODIFIED, directory=is_directory)
            for name in sorted(before):
                path = level.path + b"/" + name if level.path else name
                yield from telling.tell(path, ChangeKind.DELETED)


class _Telling:
    """Puts the directories above a change before it, each once: in them something changed."""

    def __init__(self) -> None:
        self._told = {b""}

    def tell(self, path: bytes, kind: ChangeKind, *, directory: bool = False) -> Iterator[Change]:
        above = []
        parent = path.rpartition(b"/")[0]
        while parent not in self._told:
            above.append(parent)
            parent = parent.rpartition(b"/")[0]
        self._told.update(above)
        for each in reversed(above):
            yield Change(each, ChangeKind.MODIFIED)
        if directory:
            self._told.add(path)
        yield Change(path, kind)


class _Merged:
    """One directory as the layers below show it: those of its name that overlay merges, topmost first."""

    def __init__(self, layers: list[int], indices: tuple[int, ...], path: bytes) -> None:
        self._opened = ExitStack()
        self._fds: dict[int, int] = {}
        with self._opened:  # closes what is open already when one cannot be opened
            for index in indices:
                self._fds[index] = _opened(self._opened, open_directory(layers[index], path))
            self._opened = self._opened.pop_all()

    def __enter__(self) -> _Merged:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def fd(self, index: int) -> int:
        """The directory in the layer `index`."""
        return self._fds[index]

    def find(self, name: bytes) -> tuple[os.stat_result | None, tuple[int, ...]]:
        """What is seen at `name`, and of a directory the layers that are merged in it."""
        return find_merged(self._fds, self._fds, name)

    def names(self) -> set[bytes]:
        """All names that are seen."""
        seen: set[bytes] = set()
        hidden: set[bytes] = set()
        for fd in self._fds.values():
            for name, status in list_directory(fd):
                if is_whiteout(status) and name not in seen:
                    hidden.add(name)
                elif name not in hidden:
                    seen.add(name)
        return seen


def _directory_differs(
    level: Directory, name: bytes, status: os.stat_result, below: _Merged, index: int, found: os.stat_result
) -> bool:
    """Whether a directory of the upper layer is another than the one that it was copied from."""
    own = (status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns)
    if own != (found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns):
        return True
    here, there = _within(level.fd, name), _within(below.fd(index), name)
    return is_opaque(here) or _xattrs(here) != _xattrs(there)


def _xattrs(path: bytes) -> dict[str, bytes]:
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if not name.startswith(_OVERLAY_OWN)
    }


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return (
        status.st_ino,
        status.st_mode,
        status.st_size if not stat.S_ISDIR(status.st_mode) else 0,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _within(fd: int, name: bytes) -> bytes:
    return b"/proc/self/fd/%d/%s" % (fd, name)


def _opened(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
