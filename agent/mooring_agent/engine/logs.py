# SPDX-License-Identifier: Apache-2.0
"""Reading the logs that the keeper writes (format: `keeper.logs`), while they grow and while segments come
and go.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass

from ..linux.inotify import DirectoryWatch, Waker

INDEX = struct.Struct("<QIBxxx")
SUFFIXES = {1: "out", 2: "err"}
_INDEX_CHUNK = INDEX.size * 4096
_PIECE_MAX = 1 << 20
# As docker's: what has no newline for longer is given in parts, so that nobody has to hold all of it.
LINE_MAX = 16 << 10
# Pieces read between two looks of the event loop at everybody else.
_PIECES_A_TURN = 64
_BYTES_A_TURN = 256 << 10
_LINES_A_TURN = 256
_RECHECK = 1.0


# A segment's number, and a place in its index.
Position = tuple[int, int]
_EMPTY = (0, 0)


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
            entries = self._entries()
            for _, length, stream in entries:
                self._offsets[stream] += length
            self._index_offset = len(entries) * INDEX.size

    def end(self) -> Position:
        """Where the log ends now."""
        for number in reversed(self._listed()):
            with suppress(FileNotFoundError):
                return number, os.stat(f"{self._directory}/{number}.idx").st_size
        return -1, 0

    def skip_to_tail(self, lines: int, streams: tuple[int, ...]) -> dict[int, bytes]:
        """Go to where at least the last `lines` lines of `streams` begin, or to the beginning of the log.

        Returns, by stream, the beginning of a line of which only the rest is read from there on.
        """
        missing = lines + 1
        for number in reversed(self._segments()):
            try:
                self._open(number)
            except FileNotFoundError:
                continue
            entries = self._entries()
            for _, length, stream in entries:
                self._offsets[stream] += length
            for position in range(len(entries) - 1, -1, -1):
                _, length, stream = entries[position]
                self._offsets[stream] -= length
                if stream in streams:
                    missing -= os.pread(self._data[stream], length, self._offsets[stream]).count(b"\n")
                if missing <= 0:
                    self._index_offset = position * INDEX.size
                    return {stream: self._begun_line(stream) for stream in streams}
        return {}

    def read(self, end: Position | None = None) -> Iterator[LogChunk]:
        """The pieces written since the last call, in order; up to `end`, or as long as there are any."""
        while True:
            if self._segment < 0 and not self._advance():
                return
            if end is not None and self._segment > end[0]:
                return
            last = end is not None and self._segment == end[0]
            yield from self._read_segment(end[1] if end is not None and last else None)
            if last or not self._advance():
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

    def _entries(self) -> list[tuple[int, int, int]]:
        """The entries of the index; what a power cut has put there in their place is of no stream."""
        content = os.pread(self._index, os.fstat(self._index).st_size, 0)
        entries = INDEX.iter_unpack(content[: len(content) - len(content) % INDEX.size])
        return [entry if entry[2] in SUFFIXES else (0, 0, 1) for entry in entries]

    def _begun_line(self, stream: int) -> bytes:
        """What of a line is before the position, as far as it can matter: a cut may come within the line of
        one stream when the other one's ends.
        """
        before = _last_bytes(self._data[stream], self._offsets[stream])
        for number in reversed([one for one in self._listed() if one < self._segment]):
            if b"\n" in before or len(before) >= LINE_MAX:
                break
            with (
                suppress(FileNotFoundError),
                open(f"{self._directory}/{number}.{SUFFIXES[stream]}", "rb") as file,
            ):
                before = _last_bytes(file.fileno(), os.fstat(file.fileno()).st_size) + before
        return before[before.rfind(b"\n") + 1 :]

    def _read_segment(self, limit: int | None) -> Iterator[LogChunk]:
        while True:
            size = _INDEX_CHUNK if limit is None else min(_INDEX_CHUNK, max(0, limit - self._index_offset))
            content = os.pread(self._index, size, self._index_offset)
            whole = len(content) - len(content) % INDEX.size
            if not whole:
                return
            for moment, length, stream in INDEX.iter_unpack(content[:whole]):
                self._index_offset += INDEX.size
                while length and stream in SUFFIXES:
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
        return os.fstat(self._index).st_size - self._index_offset >= INDEX.size

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
            for suffix in ("idx", *SUFFIXES.values()):
                opened.append(os.open(f"{base}.{suffix}", os.O_RDONLY | os.O_CLOEXEC))
        except FileNotFoundError:
            for descriptor in opened:
                os.close(descriptor)
            raise
        index, *data = opened
        return index, dict(zip(SUFFIXES, data, strict=True))

    def _segments(self) -> list[int]:
        return sorted({*self._listed(), *self._kept})

    def _listed(self) -> list[int]:
        return segments(self._directory)


def segments(directory: str) -> list[int]:
    """The numbers of a log's segments that are there, oldest first."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(name[:-4]) for name in names if name.endswith(".idx"))


def _last_bytes(descriptor: int, end: int) -> bytes:
    start = max(0, end - LINE_MAX)
    return os.pread(descriptor, end - start, start)


