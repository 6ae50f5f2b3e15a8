# SPDX-License-Identifier: Apache-2.0
"""What happens on this host, told to whoever listens, with a short memory for those who ask what has
happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

_REMEMBERED = 1024
# A listener that falls behind by more than this is disconnected, so that it cannot grow the agent.
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a resource. `type` is container, image, network or volume; `time_ns` since
    the epoch.
    """

    type: str
    action: str
    id: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    time_ns: int = 0


class EventBus:
    """Delivers events in order to every subscriber."""

    def __init__(self) -> None:
        self._past: deque[Event] = deque(maxlen=_REMEMBERED)
        self._queues: set[asyncio.Queue[Event | None]] = set()

    def publish(
        self,
        type: str,
        action: str,
        id: str,
        attributes: Mapping[str, str] | None = None,
        *,
        remember: bool = True,
    ) -> None:
        """Tell everybody; what is not to be remembered is told to those who listen now. Never waits."""
        event = Event(type, action, id, dict(attributes or {}), time.time_ns())
        if remember:
            self._past.append(event)
        for queue in list(self._queues):
            if queue.qsize() >= _BACKLOG:
                self._queues.discard(queue)
                queue.put_nowait(None)
            else:
                queue.put_nowait(event)

    async def subscribe(self, since: float | None = None, until: float | None = None) -> AsyncIterator[Event]:
        """Events from `since` (remembered ones) up to `until`, both in seconds since the epoch; None: from
        now, for ever.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        past = [] if since is None else [event for event in self._past if event.time_ns >= since * 1e9]
        self._queues.add(queue)
        try:
            for event in past:
                if until is not None and event.time_ns > until * 1e9:
                    return
                yield event
            while True:
                patience = None if until is None else until - time.time()
                if patience is not None and patience <= 0:
                    return
                try:
                    following = await asyncio.wait_for(queue.get(), patience)
                except TimeoutError:
                    return
                if following is None:
                    return
                yield following
        finally:
            self._queues.discard(queue)

    def close(self) -> None:
        """End every subscription."""
        for queue in self._queues:
            queue.put_nowait(None)
