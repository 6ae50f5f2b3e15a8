# SPDX-License-Identifier: Apache-2.0
"""The log of a container: what it wrote, byte for byte, with the time and the stream of every piece.

A log is a directory of segments. Segment N has `N.out` and `N.err`, the raw bytes of the two streams, and
`N.idx`, whose records of 16 bytes say in order: nanoseconds since the epoch (u64), length (u32), stream (u8:
1 or 2), three zero bytes, little endian. A piece goes from the container's pipe to the file by splice(2): the
bytes are in the pipe or in the file, never in this process's memory, so a keeper that is killed at any moment
loses none and repeats none. What it had moved but not yet indexed is indexed by its successor.

A segment takes `size` bytes of both streams together, and what is missing of the line that fills it; no more
than `files` segments are kept.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import OrderedDict

from ..failpoints import reached
from ..linux import pipes
from .diagnostics import complain

INDEX = struct.Struct("<QIBxxx")
SUFFIXES = {1: "out", 2: "err"}
# A full segment waits for the end of a line, but not longer than for this much more.
_LINE_SLACK = 64 << 10
# How far ahead that end is looked for at once.
_LOOK_AHEAD = 4 << 10
_PIECE_MAX = 1 << 20
# What keeps a log from being written and is no reason for a container to wait or for the keeper to end.
_NOT_WRITABLE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.ENOENT,
    errno.EMFILE,
    errno.ENFILE,
)
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC


def segments(directory: str) -> list[int]:
    """The numbers of the segments that are there, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".idx") and name[:-4].isdigit())


