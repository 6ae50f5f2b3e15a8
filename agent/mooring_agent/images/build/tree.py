# SPDX-License-Identifier: Apache-2.0
"""A file tree made of layers, read as a container would see it, and without mounting anything.

Whiteouts and opaque directories are followed as overlay does (Documentation/filesystems/overlayfs.rst). The
layers must not change meanwhile; those of a snapshotter never do.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.archive import xattrs_of
from mooring_agent.linux.paths import open_directory
from mooring_agent.storage.changes import find_merged, is_whiteout

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_MOST_LINKS = 255  # in the resolution of one path
_LONGEST = 4 << 20  # bytes of a file that is read whole


class Tree:
    """Directories laid over each other, topmost first; none is an empty tree.

    Paths are bytes relative to the root, without `.`, `..` or a slash at either end, and no component but the
    last is a link: `resolve` makes such a path of any.
    """

    def __init__(self, layers: Sequence[Path]) -> None:
        self.layers = tuple(layers)
        self._opened = ExitStack()
        self._fds: dict[int, int] = {}
        self._merged: dict[bytes, tuple[int, ...]] = {}
        with self._opened:  # closes what is open already when one cannot be opened
            for layer in self.layers:
                fd = os.open(layer, _DIRECTORY)
                self._opened.callback(os.close, fd)
                self._fds[len(self._fds)] = fd
            self._opened = self._opened.pop_all()
        self._merged[b""] = tuple(range(len(self._fds)))

    def close(self) -> None:
        """Let go of the layers."""
        self._opened.close()

    def lstat(self, path: bytes) -> os.stat_result | None:
        """What is at the path, a link not followed; None if there is nothing."""
        if not path:
            return os.fstat(self._fds[0]) if self._fds else None
        parent, _, name = path.rpartition(b"/")
        return self._find(self.merged(parent), parent, name)[0]

    def merged(self, path: bytes) -> tuple[int, ...]:
        """The layers, topmost first, that show something in the directory; () if it is none."""
        known = self._merged.get(path)
        if known is None:
            parent, _, name = path.rpartition(b"/")
            known = self._merged[path] = self._find(self.merged(parent), parent, name)[1]
        return known

    def names(self, path: bytes) -> list[tuple[bytes, os.stat_result]]:
        """What is in a directory, sorted; nothing if it is none."""
        shown: dict[bytes, os.stat_result] = {}
        hidden: set[bytes] = set()
        for index in self.merged(path):
            fd = open_directory(self._fds[index], path)
            try:
                for name in map(os.fsencode, os.listdir(fd)):
                    if name in shown or name in hidden:
                        continue
                    status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                    if is_whiteout(status):
                        hidden.add(name)
                    else:
                        shown[name] = status
            finally:
                os.close(fd)
        return sorted(shown.items())

    def walk(
        self, path: bytes, skip: Callable[[bytes], bool] = lambda path: False
    ) -> Iterator[tuple[bytes, os.stat_result]]:
        """Everything below a directory, each directory before what is in it; `skip` tells directories not to
        go down into.
        """
        pending = deque([path])
        while pending:
            directory = pending.popleft()
            below = []
            for name, status in self.names(directory):
                child = directory + b"/" + name if directory else name
                yield child, status
                if stat.S_ISDIR(status.st_mode) and not skip(child):
                    below.append(child)
            pending.extendleft(reversed(below))

    def resolve(self, path: bytes, *, last: bool = True) -> bytes:
        """The path without links, `.` and `..`, all of which end inside of the root; it need not exist.

        With `last` a link at its end is followed too. Raises InvalidSpec for links in a circle.
        """
        waiting = deque(part for part in path.split(b"/") if part and part != b".")
        found: list[bytes] = []
        links = 0
        while waiting:
            part = waiting.popleft()
            if part == b"..":
                del found[-1:]
                continue
            whole = b"/".join((*found, part))
            if waiting or last:
                status = self.lstat(whole)
                if status is not None and stat.S_ISLNK(status.st_mode):
                    links += 1
                    if links > _MOST_LINKS:
                        raise InvalidSpec(f"{os.fsdecode(path)!r} leads through links in a circle")
                    link = self.readlink(whole)
                    if link.startswith(b"/"):
                        found.clear()
                    waiting.extendleft(
                        reversed([piece for piece in link.split(b"/") if piece and piece != b"."])
                    )
                    continue
            found.append(part)
        return b"/".join(found)

    def readlink(self, path: bytes) -> bytes:
        """Where a link points to."""
        with self._parent(path) as (fd, name):
            return os.readlink(name, dir_fd=fd)

    def open(self, path: bytes) -> int:
        """A descriptor of a regular file. Raises InvalidSpec if it is none."""
        with self._parent(path) as (parent, name):
            fd = os.open(name, _FILE, dir_fd=parent)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise InvalidSpec(f"{os.fsdecode(path)!r} is no regular file")
        return fd

    def xattrs(self, path: bytes) -> dict[bytes, bytes]:
        """Extended attributes, without those that mean something on the host alone, sorted."""
        with self._parent(path) as (fd, name):
            found = xattrs_of(b"/proc/self/fd/%d/%s" % (fd, name or b"."))
            return dict(sorted(found.items()))

    def text(self, path: bytes) -> str:
        """The content of a file such as /etc/passwd, "" if it is not there; links are followed."""
        whole = self.resolve(path)
        status = self.lstat(whole)
        if status is None or not stat.S_ISREG(status.st_mode):
            return ""
        with open(self.open(whole), "rb") as file:
            return file.read(_LONGEST).decode("utf-8", "replace")

    def places(self, path: bytes) -> tuple[Path, ...]:
        """Where a path is on the host: the directories that make it up, topmost first, or the one file."""
        status = self.lstat(path)
        if status is None:
            return ()
        if stat.S_ISDIR(status.st_mode):
            indices = self.merged(path)
        else:
            parent, _, name = path.rpartition(b"/")
            indices = (self._holder(parent, name),)
        return tuple(self.layers[index] / os.fsdecode(path) for index in indices)

    @contextmanager
    def _parent(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        parent, _, name = path.rpartition(b"/")
        index = self._holder(parent, name) if name else 0
        fd = open_directory(self._fds[index], parent)
        try:
            yield fd, name
        finally:
            os.close(fd)

    def _holder(self, parent: bytes, name: bytes) -> int:
        """The topmost layer that has a name. Raises FileNotFoundError."""
        for index in self.merged(parent):
            try:
                os.stat(_join(parent, name), dir_fd=self._fds[index], follow_symlinks=False)
            except FileNotFoundError:
                continue
            return index
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(_join(parent, name)))

    def _find(
        self, indices: tuple[int, ...], parent: bytes, name: bytes
    ) -> tuple[os.stat_result | None, tuple[int, ...]]:
        """What is seen at a name of a directory that is merged of `indices`, and of which layers it is."""
        return find_merged(self._fds, indices, _join(parent, name))


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent else name