class LineAssembler:
    """Puts pieces together to lines: each chunk out ends in a newline, but for what `rest` gives at the end.

    A line that is longer than `LINE_MAX` bytes comes in parts of that size.
    """

    def __init__(self) -> None:
        self._open: dict[int, tuple[int, bytes]] = {}

    def begin(self, begun: dict[int, bytes]) -> None:
        """Take up lines, by stream, of which the rest is to come; they get the time of the rest."""
        self._open = {stream: (0, data) for stream, data in begun.items() if data}

    def feed(self, chunk: LogChunk) -> Iterator[LogChunk]:
        """The lines that `chunk` completes; a line bears the time of its first piece."""
        moment, begun = self._open.pop(chunk.stream, (0, b""))
        moment = moment or chunk.time_ns
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
    wakers: set[Waker],
) -> AsyncGenerator[LogChunk]:
    """Every piece from the reader's position on, until `ended` holds and all is delivered.

    While it waits, its event is among `wakers`, so that whoever ends the container can wake it. However
    slowly the pieces are taken, rotation takes none away that were written since the call.
    """
    with _watched(reader, directory, watch, wakers) as changed:
        while True:
            changed.clear()
            over = ended()
            async for chunk in _in_turns(reader.read()):
                yield chunk
            if over:
                return
            try:
                await asyncio.wait_for(changed.wait(), _RECHECK)
            except TimeoutError:
                continue


async def begun(
    directory: str,
    watch: DirectoryWatch,
    ended: Callable[[], bool],
    wakers: set[Waker],
    within: float,
) -> None:
    """Return when there is anything in a log, or `ended` holds, or after so many seconds."""
    reader = LogReader(directory)
    with suppress(TimeoutError), _watched(reader, directory, watch, wakers) as changed:
        async with asyncio.timeout(within):
            while reader.end() <= _EMPTY and not ended():
                await changed.wait()
                changed.clear()


@contextmanager
def _watched(
    reader: LogReader, directory: str, watch: DirectoryWatch, wakers: set[Waker]
) -> Iterator[asyncio.Event]:
    """What is set when there may be more to read, or to notice; the reader is closed after it."""
    number, changed = watch.add(directory, reader.keep)
    wakers.add(changed)
    try:
        yield changed
    finally:
        wakers.discard(changed)
        watch.remove(number, changed)
        reader.close()


@dataclass(frozen=True)
class Selection:
    """Which lines are wanted: of which streams, from when to when (seconds since the epoch), how many at most
    of those that are there.
    """

    streams: tuple[int, ...] = (1, 2)
    tail: int | None = None
    since: float | None = None
    until: float | None = None

    def wants(self, line: LogChunk) -> bool:
        """Whether the line's time lies between the two moments."""
        moment = line.time_ns / 1e9
        return (self.since is None or moment >= self.since) and not self.is_past(line)

    def is_past(self, line: LogChunk) -> bool:
        """Whether the line came after the last moment."""
        return self.until is not None and line.time_ns / 1e9 > self.until


async def read_lines(
    directory: str,
    selection: Selection,
    following: Callable[[LogReader], AsyncGenerator[LogChunk]] | None = None,
) -> AsyncGenerator[LogChunk]:
    """The lines that are there, and with `following`, which makes a `follow`, those that come."""
    reader, assembler = LogReader(directory), LineAssembler()
    try:
        if selection.tail is not None:
            whole = following is None
            for line in await asyncio.to_thread(_last_lines, reader, assembler, selection, whole):
                yield line
        if following is not None:
            chunks = following(reader)
        else:
            chunks = _in_turns(reader.read(reader.end()) if selection.tail is None else iter(()))
        async with aclosing(chunks):
            async for chunk in chunks:
                if chunk.stream not in selection.streams:
                    continue
                for count, line in enumerate(assembler.feed(chunk), start=1):
                    if following is not None and selection.is_past(line):
                        return
                    if selection.wants(line):
                        yield line
                    if count % _LINES_A_TURN == 0:
                        await asyncio.sleep(0)
        for line in filter(selection.wants, assembler.rest()):
            yield line
    finally:
        reader.close()


def _last_lines(
    reader: LogReader, assembler: LineAssembler, selection: Selection, whole: bool
) -> list[LogChunk]:
    """The last of the lines that are there; with `whole` one that has no end yet counts too. Blocking."""
    end = reader.end()
    if selection.until is None and selection.tail is not None:
        assembler.begin(reader.skip_to_tail(selection.tail, selection.streams))
    lines: deque[LogChunk] = deque(maxlen=selection.tail)
    for chunk in reader.read(end):
        if chunk.stream in selection.streams:
            lines.extend(filter(selection.wants, assembler.feed(chunk)))
    if whole:
        lines.extend(filter(selection.wants, assembler.rest()))
    return list(lines)


async def _in_turns(chunks: Iterator[LogChunk]) -> AsyncGenerator[LogChunk]:
    """The same, with a look of the event loop at everybody else now and then."""
    pieces = size = 0
    for chunk in chunks:
        yield chunk
        pieces, size = pieces + 1, size + len(chunk.data)
        if pieces >= _PIECES_A_TURN or size >= _BYTES_A_TURN:
            pieces = size = 0
            await asyncio.sleep(0)
