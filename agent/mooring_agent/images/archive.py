# SPDX-License-Identifier: Apache-2.0
"""A directory, or a container's own changes, as the tar archive of a layer (OCI image-spec, layer.md)."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.layers import FOREIGN_XATTRS
from mooring_agent.images.stream import CHUNK
from mooring_agent.images.tar_writer import END, member_header, padding
from mooring_agent.storage.changes import is_opaque, is_whiteout
from mooring_agent.storage.tree import walk_tree

_MIN_HOLE = 1 << 16  # bytes; smaller holes cost more in headers than they save


def archive_directory(
    directory: Path, *, overlay: bool = False, exclude: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[bytes]:
    """Yield a tar archive of what is in `directory`; the same tree gives the same bytes.

    With `overlay` it is an upper directory: whiteouts and opaque directories of overlay become those of the
    specification. Mount points are kept, what is mounted on them is left out, and so are sockets (no
    archive holds them) and the directories in `exclude` (device and inode). No link is followed. Names that
    the specification reserves for whiteouts (.wh.…) raise InvalidSpec, because they would not come back as
    what they are.
    """
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        status = os.fstat(root_fd)
        archive = TreeArchive(status.st_dev, overlay=overlay, exclude=exclude)
        yield archive.root(root_fd)
        for level in walk_tree(root_fd, archive.enter):
            yield from archive.members(level.path, level.fd, level.entries)
    finally:
        os.close(root_fd)
    yield END


class TreeArchive:
    """The members of one archive, directory by directory; remembers which files have several names."""

    def __init__(
        self,
        device: int,
        *,
        overlay: bool = False,
        exclude: frozenset[tuple[int, int]] = frozenset(),
        layer: bool = True,
    ) -> None:
        """Archive what is on the file system `device`; see archive_directory for the rest.

        Without `layer` it is for no image, and may have any names in it.
        """
        self._layer = layer
        self._overlay = overlay
        self._device = device
        self._exclude = exclude
        self._linked: dict[tuple[int, int], bytes] = {}  # first name of a file that has several

    def root(self, root_fd: int, name: bytes = b".") -> bytes:
        """The member of the root itself, which comes first."""
        return member_header(_entry(name + b"/", os.fstat(root_fd), tar.DIRECTORY, xattrs_of(root_fd)))

    def enter(self, status: os.stat_result) -> bool:
        """Whether to go down into a directory."""
        return status.st_dev == self._device and (status.st_dev, status.st_ino) not in self._exclude

    def members(
        self, path: bytes, fd: int, entries: Iterable[tuple[bytes, os.stat_result]]
    ) -> Iterator[bytes]:
        """Yield the members of one directory, the directories in it without their content."""
        prefix = path + b"/" if path else b""
        if self._overlay and is_opaque(fd):
            yield member_header(tar.TarEntry(prefix + b".wh..wh..opq", tar.REGULAR, mode=0))
        for name, status in entries:
            if self._layer and name.startswith(b".wh."):
                raise InvalidSpec(
                    f"file {os.fsdecode(prefix + name)!r} cannot be in a layer, where a name that begins "
                    "with .wh. marks a removed file: rename it"
                )
            if self._overlay and is_whiteout(status):
                yield member_header(tar.TarEntry(prefix + b".wh." + name, tar.REGULAR, mode=0))
                continue
            kind = tar.kind_of(status)
            if kind is None or (kind == tar.DIRECTORY and (status.st_dev, status.st_ino) in self._exclude):
                continue
            yield from self._member(prefix + name, fd, name, status, kind)

    def _member(
        self, path: bytes, dir_fd: int, name: bytes, status: os.stat_result, kind: bytes
    ) -> Iterator[bytes]:
        if kind != tar.DIRECTORY and status.st_nlink > 1:
            first = self._linked.setdefault((status.st_dev, status.st_ino), path)
            if first != path:
                yield member_header(_entry(path, status, tar.HARD_LINK, {}, link=first))
                return
        if kind == tar.REGULAR:
            yield from _file(path, dir_fd, name)
            return
        xattrs = _xattrs_at(dir_fd, name)
        link = os.readlink(name, dir_fd=dir_fd) if kind == tar.SYMLINK else b""
        yield member_header(_entry(path, status, kind, xattrs, link=link))


def _entry(
    path: bytes, status: os.stat_result, kind: bytes, xattrs: dict[bytes, bytes], link: bytes = b""
) -> tar.TarEntry:
    return tar.TarEntry(
        path,
        kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        link=link,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)),
        xattrs=xattrs,
    )


def _file(path: bytes, dir_fd: int, name: bytes) -> Iterator[bytes]:
    fd = _opened(path, dir_fd, name)
    try:
        status = os.fstat(fd)
        entry = _entry(path, status, tar.REGULAR, xattrs_of(fd))
        entry.size = entry.stored = status.st_size
        parts = _data_parts(fd, status)
        if parts is not None:
            entry.parts, entry.stored = parts, sum(length for _, length in parts)
        yield member_header(entry)
        for offset, length in parts if parts is not None else ((0, status.st_size),):
            yield from _data(fd, offset, length)
        if entry.stored % tar.BLOCK:
            yield padding(entry.stored)
    finally:
        os.close(fd)


def _opened(path: bytes, dir_fd: int, name: bytes) -> int:
    """Open a file once it is known to be one: a container may have put a FIFO or a device in its place, of
    which some do something as soon as they are opened.
    """
    there = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if not stat.S_ISREG(os.fstat(there).st_mode):
            raise InvalidSpec(
                f"file {os.fsdecode(path)!r} changed while it was read: try again when nothing writes there"
            )
        # O_NONBLOCK: one that has a lease would be waited for, fcntl(2).
        return os.open(f"/proc/self/fd/{there}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(there)


def _data(fd: int, offset: int, length: int) -> Iterator[bytes]:
    """Yield exactly `length` bytes, as the header says: a file that shrinks meanwhile ends in zeros."""
    end = offset + length
    while offset < end:
        chunk = os.pread(fd, min(CHUNK, end - offset), offset) or bytes(min(CHUNK, end - offset))
        offset += len(chunk)
        yield chunk


def _data_parts(fd: int, status: os.stat_result) -> tuple[tuple[int, int], ...] | None:
    """Where a file has data, or None when it has no holes worth the trouble.

    A hole at the end is told by a last part without length, for GNU tar, which goes by the parts alone.
    """
    if status.st_size - status.st_blocks * 512 < _MIN_HOLE:
        return None
    parts: list[tuple[int, int]] = []
    position = 0
    while position < status.st_size and len(parts) < tar.MAX_SPARSE_PARTS:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:  # no data any more
                raise
            return (*parts, (status.st_size, 0))
        position = min(os.lseek(fd, start, os.SEEK_HOLE), status.st_size)
        if position > start:
            parts.append((start, position - start))
    if position < status.st_size:
        return None
    return tuple(parts)


def xattrs_of(target: int | bytes) -> dict[bytes, bytes]:
    """The extended attributes, without those that mean something on the host alone, of what is open or at a
    path, where no link is followed.
    """
    follow = isinstance(target, int)
    try:
        names = os.listxattr(target) if follow else os.listxattr(target, follow_symlinks=False)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise
    found = {}
    for name in map(os.fsencode, names):
        if not name.startswith(FOREIGN_XATTRS):
            found[name] = (
                os.getxattr(target, name) if follow else os.getxattr(target, name, follow_symlinks=False)
            )
    return found


def _xattrs_at(dir_fd: int, name: bytes) -> dict[bytes, bytes]:
    return xattrs_of(b"/proc/self/fd/%d/%s" % (dir_fd, name))