class Log:
    """The writing side of one container's log. Holds no descriptor while it is not written to."""

    def __init__(self, directory: str, size: int, files: int, cache: OpenFiles) -> None:
        self._directory = directory
        self.size = size
        self.files = files
        self._cache = cache
        os.makedirs(directory, mode=0o700, exist_ok=True)
        existing = segments(directory)
        self._segment = existing[-1] if existing else 0
        self._offsets = {1: 0, 2: 0}
        self._mended = not existing
        self.lost = 0

    def move(self, pipe: int, stream: int) -> int:
        """Move what `pipe` (non-blocking) holds, one piece at most, to the log; the number of bytes, 0 when
        it is empty.

        A disk that takes nothing does not stop the container: the piece is dropped and counted in `lost`.
        """
        try:
            data, index = self._open(stream)
            offset = self._offsets[stream]
            room = self._room() if self.size else _PIECE_MAX
            if room <= 0:
                room = _line_length(self._cache.look_ahead(pipe, _LOOK_AHEAD))
            length = os.splice(pipe, data, room, offset_dst=offset, flags=os.SPLICE_F_NONBLOCK) if room else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            return self._drop(pipe, error)
        reached("keeper.spliced")
        if length and self._note(data, index, stream, length, time.time_ns()):
            self._cut_if_full(data, stream)
        return length

    def append(self, piece: bytes, stream: int) -> None:
        """Write a piece that does not come from a pipe: a terminal's output."""
        if not self._mended:
            self.mend()
        while piece:
            room = (self._room() or _line_length(piece)) if self.size else len(piece)
            self._append(piece[:room], stream)
            piece = piece[room:]

    def limit(self, size: int, files: int) -> None:
        """Other limits from now on. Segments that are too many go at once."""
        self.size, self.files = size, files
        self._remove_before(self._segment + 1 - files)

    def _room(self) -> int:
        """How much the segment takes before it is full; 0 when it is."""
        return max(0, min(_PIECE_MAX, self.size - self._offsets[1] - self._offsets[2]))

    def _append(self, piece: bytes, stream: int) -> None:
        try:
            data, index = self._open(stream)
            length = os.pwrite(data, piece, self._offsets[stream])
        except OSError as error:
            self._lose(len(piece), error)
            return
        if length < len(piece):
            self._lose(len(piece) - length, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
        if self._note(data, index, stream, length, time.time_ns()):
            self._cut_if_full(data, stream)

    def recover(self) -> None:
        """Mend what another keeper has left. Where nothing was ever written that is nothing, and costs no
        files: there may be thousands of containers.
        """
        if not self._mended:
            self.mend()

    def mend(self) -> None:
        """Open the segment at hand, and index what a killed keeper had moved without saying so."""
        try:
            self._open(1)
        except OSError as error:
            self._lose(0, error)  # the next piece tries again

    def close(self) -> None:
        """Give up the descriptors."""
        self._cache.drop(self._directory)

    def _drop(self, pipe: int, error: OSError) -> int:
        """Take a piece from the pipe that cannot be kept, so that its writer can go on."""
        try:
            dropped = len(os.read(pipe, _PIECE_MAX))
        except BlockingIOError:
            return 0
        self._lose(dropped, error)
        return dropped

    def _lose(self, length: int, error: OSError) -> None:
        """Count what was lost. Whatever keeps a log from being written must not end the keeper."""
        if error.errno not in _NOT_WRITABLE:
            raise error
        if length and not self.lost:
            complain(f"log {self._directory} loses output: {error.strerror}")
        self.lost += length

    def _note(self, data: int, index: int, stream: int, length: int, moment: int) -> bool:
        """Enter a piece into the index, or take it back where the index cannot be written."""
        entry = INDEX.pack(moment, length, stream)
        try:
            if os.write(index, entry) != len(entry):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._lose(length, error)
            size = os.fstat(index).st_size
            os.ftruncate(index, size - size % INDEX.size)
            os.ftruncate(data, self._offsets[stream])
            return False
        self._offsets[stream] += length
        return True

    def _cut_if_full(self, data: int, stream: int) -> None:
        written = self._offsets[1] + self._offsets[2]
        if not self.size or written < self.size:
            return
        if written < self.size + _LINE_SLACK and os.pread(data, 1, self._offsets[stream] - 1) != b"\n":
            return
        self._cache.drop(self._directory)
        self._segment += 1
        self._offsets = {1: 0, 2: 0}
        reached("keeper.cut")
        self.mend()
        reached("keeper.rotated")
        self._remove_before(self._segment + 1 - self.files)

    def _remove_before(self, oldest: int) -> None:
        """Remove the segments below `oldest`, and what a killed keeper has left of such.

        The index goes last: as long as it is there a segment is known, and its removal is tried again.
        """
        names = [name for name in os.listdir(self._directory) if int(name.partition(".")[0]) < oldest]
        for name in sorted(names, key=lambda name: name.endswith(".idx")):
            os.unlink(f"{self._directory}/{name}")
            reached("keeper.unlinked")

    def _open(self, stream: int) -> tuple[int, int]:
        files = self._cache.get(self._directory)
        if files is None:
            files = _open_segment(f"{self._directory}/{self._segment}")
            self._cache.put(self._directory, files)
        if not self._mended:
            self._mend(files)
        return files[stream - 1], files[2]

    def _mend(self, files: tuple[int, int, int]) -> None:
        """Learn the offsets from the index, and index what a killed keeper had moved without saying so."""
        index = files[2]
        length = os.fstat(index).st_size
        content = os.pread(index, length, 0)
        self._offsets = {1: 0, 2: 0}
        sizes = {stream: os.fstat(files[stream - 1]).st_size for stream in SUFFIXES}
        good = 0
        for _, piece, stream in INDEX.iter_unpack(content[: len(content) - len(content) % INDEX.size]):
            # A power cut leaves zeros, or an index that tells of bytes that never reached the disk.
            if stream not in SUFFIXES or self._offsets[stream] + piece > sizes[stream]:
                break
            self._offsets[stream] += piece
            good += INDEX.size
        if good != length:
            os.truncate(index, good)
        for stream in (1, 2):
            data = files[stream - 1]
            found = os.fstat(data)
            missing = found.st_size - self._offsets[stream]
            if missing > 0:
                self._note(data, index, stream, missing, found.st_mtime_ns)
        self._mended = True
        # What a killed keeper has not come to remove, or what is too much by limits that are new.
        self._remove_before(self._segment + 1 - self.files)


class OpenFiles:
    """The descriptors of the logs written to last; the kernel's limit leaves no room for those of every
    container.
    """

    def __init__(self, limit: int = 128) -> None:
        self._limit = limit
        self._open: OrderedDict[str, tuple[int, int, int]] = OrderedDict()
        self._scratch: tuple[int, int] | None = None

    def look_ahead(self, pipe: int, length: int) -> bytes:
        """What `pipe` holds next, which stays in it; empty at its end. BlockingIOError where there is
        nothing.
        """
        if self._scratch is None:
            self._scratch = os.pipe2(os.O_CLOEXEC)
        reader, writer = self._scratch
        return os.read(reader, length) if pipes.tee(pipe, writer, length) else b""

    def get(self, key: str) -> tuple[int, int, int] | None:
        """The descriptors of `key`, now the last used."""
        files = self._open.get(key)
        if files is not None:
            self._open.move_to_end(key)
        return files

    def put(self, key: str, files: tuple[int, int, int]) -> None:
        """Keep `files`; close those that were not used for longest."""
        self._open[key] = files
        if len(self._open) > self._limit:
            _, old = self._open.popitem(last=False)
            _close(old)

    def drop(self, key: str) -> None:
        """Close the descriptors of `key`, if they are open."""
        files = self._open.pop(key, None)
        if files is not None:
            _close(files)


def _line_length(piece: bytes) -> int:
    """The length of the line at the beginning of `piece`, with its end; of all where it has none."""
    return piece.find(b"\n") + 1 or len(piece)


def _open_segment(base: str) -> tuple[int, int, int]:
    """The descriptors of a segment's data files and of its index, made where they are missing."""
    opened: list[int] = []
    try:
        for suffix, flags in (("out", 0), ("err", 0), ("idx", os.O_APPEND)):
            opened.append(os.open(f"{base}.{suffix}", _FLAGS | flags, 0o600))
    except OSError:
        for descriptor in opened:
            os.close(descriptor)
        raise
    out, err, index = opened
    return out, err, index


def _close(files: tuple[int, int, int]) -> None:
    for descriptor in files:
        os.close(descriptor)
