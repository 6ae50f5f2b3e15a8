# SPDX-License-Identifier: Apache-2.0
"""Bytes that arrive in the event loop and are read by a thread, no faster than that takes them."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterable, Iterator
from typing import Any

from ..errors import Unavailable

_AHEAD = 16  # pieces
_LOOK = 0.005  # seconds between two looks at a full queue


class ChunkQueue:
    """One stream of pieces: fed by the loop, read by one thread."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue()

    def chunks(self) -> Iterator[bytes]:
        """The pieces, for the thread. Raises Unavailable when the sender has gone."""
        while True:
            piece = self._queue.get()
            if isinstance(piece, BaseException):
                raise Unavailable(f"what was sent ended early: {str(piece) or type(piece).__name__}")
            if not piece:
                return
            yield piece

    async def feed(self, chunks: AsyncIterable[bytes], work: asyncio.Future[Any]) -> None:
        """Hand on all pieces, or those until `work`, which reads them, is done."""
        async for chunk in chunks:
            while not work.done() and self._queue.qsize() >= _AHEAD:
                await asyncio.wait((work,), timeout=_LOOK)
            if work.done():
                break
            if chunk:
                self._queue.put(chunk)
        self._queue.put(b"")

    def fail(self, error: BaseException) -> None:
        """The rest will never come."""
        self._queue.put(error)
