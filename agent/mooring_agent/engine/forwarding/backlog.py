# SPDX-License-Identifier: Apache-2.0
"""What of a container's log is not sent yet, and the place up to which it is, which outlives the agent.

The place is, of each stream, a segment of the log (`keeper.logs`) and an offset in its bytes. It is kept in a
file beside the log after what is before it was taken by its receiver, so a killed agent's successor begins
there: no line is left out, and one may come twice.
"""

from __future__ import annotations

import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

from ..logs import INDEX, LINE_MAX, SUFFIXES, LineAssembler, LogChunk, segments
from .origin import Line

logger = logging.getLogger(__name__)

Place = tuple[int, int]
"""A segment, and an offset in a stream's bytes of it."""

Places = tuple[Place, Place]
"""Those of standard output and error."""

BEGINNING: Places = ((0, 0), (0, 0))
_PLACES = struct.Struct("<QQQQ")
_CHECK = struct.Struct("<I")
_INDEX_CHUNK = INDEX.size * 1024


@dataclass(frozen=True, slots=True)
class Batch:
    """Some lines, and the places after them."""

    lines: list[Line]
    after: Places


class Backlog:
    """The lines of one log that are to be sent, from the place up to which they are.

    Reads files, which it has open only within a call. No thread but one at a time.
    """

    def __init__(self, directory: str, state: str) -> None:
        self._directory = directory
        self._state = state
        self.sent = load_places(state)
        self.lost = 0  # segments that were rotated away before they were read
        self.rewind()

    def rewind(self) -> None:
        """Read again from the place up to which all is sent."""
        self._segment = min(self.sent[0][0], self.sent[1][0])
        self._index_offset = 0
        self._offsets = {1: 0, 2: 0}
        self._taken = 0  # of the piece at the index's offset
        self._assembler = LineAssembler()
        # By stream, pieces of segments that are read and of which no line is given yet.
        self._spans: dict[int, deque[list[int]]] = {1: deque(), 2: deque()}

    def commit(self, places: Places) -> None:
        """What is before these places has been taken by its receiver."""
        if places == self.sent:
            return
        self.sent = places
        try:
            save_places(self._state, places)
        except OSError as error:  # a disk that takes nothing must not keep a log from being sent
            logger.warning("place in a log not kept path=%s error=%r", self._state, error.strerror)

    def read(self, size: int) -> Batch:
        """The next lines, of about so many bytes; none where there are none now."""
        lines: list[Line] = []
        while size > 0 or not lines:
            # What is read may be no line yet: then as much more as makes one, or a part of one.
            chunks = self._read_some(size if size > 0 else LINE_MAX)
            if chunks is None:
                break
            for chunk in chunks:
                size -= len(chunk.data)
                lines += map(self._given, self._assembler.feed(chunk))
        return Batch(lines, self._places())

    def rest(self) -> Batch:
        """The lines that were begun, and that nobody goes on with any more."""
        lines = [self._given(chunk, last=True) for chunk in self._assembler.rest()]
        return Batch(lines, self._places())

    def _given(self, chunk: LogChunk, last: bool = False) -> Line:
        left = len(chunk.data)
        spans = self._spans[chunk.stream]
        while left:
            taken = min(left, spans[0][2] - spans[0][1])
            spans[0][1] += taken
            left -= taken
            if spans[0][1] == spans[0][2]:
                spans.popleft()
        whole = chunk.data.endswith(b"\n")
        return Line(
            chunk.time_ns, chunk.stream, chunk.data[:-1] if whole else chunk.data, not (whole or last)
        )

    def _places(self) -> Places:
        out, err = (
            (self._spans[stream][0][0], self._spans[stream][0][1])
            if self._spans[stream]
            else max((self._segment, self._offsets[stream]), self.sent[stream - 1])
            for stream in SUFFIXES
        )
        return out, err

    def _read_some(self, size: int) -> list[LogChunk] | None:
        """Some pieces of the segment at hand, or of the next one; None where there is no more of either."""
        while True:
            begun = self._index_offset
            try:
                chunks = self._read_segment(size)
                gone = False
            except FileNotFoundError:
                chunks, gone = [], True
            if chunks or self._index_offset != begun:
                return chunks
            later = [number for number in segments(self._directory) if number > self._segment]
            if not later:
                return None
            if not gone and not self._at_end():
                continue  # its last piece is in its index before there is another segment
            skipped = later[0] - self._segment - (0 if gone else 1)
            if skipped:
                self._lose(skipped)
            self._segment, self._index_offset, self._taken = later[0], 0, 0
            self._offsets = {1: 0, 2: 0}

    def _at_end(self) -> bool:
        try:
            return os.stat(f"{self._directory}/{self._segment}.idx").st_size - self._index_offset < INDEX.size
        except FileNotFoundError:
            return True

    def _lose(self, count: int) -> None:
        """Segments have been rotated away. Lines of which the end was there are cut off."""
        self.lost += count
        self._assembler = LineAssembler()
        for spans in self._spans.values():
            spans.clear()

    def _read_segment(self, size: int) -> list[LogChunk]:
        """Pieces of the segment at hand, of at most so many bytes. Raises FileNotFoundError."""
        base = f"{self._directory}/{self._segment}"
        chunks: list[LogChunk] = []
        with ExitStack() as opened:
            index, *data = (
                opened.enter_context(open(f"{base}.{suffix}", "rb", buffering=0)).fileno()
                for suffix in ("idx", *SUFFIXES.values())
            )
            content = os.pread(index, _INDEX_CHUNK, self._index_offset)
            content = content[: len(content) - len(content) % INDEX.size]
            if self._pass_by(content):
                return []
            for moment, length, stream in INDEX.iter_unpack(content):
                if size <= 0:
                    break
                if stream in SUFFIXES:  # a power cut leaves zeros
                    piece = self._read_piece(data[stream - 1], stream, length - self._taken, size)
                    if piece:
                        chunks.append(LogChunk(moment, stream, piece))
                        size -= len(piece)
                    if self._taken:
                        break
                self._index_offset += INDEX.size
        return chunks

    def _pass_by(self, content: bytes) -> bool:
        """Go on behind these entries at once if all that they tell of is sent, and whether that is so. One by
        one, those of a segment that is mostly sent would take some tenths of a second.
        """
        if self._taken or all(offset >= self._begin(stream) for stream, offset in self._offsets.items()):
            return False
        ends = _ends(self._offsets, content)
        if any(end > max(self._offsets[stream], self._begin(stream)) for stream, end in ends.items()):
            return False
        self._offsets = ends
        self._index_offset += len(content)
        return True

    def _read_piece(self, file: int, stream: int, length: int, size: int) -> bytes:
        """What of a piece is not sent, or its beginning where that is more than `size`: then `_taken` says
        how much of the piece has been read.
        """
        begun = self._offsets[stream]
        start, end = max(begun, self._begin(stream)), begun + length
        wanted = min(end - start, size)
        piece = os.pread(file, wanted, start) if wanted > 0 else b""
        if piece:
            self._note_span(stream, start, start + len(piece))
        if 0 < wanted == len(piece) < end - start:
            self._offsets[stream] = start + wanted
            self._taken += start + wanted - begun
        else:
            self._offsets[stream], self._taken = end, 0
        return piece

    def _begin(self, stream: int) -> int:
        """The offset in the segment at hand from which a stream is not sent."""
        segment, offset = self.sent[stream - 1]
        return offset if segment == self._segment else (1 << 62) if segment > self._segment else 0

    def _note_span(self, stream: int, start: int, end: int) -> None:
        spans = self._spans[stream]
        if spans and spans[-1][0] == self._segment and spans[-1][2] == start:
            spans[-1][2] = end
        else:
            spans.append([self._segment, start, end])


