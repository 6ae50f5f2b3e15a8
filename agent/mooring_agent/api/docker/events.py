# SPDX-License-Identifier: Apache-2.0
"""`GET /events`: what happens, in the words of `docker events`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ..messages import Reply, Request, Stream, encode
from ..router import Need, Route
from ..timestamps import parse
from .render import network_id

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.events import Event

_FILTERS = ("container", "daemon", "event", "image", "label", "network", "scope", "type", "volume")
_NANOS = 1_000_000_000


class EventCalls:
    """The stream of events."""

    def __init__(self, engine: Engine) -> None:
        self._events = engine.events

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/events", self.follow, versioned=True, abandon=True, needs=Need.READ)

    async def follow(self, request: Request) -> Reply:
        """From `since` (default: now) to `until` (default: without end)."""
        query = request.query
        filters = query.filters(_FILTERS)
        events = self._events.subscribe(
            parse(query.text("since"), "since"), parse(query.text("until"), "until")
        )

        async def rendered() -> AsyncIterator[bytes]:
            try:
                async for event in events:
                    if passes(event, filters):
                        yield encode(render(event))
            finally:
                close = getattr(events, "aclose", None)
                if close is not None:
                    await close()

        return Stream(rendered())


def render(event: Event) -> dict[str, Any]:
    """One event as Docker writes it."""
    identity = network_id(event.id) if event.type == "network" else event.id
    message: dict[str, Any] = {
        "Type": event.type,
        "Action": event.action,
        "Actor": {"ID": identity, "Attributes": dict(event.attributes)},
        "scope": "local",
        "time": event.time_ns // _NANOS,
        "timeNano": event.time_ns,
    }
    if event.type in ("container", "image"):
        # The fields of the oldest clients.
        message = {"status": event.action, "id": identity, **message}
        if event.type == "container":
            message["from"] = event.attributes.get("image", "")
    return message


def passes(event: Event, filters: dict[str, tuple[str, ...]]) -> bool:
    """Whether every filter has a value that fits; all labels must."""
    return all(
        (all if name == "label" else any)(_fits(event, name, value) for value in values)
        for name, values in filters.items()
    )


def _fits(event: Event, name: str, value: str) -> bool:
    if name == "event":
        return event.action == value or event.action.startswith(f"{value}:")
    if name == "type":
        return event.type == value
    if name == "scope":
        return value == "local"
    if name == "label":
        key, mark, wanted = value.partition("=")
        return key in event.attributes and (not mark or event.attributes[key] == wanted)
    if name == "image" and event.type == "container":
        return event.attributes.get("image") == value
    return event.type == name and (event.id.startswith(value) or event.attributes.get("name") == value)
