# SPDX-License-Identifier: Apache-2.0
"""The life of Docker's containers: start, stop, restart, kill, pause, wait, resize."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ...engine.resources import signal_number
from ...errors import Conflict, InvalidSpec, MooringError
from ..messages import Reply, Request, Response, Stream, encode, no_content
from ..router import Need, Route
from .terminals import window

if TYPE_CHECKING:
    from ...engine.engine import Engine

_CONDITIONS = ("not-running", "next-exit", "removed")
# The first version whose wait knows conditions and sends its headers at once.
_EARLY_HEADERS = (1, 30)
_FOREVER = -1
_SIGKILL = 9
_KILLED_WITHIN = 10.0  # dockerd's figure


class LifecycleCalls:
    """Calls that start, end and freeze."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        one = "/containers/{id}"
        for name, call in (
            ("start", self.start),
            ("stop", self.stop),
            ("restart", self.restart),
            ("kill", self.kill),
            ("pause", self.pause),
            ("unpause", self.unpause),
            ("resize", self.resize),
        ):
            yield Route("POST", f"{one}/{name}", call, versioned=True, needs=Need.ALL)
        yield Route("POST", f"{one}/wait", self.wait, versioned=True, abandon=True, needs=Need.READ)

    async def start(self, request: Request) -> Reply:
        """204 when it was started, 304 when it ran already."""
        if request.query.text("checkpoint"):
            raise InvalidSpec("checkpoint= is not supported: start without a checkpoint")
        container = self._containers.get(request.params["id"])
        if container.status == "running":
            return Response(304)
        await self._containers.start(container.id)
        return no_content()

    async def stop(self, request: Request) -> Reply:
        """204 when it was stopped, 304 when it was not running."""
        container = self._containers.get(request.params["id"])
        if container.status in ("created", "exited", "dead"):
            return Response(304)
        await self._containers.stop(
            container.id, timeout=_timeout(request), signal=request.query.text("signal") or None
        )
        return no_content()

    async def restart(self, request: Request) -> Reply:
        """Stop it if it runs, and start it."""
        container = self._containers.get(request.params["id"])
        signal = request.query.text("signal")
        if signal and container.running:
            await self._containers.stop(container.id, timeout=_timeout(request), signal=signal)
        await self._containers.restart(container.id, timeout=_timeout(request))
        return no_content()

    async def kill(self, request: Request) -> Reply:
        """Send it a signal; as with dockerd it has ended when KILL is answered, so that it can be removed."""
        container = self._containers.get(request.params["id"])
        signal = request.query.text("signal") or "KILL"
        if signal_number(signal) != _SIGKILL:
            await self._containers.kill(container.id, signal=signal)
            return no_content()
        ended = asyncio.create_task(self._containers.wait(container.id))
        try:
            await asyncio.sleep(0)  # a turn of the loop, in which the task begins to listen
            await self._containers.kill(container.id, signal=signal)
            await asyncio.wait([ended], timeout=_KILLED_WITHIN)
        finally:
            ended.cancel()
        return no_content()

    async def pause(self, request: Request) -> Reply:
        """Freeze it."""
        await self._containers.pause(request.params["id"])
        return no_content()

    async def unpause(self, request: Request) -> Reply:
        """Thaw it."""
        await self._containers.unpause(request.params["id"])
        return no_content()

    async def resize(self, request: Request) -> Reply:
        """Give its terminal another size. A client that is too early is told so, and tries again."""
        rows, cols = window(request)
        container = self._containers.get(request.params["id"])
        if not container.running:
            raise Conflict(f"container {container.name} is not running: its terminal has no size")
        self._containers.resize(container.id, rows, cols)
        return Response(200)

    async def wait(self, request: Request) -> Reply:
        """{"StatusCode"} when it has ended.

        The headers go out at once: `docker run` waits for them before it starts the container, so that it
        misses no end.
        """
        condition = request.query.text("condition") or "not-running"
        if condition not in _CONDITIONS:
            raise InvalidSpec(f"invalid condition: {condition!r}: expected one of {', '.join(_CONDITIONS)}")
        container = self._containers.get(request.params["id"])
        waiting = asyncio.create_task(self._containers.wait(container.id, condition=condition))
        # One turn of the loop, in which the task begins to listen.
        await asyncio.sleep(0)

        async def answer() -> AsyncIterator[bytes]:
            try:
                try:
                    yield encode({"StatusCode": await waiting})
                except MooringError as error:
                    yield encode({"StatusCode": _FOREVER, "Error": {"Message": error.message}})
            finally:
                waiting.cancel()

        if request.is_before(_EARLY_HEADERS):
            return Response(200, b"".join([piece async for piece in answer()]), "application/json")
        return Stream(answer())


def _timeout(request: Request) -> float | None:
    """Seconds until the kill; -1 is Docker's "never", for which a year does."""
    seconds = request.query.integer("t", minimum=_FOREVER)
    return 365 * 86400 if seconds == _FOREVER else seconds