def load_places(path: str) -> Places:
    """The places that were kept; the beginning where there are none, or none that are whole."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        return BEGINNING
    packed, check = content[: _PLACES.size], content[_PLACES.size :]
    if len(packed) < _PLACES.size or check != _CHECK.pack(zlib.crc32(packed)):
        return BEGINNING
    one, two, three, four = _PLACES.unpack(packed)
    return (one, two), (three, four)


def save_places(path: str, places: Places) -> None:
    """Keep places. One write, which no kill of the agent cuts in two."""
    packed = _PLACES.pack(*places[0], *places[1])
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.pwrite(descriptor, packed + _CHECK.pack(zlib.crc32(packed)), 0)
    finally:
        os.close(descriptor)


def end_of(directory: str) -> Places:
    """The places at the end of a log as it is now."""
    numbers = segments(directory)
    if not numbers:
        return BEGINNING
    base = f"{directory}/{numbers[-1]}"
    with open(f"{base}.idx", "rb") as file:
        content = file.read()
    ends = _ends({1: 0, 2: 0}, content[: len(content) - len(content) % INDEX.size])
    return (numbers[-1], ends[1]), (numbers[-1], ends[2])


def _ends(offsets: Mapping[int, int], content: bytes) -> dict[int, int]:
    """The offsets of the streams after the pieces of which these entries of an index tell."""
    ends = dict(offsets)
    for _, length, stream in INDEX.iter_unpack(content):
        if stream in SUFFIXES:
            ends[stream] += length
    return ends
