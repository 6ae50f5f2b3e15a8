# SPDX-License-Identifier: Apache-2.0
"""One container's log on its way to a receiver."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from ..container import FOLLOWED, Container
from ..resources import ContainerSpec
from .backlog import Backlog, Places
from .origin import Encoder

if TYPE_CHECKING:
    from .receiver import Receiver


class Shipment:
    """What of a container's log is to be sent. One of the container's wakers, and of its directory's."""

    def __init__(
        self,
        container: Container,
        backlog: Backlog,
        receiver: Receiver,
        encoder: Callable[[], Encoder],
    ) -> None:
        self.container = container
        self.backlog = backlog
        self.receiver = receiver
        self.watch = -1
        self.messages: deque[bytes] = deque()
        """Messages that are read, and not taken by a link."""
        self.settled = asyncio.Event()
        """Set while all that is there has been taken by the receiver."""
        self.under_way = 0
        """Parts of the log that are sent and not acknowledged."""
        self.over = False
        """Set when nothing more of it is to be sent to this receiver."""
        self._encoder = encoder
        self._after = backlog.sent
        self._made_for: tuple[str, ContainerSpec] | None = None
        self._encode: Encoder

    def set(self) -> None:
        """There may be more to send."""
        self.settled.clear()
        self.receiver.nudge(self)

    def load(self, size: int) -> bool:
        """Read about so many bytes of what is to be sent, if nothing is read; whether there is anything."""
        if self.messages:
            return True
        batch = self.backlog.read(size)
        if not batch.lines and self.container.status not in FOLLOWED:
            batch = self.backlog.rest()
        if batch.lines:
            encode = self._current()
            self.messages.extend([encode(line) for line in batch.lines])  # all of them, or none if it fails
        self._after = batch.after
        return bool(batch.lines)

    @property
    def after(self) -> Places:
        """The places after what was read last."""
        return self._after

    def rewind(self) -> None:
        """Send again what has not been acknowledged."""
        self.messages.clear()
        self.under_way = 0
        self.backlog.rewind()

    def _current(self) -> Encoder:
        """The encoder, for the container as it is called and labelled now."""
        made_for = (self.container.name, self.container.spec)
        if made_for != self._made_for:
            self._encode, self._made_for = self._encoder(), made_for
        return self._encode
