# SPDX-License-Identifier: Apache-2.0
"""`GET /mooring/v1/events`: what happens on this host, a JSON line each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ..messages import NDJSON, Reply, Request, Stream, encode
from ..router import Need, Route
from ..timestamps import parse, rfc3339
from .containers import close

if TYPE_CHECKING:
    from ...engine.engine import Engine


class EventCalls:
    """The stream of events."""

    def __init__(self, engine: Engine) -> None:
        self._events = engine.events

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/mooring/v1/events", self.follow, abandon=True, needs=Need.READ)

    async def follow(self, request: Request) -> Reply:
        """From `since` (default: now) to `until` (default: without end)."""
        query = request.query
        events = self._events.subscribe(
            parse(query.text("since"), "since"), parse(query.text("until"), "until")
        )

        async def rendered() -> AsyncIterator[bytes]:
            try:
                async for event in events:
                    yield encode(
                        {
                            "time": rfc3339(event.time_ns),
                            "type": event.type,
                            "action": event.action,
                            "id": event.id,
                            "attributes": event.attributes,
                        }
                    )
            finally:
                await close(events)

        return Stream(rendered(), NDJSON)
