# SPDX-License-Identifier: Apache-2.0
"""The log of a container: what it wrote, byte for byte, with the time and the stream of every piece.

A log is a directory of segments. Segment N has `N.out` and `N.err`, the raw bytes of the two streams, and
`N.idx`, whose records of 16 bytes say in order: nanoseconds since the epoch (u64), length (u32), stream (u8:
1 or 2), three zero bytes, little endian. A piece goes from the container's pipe to the file by splice(2): the
bytes are in the pipe or in the file, never in this process's memory, so a keeper that is killed at any moment
loses none and repeats none. What it had moved but not yet indexed is indexed by its successor.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections import OrderedDict

INDEX = struct.Struct("<QIBxxx")
SUFFIXES = {1: "out", 2: "err"}
# At a cut a segment waits for the end of a line, but not longer than for this much more.
_LINE_SLACK = 64 << 10
_PIECE_MAX = 1 << 20
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
        data, index = self._open(stream)
        offset = self._offsets[stream]
        try:
            length = os.splice(pipe, data, _PIECE_MAX, offset_dst=offset, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            dropped = len(os.read(pipe, _PIECE_MAX))
            self.lost += dropped
            return dropped
        if length:
            self._note(index, stream, length, time.time_ns())
            self._cut_if_full(data, stream)
        return length

    def append(self, piece: bytes, stream: int) -> None:
        """Write a piece that does not come from a pipe: a terminal's output."""
        data, index = self._open(stream)
        try:
            length = os.pwrite(data, piece, self._offsets[stream])
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise
            self.lost += len(piece)
            return
        self._note(index, stream, length, time.time_ns())
        self._cut_if_full(data, stream)

    def close(self) -> None:
        """Give up the descriptors."""
        self._cache.drop(self._directory)

    def _note(self, index: int, stream: int, length: int, moment: int) -> None:
        os.write(index, INDEX.pack(moment, length, stream))
        self._offsets[stream] += length

    def _cut_if_full(self, data: int, stream: int) -> None:
        written = self._offsets[1] + self._offsets[2]
        if not self.size or written < self.size:
            return
        if written < self.size + _LINE_SLACK and os.pread(data, 1, self._offsets[stream] - 1) != b"\n":
            return
        self._cache.drop(self._directory)
        self._segment += 1
        self._offsets = {1: 0, 2: 0}
        self._open(1)
        for number in segments(self._directory)[: -self.files or None]:
            for suffix in ("idx", "out", "err"):
                os.unlink(f"{self._directory}/{number}.{suffix}")

    def _open(self, stream: int) -> tuple[int, int]:
        files = self._cache.get(self._directory)
        if files is None:
            base = f"{self._directory}/{self._segment}"
            out = os.open(f"{base}.out", _FLAGS, 0o600)
            err = os.open(f"{base}.err", _FLAGS, 0o600)
            index = os.open(f"{base}.idx", _FLAGS | os.O_APPEND, 0o600)
            files = (out, err, index)
            if not self._mended:
                self._mend(files)
            self._cache.put(self._directory, files)
        return files[stream - 1], files[2]

    def _mend(self, files: tuple[int, int, int]) -> None:
        """Learn the offsets from the index, and index what a killed keeper had moved without saying so."""
        self._mended = True
        index = files[2]
        length = os.fstat(index).st_size
        whole = length - length % INDEX.size
        if whole != length:
            os.truncate(index, whole)
        content = os.pread(index, whole, 0)
        for _, piece, stream in INDEX.iter_unpack(content):
            self._offsets[stream] += piece
        for stream in (1, 2):
            found = os.fstat(files[stream - 1])
            missing = found.st_size - self._offsets[stream]
            if missing > 0:
                self._note(index, stream, missing, found.st_mtime_ns)


class OpenFiles:
    """The descriptors of the logs written to last; the kernel's limit leaves no room for those of every
    container.
    """

    def __init__(self, limit: int = 128) -> None:
        self._limit = limit
        self._open: OrderedDict[str, tuple[int, int, int]] = OrderedDict()

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


def _close(files: tuple[int, int, int]) -> None:
    for descriptor in files:
        os.close(descriptor)
