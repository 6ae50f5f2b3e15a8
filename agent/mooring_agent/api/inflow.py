# SPDX-License-Identifier: Apache-2.0
"""Bytes on their way in: a bounded buffer between the connection and whoever reads a body or a raw stream."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable

from .messages import ClientDisconnected


class Inflow:
    """One reader takes what `feed` brings; beyond `limit` unread bytes the source is paused.

    `first_read` is called once, when somebody starts to read.
    """

    __slots__ = (
        "_ended",
        "_first_read",
        "_limit",
        "_lost",
        "_pause",
        "_paused",
        "_pieces",
        "_resume",
        "_size",
        "_waiter",
    )

    def __init__(
        self,
        pause: Callable[[], None],
        resume: Callable[[], None],
        first_read: Callable[[], None] | None,
        limit: int,
    ) -> None:
        self._pause = pause
        self._resume = resume
        self._first_read = first_read
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._paused = False
        self._ended = False
        self._lost = False
        self._waiter: asyncio.Future[None] | None = None

    def feed(self, data: bytes) -> None:
        """More bytes from the client."""
        self._pieces.append(data)
        self._size += len(data)
        self._wake()
        if self._size > self._limit and not self._paused:
            self._paused = True
            self._pause()

    def feed_eof(self) -> None:
        """All is there."""
        self._ended = True
        self._wake()

    def feed_lost(self) -> None:
        """The client went away; unless all was there already, reading fails after what did arrive."""
        if not self._ended:
            self._lost = True
        self._wake()

    async def read(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientDisconnected if the client left before the end."""
        if self._first_read is not None and not self._pieces and not self._ended:
            self._first_read()
        self._first_read = None
        while not self._pieces:
            if self._ended:
                return b""
            if self._lost:
                raise ClientDisconnected("the client went away before it had sent everything")
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        piece = self._pieces.popleft()
        self._size -= len(piece)
        if self._paused and self._size <= self._limit // 2:
            self._paused = False
            self._resume()
        return piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self.read():
            yield piece

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
