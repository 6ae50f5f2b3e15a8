# SPDX-License-Identifier: Apache-2.0
"""The client's end of the multiplexed stream of the Docker Engine API: frames of stdout and stderr."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

_HEADER = struct.Struct(">BxxxI")


class FrameReader:
    """Takes bytes as they come and gives pieces of (stream, bytes), without waiting for whole frames."""

    def __init__(self) -> None:
        self._buffer = b""
        self._stream = 1
        self._left = 0

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The pieces that these bytes hold."""
        self._buffer += data
        while self._buffer:
            if not self._left:
                if len(self._buffer) < _HEADER.size:
                    return
                self._stream, self._left = _HEADER.unpack_from(self._buffer)
                self._buffer = self._buffer[_HEADER.size :]
                continue
            piece = self._buffer[: self._left]
            self._buffer = self._buffer[len(piece) :]
            self._left -= len(piece)
            yield self._stream, piece


def demultiplex(read: Callable[[], bytes]) -> Iterator[tuple[int, bytes]]:
    """The pieces of a whole stream, as `read` gives its bytes."""
    frames = FrameReader()
    while data := read():
        yield from frames.feed(data)
