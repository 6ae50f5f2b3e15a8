# SPDX-License-Identifier: Apache-2.0
"""Sees that somebody else has changed what is ours in the kernel, and has it repaired.

Nothing is polled: the kernel tells of every change of nftables and of our bridges. A change by a thread of
this process is no drift, one of other tables or links is not looked at, and what is left leads to a
comparison with what should be. So a flushed table is back some tens of milliseconds later. Whoever keeps
undoing what we repair finds us slower each time, and is told about.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import suppress
from typing import Protocol

from ..errors import MooringError
from ..linux.notices import LinkNotices, Notices, Overrun, TableNotices, bridge_harmed

logger = logging.getLogger(__name__)

SETTLE_S = 0.05
"""How long after a change it is looked at: what others do consists of several mostly."""
CALM_S = 60.0
"""After how long without a repair somebody's changes are not seen as one quarrel any more."""
LONGEST_PAUSE_S = 60.0

Look = Callable[[], Awaitable[list[str]]]
Tell = Callable[[list[str], bool], None]


class Patience:
    """How long to wait with the next repair: not at all at first, and twice as long each time that a repair
    does not last.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._repaired_at = float("-inf")
        self._pause = 0.0

    def wait(self) -> float:
        """Seconds from now on."""
        return max(SETTLE_S, self._repaired_at + self._pause - self._clock())

    def repaired(self) -> None:
        """A repair was needed, and has been done."""
        now = self._clock()
        calm = now - self._repaired_at > max(CALM_S, 2 * self._pause)
        self._pause = 0.0 if calm else min(LONGEST_PAUSE_S, max(2 * self._pause, 2 * SETTLE_S))
        self._repaired_at = now

    @property
    def disputed(self) -> bool:
        """Whether the last repairs did not last."""
        return self._pause > 1.0


class KeptTable(Protocol):
    """A table of nftables that somebody keeps beside the networks' own."""

    @property
    def table(self) -> str:
        """Its name."""

    async def differences(self) -> list[str]:
        """What of it is not as it should be, a sentence each."""

    async def repair(self) -> list[str]:
        """Make it what it should be if it is not; what was wrong, or is, a sentence each."""


class DriftWatch:
    """Watches the tables and the bridges of one agent, in the event loop's thread.

    `table` is the networks' own, others are `beside` it. `look` says what is not as it should be, `repair`
    makes it so, and `tell` is told what was wrong, and whether that is repaired; `others` is called when
    somebody else has changed tables of nftables that are not ours.
    """

    def __init__(
        self,
        table: str,
        beside: Iterable[KeptTable],
        look: Look,
        repair: Look,
        tell: Tell,
        others: Callable[[], None],
    ) -> None:
        self._watched = frozenset((table, *(kept.table for kept in beside)))
        self._look = look
        self._repair = repair
        self._tell = tell
        self._others = others
        self._patience = Patience()
        self._links = LinkNotices()
        self._tables = TableNotices()
        self._timer: asyncio.TimerHandle | None = None
        self._working: asyncio.Task[None] | None = None
        self._again = False
        loop = asyncio.get_running_loop()
        loop.add_reader(self._links.fileno(), self._link_changed)
        loop.add_reader(self._tables.fileno(), self._table_changed)

    def close(self) -> None:
        """Watch nothing any more."""
        loop = asyncio.get_running_loop()
        watched: tuple[Notices, ...] = self._links, self._tables
        for notices in watched:
            loop.remove_reader(notices.fileno())
            notices.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._working is not None:
            self._working.cancel()

    def watch_bridges(self, indices: Collection[int]) -> None:
        """The bridges have these indices now."""
        self._links.watch(indices)

    def _link_changed(self) -> None:
        with suppress(Overrun):
            if not any(bridge_harmed(kind, payload) for kind, payload in self._links.receive()):
                return
        self._suspect()

    def _table_changed(self) -> None:
        try:
            done = self._tables.transactions()
        except Overrun:
            self._suspect()
            self._others()
            return
        changes = [change.tables for change in done if change.tables and not _is_ours(change.thread)]
        if any(self._watched & tables for tables in changes):
            self._suspect()
        if any(tables - self._watched for tables in changes):
            self._others()

    def _suspect(self) -> None:
        if self._working is not None:
            self._again = True
        elif self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._patience.wait(), self._begin)

    def _begin(self) -> None:
        self._timer = None
        self._again = False
        self._working = asyncio.get_running_loop().create_task(self._compare())
        self._working.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._working = None
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            logger.error("drift not looked at", exc_info=error)
        if self._again:
            self._suspect()

    async def _compare(self) -> None:
        first = await self._look()
        if not first:
            return
        # Something of ours may have been between the state file and the kernel just then.
        await asyncio.sleep(SETTLE_S)
        found = [what for what in await self._look() if what in first]
        if not found:
            return
        if self._patience.disputed:
            logger.warning("somebody keeps changing what is ours: %s", "; ".join(found))
        try:
            await self._repair()
            left = await self._look()
        except MooringError as error:
            left = [error.message]
        self._patience.repaired()
        self._tell(found, not left)
        if left:
            self._again = True


def _is_ours(thread: int) -> bool:
    """Whether a thread is one of this process: only such ones change the tables for this agent."""
    return os.path.exists(f"/proc/self/task/{thread}")
