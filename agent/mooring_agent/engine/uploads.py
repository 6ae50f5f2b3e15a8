# SPDX-License-Identifier: Apache-2.0
"""An upload on its way from the event loop to a thread that reads it, no faster than that one takes it."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from io import RawIOBase
from typing import Any, BinaryIO, TypeVar, cast

from ..errors import MooringError, Unavailable

T = TypeVar("T")

_CHUNKS_AHEAD = 16
_PATIENCE = 0.005  # seconds until it is tried again to hand a piece over
_STALLED = 120.0  # seconds without a byte, while it is waited for one, after which an upload is given up
_NOTHING_CAME = f"the upload has brought nothing for {_STALLED:g} s"
_GRACE = 10.0  # seconds more for a reader, who is told so by the feeder


class Upload(RawIOBase):
    """Bytes handed over piece by piece: a file to read from, or an iterator of its `pieces`."""

    def __init__(self) -> None:
        self._queue: queue.Queue[bytes | BaseException] = queue.Queue()
        self._rest = b""
        self._ended = False

    async def feed(self, chunks: AsyncIterable[bytes], work: asyncio.Future[Any]) -> None:
        """Hand over all pieces, or those until `work`, which reads them, is done.

        Raises Unavailable when none comes for some minutes; how long it takes in all does not count.
        """
        loop = asyncio.get_running_loop()
        limit = asyncio.timeout(_STALLED)
        over = False

        def end(_: asyncio.Future[Any]) -> None:
            if not over and not limit.expired():  # it may be on its way already when it is removed
                limit.reschedule(loop.time())

        try:
            async with limit:
                work.add_done_callback(end)
                try:
                    await self._hand_over(chunks, work, limit)
                finally:
                    over = True
                    work.remove_done_callback(end)
        except TimeoutError:
            if not limit.expired():
                raise
            if not work.done():
                raise Unavailable(f"{_NOTHING_CAME}: send it again") from None
        self._queue.put(b"")

    async def _hand_over(
        self, chunks: AsyncIterable[bytes], work: asyncio.Future[Any], limit: asyncio.Timeout
    ) -> None:
        loop = asyncio.get_running_loop()
        async for chunk in chunks:
            limit.reschedule(None)
            while not work.done() and not self._offer(chunk):
                await asyncio.wait([work], timeout=_PATIENCE)
            if work.done():
                return
            limit.reschedule(loop.time() + _STALLED)

    def fail(self, error: BaseException) -> None:
        """The rest will never come."""
        self._queue.put(MooringError(f"the upload ended early: {str(error) or type(error).__name__}"))

    def pieces(self) -> Iterator[bytes]:
        """Yield the pieces as they came."""
        while piece := self._next():
            yield piece

    def readable(self) -> bool:
        """Whether it can be read: yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill as much of the buffer as one piece does."""
        if not self._rest and not self._ended:
            self._rest = self._next()
            self._ended = not self._rest
        length = min(len(buffer), len(self._rest))
        buffer[:length] = self._rest[:length]
        self._rest = self._rest[length:]
        return length

    def _offer(self, chunk: bytes) -> bool:
        """Add a piece unless enough are waiting."""
        if self._queue.qsize() >= _CHUNKS_AHEAD:
            return False
        if chunk:
            self._queue.put(chunk)
        return True

    def _next(self) -> bytes:
        try:
            piece = self._queue.get(timeout=_STALLED + _GRACE)
        except queue.Empty:
            raise Unavailable(f"{_NOTHING_CAME}: send it again") from None
        if isinstance(piece, BaseException):
            raise piece
        return piece


async def taken_in(chunks: AsyncIterable[bytes], reader: Callable[[Upload], Awaitable[T]]) -> T:
    """What `reader(upload)` makes of the chunks, which are fed to it as they arrive."""
    upload = Upload()
    work: asyncio.Future[T] = asyncio.ensure_future(_awaited(reader(upload)))
    try:
        await upload.feed(chunks, work)
    except BaseException as error:
        upload.fail(error)
        await asyncio.wait([work])
        if not work.cancelled():
            work.exception()  # the reader's own, of which the first one is the cause
        raise
    return await work


def as_file(upload: Upload) -> BinaryIO:
    """The upload as what reads files knows it."""
    return cast(BinaryIO, upload)


async def _awaited(work: Awaitable[T]) -> T:
    return await work
