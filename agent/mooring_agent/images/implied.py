# SPDX-License-Identifier: Apache-2.0
"""Implied parents: directories that a layer has files in and that its archive does not list itself.

In a stacked snapshot such a directory is made anew, and overlay shows its attributes instead of those of the
directory below. So it is given those, as soon as it is known what lies below: right after the archive, or,
for a layer that was unpacked before its parent was there, when it is committed. Both are done here, from the
finished layer alone, so the outcome depends neither on when that is nor on the order of the archive.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import BinaryIO

from mooring_agent.linux.paths import IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from mooring_agent.storage.changes import is_opaque
from mooring_agent.storage.snapshotter import UnpackTarget

MODE = 0o755
"""Of an implied parent that the layers below do not have."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_BLOCK = 1 << 16  # bytes of a note read at a time


class ImpliedParents:
    """Those of one layer, while its archive is read."""

    def __init__(self) -> None:
        # By inode number: a path may lead through a link, or elsewhere later.
        self._paths: dict[int, bytes] = {}
        self._root = True

    def add(self, fd: int, path: bytes) -> None:
        """The directory open as `fd` was made at `path` because a member lies in it."""
        self._paths[os.fstat(fd).st_ino] = path

    def add_none(self, status: os.stat_result) -> None:
        """A directory has attributes of its own: the archive lists it, or hides what is below it."""
        self._paths.pop(status.st_ino, None)

    def listed(self, fd: int) -> None:
        """The archive has a member for the directory open as `fd`."""
        if self._paths:
            self.add_none(os.fstat(fd))

    def root_listed(self) -> None:
        """The archive has a member for its root."""
        self._root = False

    def paths(self, root_fd: int) -> Iterator[bytes]:
        """What is left of them at the end, as paths without links; the root is the empty one."""
        if self._root:
            yield b""
        for inode, path in self._paths.items():
            found = _locate(root_fd, path, inode)
            if found is not None:
                yield found


def _locate(root_fd: int, path: bytes, inode: int) -> bytes | None:
    """The path without links of a directory that was made at `path`; None if it is not there any more."""
    try:
        fd = openat2(root_fd, path, _DIRECTORY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    try:
        if os.fstat(fd).st_ino != inode:
            return None
        root, found = (os.readlink(b"/proc/self/fd/%d" % each) for each in (root_fd, fd))
        return found[len(root) + 1 :]
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return path
        raise
    finally:
        os.close(fd)


def write_note(note: BinaryIO, paths: Iterable[bytes]) -> None:
    """Write paths down, for `read_note`."""
    for path in paths:
        note.write(path + b"\0")
    note.flush()


def read_note(note: BinaryIO) -> Iterator[bytes]:
    """Yield the paths that were written down."""
    note.seek(0)
    rest = b""
    while block := note.read(_BLOCK):
        *paths, rest = (rest + block).split(b"\0")
        yield from paths


def adopt_attributes(target: UnpackTarget, paths: Iterable[bytes]) -> None:
    """Give the directories at `paths` the owner, mode and time that they have in the layers below.

    Those that these do not have, or that something hides, stay as they are. Raises OSError.
    """
    with ExitStack() as stack:
        fds = []
        for directory in (target.directory, *target.parents):
            fds.append(os.open(directory, _DIRECTORY))
            stack.callback(os.close, fds[-1])
        own, *below = fds
        for path in paths:
            status = _look_below(own, below, path)
            if status is None:
                continue
            fd = openat2(own, path or b".", _DIRECTORY, resolve=IN_ROOT | RESOLVE_NO_SYMLINKS)
            try:
                os.fchown(fd, status.st_uid, status.st_gid)
                os.fchmod(fd, stat.S_IMODE(status.st_mode))
                os.utime(fd, ns=(status.st_mtime_ns, status.st_mtime_ns))
            finally:
                os.close(fd)


def _look_below(own: int, below: Sequence[int], path: bytes) -> os.stat_result | None:
    """The directory that overlay shows at `path` of the layers below, or None."""
    parts = path.split(b"/") if path else []
    _, hidden = _look(own, parts[:-1])
    for layer in below:
        if hidden:
            return None
        status, hidden = _look(layer, parts)
        if status is not None:
            return status
    return None


def _look(layer: int, parts: Sequence[bytes]) -> tuple[os.stat_result | None, bool]:
    """The directory at a path of one layer, and whether that layer hides what is there in those below it."""
    hidden = False
    fd = layer
    try:
        for part in parts:
            try:
                inner = os.open(part, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
            except FileNotFoundError:
                return None, hidden
            except OSError as error:
                if error.errno in (errno.ENOTDIR, errno.ELOOP):  # a file, a whiteout or a link
                    return None, True
                raise
            if fd != layer:
                os.close(fd)
            fd = inner
            hidden = hidden or is_opaque(fd)
        return os.fstat(fd), hidden
    finally:
        if fd != layer:
            os.close(fd)
