# SPDX-License-Identifier: Apache-2.0
"""Long work that tells how far it is: events on the way, then its result or its error."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..errors import MooringError

if TYPE_CHECKING:
    from ..images.image import ProgressEvent

T = TypeVar("T")

log = logging.getLogger(__name__)

# Progress that nobody has read yet: the oldest is dropped, for only the newest counts.
_MAX_PENDING = 64

# Work goes on when its client leaves, so somebody must hold it.
_running: set[asyncio.Task[Any]] = set()


async def report(
    work: Callable[[Callable[[ProgressEvent], None]], Awaitable[Any]],
    *,
    abandon: bool = False,
) -> AsyncIterator[dict[str, Any]]:
    """Run `work(progress)`; yields {"progress": …} any number of times, then {"outcome": …} or {"error": …}.

    `progress` may be called from any thread. If the reader leaves, the work goes on to its end, or is
    cancelled with `abandon`.
    """
    loop = asyncio.get_running_loop()
    pending: deque[ProgressEvent] = deque(maxlen=_MAX_PENDING)
    news = asyncio.Event()

    def wake() -> None:
        news.set()

    def progress(event: ProgressEvent) -> None:
        pending.append(event)
        loop.call_soon_threadsafe(wake)

    task = asyncio.ensure_future(_guarded(work(progress)))
    _running.add(task)
    task.add_done_callback(_running.discard)
    task.add_done_callback(lambda _: news.set())
    try:
        while True:
            await news.wait()
            news.clear()
            finished = task.done()
            while pending:
                yield {"progress": pending.popleft().to_dict()}
            if finished:
                break
    finally:
        if abandon:
            task.cancel()
    yield task.result()


class Begun(Generic[T]):
    """A stream of which the first piece was taken already. To close it closes the rest, read from or not."""

    def __init__(self, first: T, rest: AsyncGenerator[T, None]) -> None:
        self._first: T | None = first
        self._rest = rest

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._rest)

    async def aclose(self) -> None:
        """Have the maker of the stream clean up."""
        await self._rest.aclose()


async def begun(stream: AsyncGenerator[bytes, None]) -> Begun[bytes]:
    """A stream that has something to say, once it has: what goes wrong before that is raised here, so that
    the answer can have its status.
    """
    return Begun(await anext(stream, b""), stream)


async def _guarded(work: Awaitable[Any]) -> dict[str, Any]:
    try:
        return {"outcome": await work}
    except MooringError as error:
        return {"error": {"message": error.message, "code": error.code, "status": error.status}}
    except Exception as error:
        log.exception("work_crashed")
        message = (
            f"the work failed inside the agent ({type(error).__name__}); the agent's log has the details"
        )
        return {"error": {"message": message, "code": MooringError.code, "status": 500}}
