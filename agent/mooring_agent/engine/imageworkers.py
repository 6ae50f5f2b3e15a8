# SPDX-License-Identifier: Apache-2.0
"""Slow work on images beside the event loop: in a bounded number of threads, given up when nobody waits."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

from ..errors import MooringError
from ..images.image import Progress, ProgressEvent, no_progress

logger = logging.getLogger(__name__)

T = TypeVar("T")

_THREADS = 12  # works at a time; those that move layers have some threads of their own
_ENDS_WITHIN = 10.0  # seconds that the end of the agent waits for work that has been told to end
_LOOK = 0.01  # seconds between two looks at whether a piece has been read
_PIECE = 1 << 20  # bytes that are read ahead at a time for a client


class ImageWorkers:
    """Runs functions in threads; each gets an event that is set when it shall end early."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="mooring-image")
        self._running: set[threading.Event] = set()

    async def run(self, work: Callable[[threading.Event], T]) -> T:
        """What `work(cancelled)` returns; when this is cancelled the event is set, and nobody waits."""
        cancelled = threading.Event()
        self._running.add(cancelled)

        def watched() -> T:
            try:
                return work(cancelled)
            finally:
                self._running.discard(cancelled)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, watched)
        except asyncio.CancelledError:
            cancelled.set()
            self._running.discard(cancelled)  # it may never have begun
            raise

    async def close(self) -> None:
        """Tell all work to end, and wait some seconds for it."""
        for cancelled in list(self._running):
            cancelled.set()
        ended = asyncio.ensure_future(asyncio.to_thread(self._pool.shutdown, cancel_futures=True))
        done, _ = await asyncio.wait([ended], timeout=_ENDS_WITHIN)
        if not done:
            logger.warning("image work goes on after %g s works=%d", _ENDS_WITHIN, len(self._running))


class _Shared(Generic[T]):
    """One work, and who waits for it."""

    def __init__(self) -> None:
        self.watchers: list[Progress] = []
        self.task: asyncio.Task[T]

    def tell(self, event: ProgressEvent) -> None:
        """Pass an event on to all who watch; called from any thread."""
        for watcher in tuple(self.watchers):
            watcher(event)


class SharedWork(Generic[T]):
    """Work that several ask for at once and that is done once; it ends when all have left."""

    def __init__(self) -> None:
        self._running: dict[Hashable, _Shared[T]] = {}

    async def run(
        self, key: Hashable, work: Callable[[Progress], Awaitable[T]], progress: Progress | None = None
    ) -> T:
        """The result of `work(progress)`, or of one that runs already under the same key."""
        shared = self._running.get(key)
        if shared is None:
            shared = self._running[key] = _Shared()
            shared.task = asyncio.ensure_future(_awaited(work(shared.tell)))
            shared.task.add_done_callback(lambda _, shared=shared: self._forget(key, shared))  # type: ignore[misc]
        watcher = progress or no_progress
        shared.watchers.append(watcher)
        try:
            return await asyncio.shield(shared.task)
        except MooringError as error:
            raise error.copied() from error  # each puts words of its own before it
        finally:
            shared.watchers.remove(watcher)
            if not shared.watchers and not shared.task.done():
                shared.task.cancel()
                self._forget(key, shared)

    def _forget(self, key: Hashable, shared: _Shared[T]) -> None:
        if self._running.get(key) is shared:
            del self._running[key]


async def _awaited(work: Awaitable[T]) -> T:
    return await work


async def streamed(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of an iterator that blocks, read in threads no faster than they are taken."""

    def read() -> bytes:
        pieces, length = [], 0
        for piece in chunks:
            pieces.append(piece)
            length += len(piece)
            if length >= _PIECE:
                break
        return b"".join(pieces)

    try:
        while piece := await asyncio.to_thread(read):
            yield piece
    finally:
        if isinstance(chunks, Generator):
            await _closed(cast(Generator[bytes, Any, Any], chunks))


async def _closed(chunks: Generator[bytes, Any, Any]) -> None:
    """Close a generator, even if a thread is still in it: that one ends within a piece."""
    deadline = time.monotonic() + _ENDS_WITHIN
    while time.monotonic() < deadline:
        try:
            await asyncio.to_thread(chunks.close)
            return
        except ValueError:  # it is executing
            await asyncio.sleep(_LOOK)
    logger.warning("a stream is not closed: it has not given a piece for %g s", _ENDS_WITHIN)
