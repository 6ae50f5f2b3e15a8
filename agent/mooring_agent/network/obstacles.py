# SPDX-License-Identifier: Apache-2.0
"""Keeps known which firewalls of the host are in the way of networks, whoever comes or changes, and when.

Nothing is polled: the kernel tells of changes by others (see `drift`), and some time after them, since what
others do is many changes one after the other, their rules are looked at. The iptables of before nftables tell
nobody, and are looked at together with the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from ..errors import MooringError

logger = logging.getLogger(__name__)

SETTLE_S = 0.5
"""How long after a change it is looked at."""
PAUSE_S = 5.0
"""How long after a look there is none, however much others change."""


class Obstacles:
    """What is in the way. `look` tells a sentence for each obstacle, with what to do about it. Called in the
    event loop's thread.
    """

    def __init__(self, look: Callable[[], Awaitable[list[str]]]) -> None:
        self._look = look
        self._tell: Callable[[str], None] = lambda _: None
        self._then: Callable[[], Awaitable[None]] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[None] | None = None
        self._looked_at = float("-inf")
        self.found: tuple[str, ...] = ()

    async def start(self, tell: Callable[[str], None], then: Callable[[], Awaitable[None]]) -> None:
        """Look, and tell of each obstacle, now and whenever there is a new one; `then` is whatever else is to
        be looked at when others have changed a firewall. Where it cannot be looked, that is logged.
        """
        self._tell = tell
        await self._renew()
        self._then = then

    def suspect(self) -> None:
        """Somebody has changed a firewall, or a network is new."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            at = max(loop.time() + SETTLE_S, self._looked_at + PAUSE_S)
            self._timer = loop.call_at(at, self._begin)

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def _begin(self) -> None:
        self._timer = None
        if self._looking is not None and not self._looking.done():
            self.suspect()
            return
        self._looking = asyncio.get_running_loop().create_task(self._renew())

    async def _renew(self) -> None:
        self._looked_at = asyncio.get_running_loop().time()
        try:
            before, self.found = self.found, tuple(await self._look())
        except MooringError as error:
            logger.warning("firewalls of others not looked at error=%r", error.message)
            return
        for obstacle in self.found:
            if obstacle not in before:
                self._tell(obstacle)
        if self._then is not None:
            await self._then()
