# SPDX-License-Identifier: Apache-2.0
"""Reading the logs that the keeper writes (format: `keeper.logs`), while they grow and while segments come
and go.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..linux.inotify import DirectoryWatch

_INDEX = struct.Struct("<QIBxxx")
_SUFFIXES = {1: "out", 2: "err"}
_INDEX_CHUNK = _INDEX.size * 4096
_PIECE_MAX = 1 << 20
# As docker's: what has no newline for longer is given in parts, so that nobody has to hold all of it.
LINE_MAX = 16 << 10
# Pieces read between two looks of the event loop at everybody else.
_PIECES_A_TURN = 64
_BYTES_A_TURN = 256 << 10
_RECHECK = 1.0


@dataclass(frozen=True)
class LogChunk:
    """A piece of output: when (nanoseconds since the epoch), of which stream (1 output, 2 error), and the
    bytes.
    """

    time_ns: int
    stream: int
    data: bytes


class LogReader:
    """A position in a container's log that moves forward. `read` gives what is there by now."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._segment = -1
        self._index = -1
        self._data: dict[int, int] = {}
        self._offsets: dict[int, int] = {}
        self._index_offset = 0
        self._kept: dict[int, tuple[int, dict[int, int]]] = {}

    def skip_to_end(self) -> None:
        """Pass over all that is there."""
        numbers = self._segments()
        if numbers:
            self._open(numbers[-1])
            content = os.pread(self._index, os.fstat(self._index).st_size, 0)
            whole = len(content) - len(content) % _INDEX.size
            for _, length, stream in _INDEX.iter_unpack(content[:whole]):
                self._offsets[stream] += length
            self._index_offset = whole

    def read(self) -> Iterator[LogChunk]:
        """The pieces written since the last call, in order."""
        while True:
            if self._segment < 0 and not self._advance():
                return
            yield from self._read_segment()
            if not self._advance():
                return

    def keep(self) -> None:
        """Open the segments that are there and not read yet: rotation may remove them before their
        turn comes.
        """
        for number in self._listed():
            if number > self._segment and number not in self._kept:
                with suppress(FileNotFoundError):
                    self._kept[number] = self._open_files(number)

    def close(self) -> None:
        """Give up the descriptors."""
        self._close_segment()
        for index, data in self._kept.values():
            for descriptor in (index, *data.values()):
                os.close(descriptor)
        self._kept.clear()

    def _close_segment(self) -> None:
        for descriptor in (self._index, *self._data.values()):
            if descriptor >= 0:
                os.close(descriptor)
        self._index, self._data = -1, {}

    def _read_segment(self) -> Iterator[LogChunk]:
        while True:
            content = os.pread(self._index, _INDEX_CHUNK, self._index_offset)
            whole = len(content) - len(content) % _INDEX.size
            if not whole:
                return
            for moment, length, stream in _INDEX.iter_unpack(content[:whole]):
                self._index_offset += _INDEX.size
                while length:
                    data = os.pread(self._data[stream], min(length, _PIECE_MAX), self._offsets[stream])
                    if not data:
                        break
                    self._offsets[stream] += len(data)
                    length -= len(data)
                    yield LogChunk(moment, stream, data)

    def _advance(self) -> bool:
        """Go on to the next segment there is, if there is one; the one at hand must have been read to its
        end.
        """
        following = [number for number in self._segments() if number > self._segment]
        if not following:
            return False
        if self._segment >= 0 and self._unread():
            return True
        for number in following:
            try:
                self._open(number)
            except FileNotFoundError:
                continue  # rotated away since it was listed
            return True
        return False

    def _unread(self) -> bool:
        return os.fstat(self._index).st_size - self._index_offset >= _INDEX.size

    def _open(self, number: int) -> None:
        """Go to the beginning of a segment. Raises FileNotFoundError, and stays where it is then."""
        files = self._kept.pop(number, None) or self._open_files(number)
        self._close_segment()
        self._index, self._data = files
        self._offsets = {1: 0, 2: 0}
        self._index_offset = 0
        self._segment = number

    def _open_files(self, number: int) -> tuple[int, dict[int, int]]:
        base = f"{self._directory}/{number}"
        opened: list[int] = []
        try:
            for suffix in ("idx", *_SUFFIXES.values()):
                opened.append(os.open(f"{base}.{suffix}", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        index, *data = opened
        return index, dict(zip(_SUFFIXES, data, strict=True))

    def _segments(self) -> list[int]:
        return sorted({*self._listed(), *self._kept})

    def _listed(self) -> list[int]:
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return []
        return sorted(int(name[:-4]) for name in names if name.endswith(".idx"))


class LineAssembler:
    """Puts pieces together to lines: each chunk out ends in a newline, but for what `rest` gives at the end.

    A line that is longer than `LINE_MAX` bytes comes in parts of that size.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, bytes]] = {}

    def feed(self, chunk: LogChunk) -> Iterator[LogChunk]:
        """The lines that `chunk` completes; a line bears the time of its first piece."""
        moment, begun = self._open.pop(chunk.stream, (chunk.time_ns, b""))
        *lines, rest = (begun + chunk.data).split(b"\n")
        for line in lines:
            yield from _parts(moment, chunk.stream, line + b"\n")
            moment = chunk.time_ns
        if len(rest) > LINE_MAX:
            *parts, last = _parts(moment, chunk.stream, rest)
            yield from parts
            rest = last.data
        if rest:
            self._open[chunk.stream] = (moment, rest)

    def rest(self) -> Iterator[LogChunk]:
        """Lines that were begun and not ended."""
        for stream, (moment, data) in self._open.items():
            yield LogChunk(moment, stream, data)
        self._open.clear()


def _parts(moment: int, stream: int, line: bytes) -> Iterator[LogChunk]:
    for start in range(0, len(line), LINE_MAX):
        yield LogChunk(moment, stream, line[start : start + LINE_MAX])


async def follow(
    reader: LogReader,
    directory: str,
    watch: DirectoryWatch,
    ended: Callable[[], bool],
    wakers: set[asyncio.Event],
) -> AsyncIterator[LogChunk]:
    """Every piece from the reader's position on, until `ended` holds and all is delivered.

    While it waits, its event is among `wakers`, so that whoever ends the container can wake it. However
    slowly the pieces are taken, rotation takes none away that were written since the call.
    """
    number, changed = watch.add(directory, reader.keep)
    wakers.add(changed)
    try:
        while True:
            changed.clear()
            over = ended()
            pieces = size = 0
            for chunk in reader.read():
                yield chunk
                pieces, size = pieces + 1, size + len(chunk.data)
                if pieces >= _PIECES_A_TURN or size >= _BYTES_A_TURN:
                    pieces = size = 0
                    await asyncio.sleep(0)
            if over:
                return
            try:
                await asyncio.wait_for(changed.wait(), _RECHECK)
            except TimeoutError:
                continue
    finally:
        wakers.discard(changed)
        watch.remove(number, changed)
        reader.close()


def read_lines(
    directory: str, tail: int | None, since: float | None, until: float | None, streams: tuple[int, ...]
) -> tuple[list[LogChunk], LogReader, LineAssembler]:
    """The lines that are there, the last `tail` of them; and what is needed to go on from there. Blocking."""
    reader, assembler = LogReader(directory), LineAssembler()
    lines: deque[LogChunk] = deque(maxlen=tail)
    for chunk in reader.read():
        if chunk.stream in streams:
            lines.extend(line for line in assembler.feed(chunk) if within(line, since, until))
    return list(lines), reader, assembler


def within(chunk: LogChunk, since: float | None, until: float | None) -> bool:
    """Whether the chunk's time lies between the two moments, in seconds since the epoch."""
    moment = chunk.time_ns / 1e9
    return (since is None or moment >= since) and (until is None or moment <= until)
