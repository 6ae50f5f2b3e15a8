# SPDX-License-Identifier: Apache-2.0
"""A build as a stream of events; when nobody reads them any more, the build is given up."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

from ..errors import MooringError
from ..images.build.errors import BuildFailed
from ..images.build.reporting import ERRORS, OUTPUT
from ..images.image import ProgressEvent
from .progress import Begun

if TYPE_CHECKING:
    from ..engine.builds import Builds
    from ..images.build.options import BuildOptions

log = logging.getLogger(__name__)

# Characters of output that a slow reader may be behind; the oldest is dropped, and that is said.
_MOST_PENDING = 16 << 20
_WRITTEN = (OUTPUT, ERRORS)


class _Pending:
    """Events from any thread, for the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[ProgressEvent] = deque()
        self._size = 0
        self._dropped = 0
        self.news = asyncio.Event()

    def put(self, event: ProgressEvent) -> None:
        """One more event."""
        self._loop.call_soon_threadsafe(self._take, event)

    def _take(self, event: ProgressEvent) -> None:
        if event.step in _WRITTEN:
            if self._size > _MOST_PENDING:
                self._dropped += len(event.detail)
                return
            self._size += len(event.detail)
        self._events.append(event)
        self.news.set()

    def get(self) -> ProgressEvent | None:
        """The next event, None if there is none now."""
        if self._events:
            event = self._events.popleft()
            self._size -= len(event.detail) if event.step in _WRITTEN else 0
            return event
        if self._dropped:
            text = f"[{self._dropped} characters of output that came too fast are left out]\n"
            self._dropped = 0
            return ProgressEvent(OUTPUT, detail=text)
        return None


async def follow_build(
    builds: Builds, options: BuildOptions, context: AsyncIterator[bytes]
) -> AsyncGenerator[dict[str, Any]]:
    """Build; yields {"progress": …} any number of times, then {"image": …} or {"error": …}."""
    pending = _Pending()
    work = asyncio.ensure_future(builds.build(options, context, pending.put))
    work.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(pending.news.set))
    try:
        while True:
            await pending.news.wait()
            pending.news.clear()
            finished = work.done()
            while (event := pending.get()) is not None:
                yield {"progress": event.to_dict()}
            if finished:
                break
        yield _outcome(work)
    finally:
        if not work.done():
            work.cancel()
            await asyncio.wait((work,))


async def begun_build(
    builds: Builds, options: BuildOptions, context: AsyncIterator[bytes]
) -> Begun[dict[str, Any]]:
    """The same when there is something to tell. Raises the MooringError of a build that fails before."""
    events = follow_build(builds, options, context)
    first = await anext(events)
    if "error" in first:
        await events.aclose()
        raise Refused(first["error"])
    return Begun(first, events)


class Refused(MooringError):
    """A build that has failed before anything was told of it, with the status of what it failed of."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"], code=error["code"])
        self.status = error["status"]


def _outcome(work: asyncio.Task[Any]) -> dict[str, Any]:
    try:
        return {"image": work.result()}
    except MooringError as error:
        found: dict[str, Any] = {"message": error.message, "code": error.code, "status": error.status}
        if isinstance(error, BuildFailed):
            found |= {"exit_code": error.exit_code, "command": list(error.argv)}
        return {"error": found}
    except Exception as error:
        log.exception("build_crashed")
        message = (
            f"the build failed inside the agent ({type(error).__name__}); the agent's log has the details"
        )
        return {"error": {"message": message, "code": MooringError.code, "status": 500}}
