# SPDX-License-Identifier: Apache-2.0
"""One receiver of logs, a syslog server or the journal, and the task that sends it those of containers."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from typing import Protocol

from ...failpoints import reached
from .backlog import Places
from .links import Link
from .shipment import Shipment

logger = logging.getLogger(__name__)

# So much of one container's log is sent before it is the next one's turn, and before the event loop's.
_TURN = 16 << 10
_BACKOFF = (0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
# How long what was sent may be unacknowledged until that is asked again: at first, and at most.
_ASK_FIRST, _ASK_LAST = 0.02, 1.0
_LAST_WORDS = 0.5
# How long a link holds until a receiver that had failed is taken for one that is back.
_STEADY = 0.5


class Reports(Protocol):
    """Who is told what becomes of receivers."""

    def unreachable(self, receiver: str, error: str) -> None:
        """A receiver does not answer; it will be tried again."""

    def reachable(self, receiver: str) -> None:
        """One that did not does so again."""

    def lost(self, shipment: Shipment, what: str) -> None:
        """Something of a container's log will not be sent."""


class Receiver:
    """Sends to one receiver, over one link, in turns of the containers whose logs have grown.

    `connect` makes a link. It is idle while there is nothing to send; nothing but the part of a log whose
    turn it is, is in memory.
    """

    def __init__(self, name: str, connect: Callable[[], Awaitable[Link]], reports: Reports) -> None:
        self.name = name
        self.users = 0
        """Shipments that go there."""
        self._connect = connect
        self._reports = reports
        self._waiting: OrderedDict[Shipment, None] = OrderedDict()
        self._some = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed = asyncio.Event()
        # What was sent and is not acknowledged: how much had been sent then, whose it was, the places after.
        self._under_way: deque[tuple[int, Shipment, Places]] = deque()
        self._failures = 0
        self._link: Link | None = None
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(_tell_failure)

    def nudge(self, shipment: Shipment) -> None:
        """A container's log may have grown."""
        self._waiting[shipment] = None
        self._some.set()

    def forget(self, shipment: Shipment) -> None:
        """A container's log is not to be sent any more."""
        shipment.over = True
        self._waiting.pop(shipment, None)
        self._under_way = deque(each for each in self._under_way if each[1] is not shipment)

    async def finish(self, shipment: Shipment, within: float) -> bool:
        """Send what is there. False if it could not be within so many seconds, or an attempt failed."""
        self._failed.clear()
        shipment.set()
        self._hurry.set()
        waits = [asyncio.ensure_future(each.wait()) for each in (shipment.settled, self._failed)]
        try:
            await asyncio.wait(waits, timeout=within, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()
        return shipment.settled.is_set()

    async def close(self) -> None:
        """Send nothing more; wait a moment for what is under way to be acknowledged."""
        self._task.cancel()
        await asyncio.wait([self._task])
        if self._link is not None:
            try:
                async with asyncio.timeout(_LAST_WORDS):
                    while self._under_way and not self._link.over.is_set():
                        self._settle(self._link)
                        await asyncio.sleep(_ASK_FIRST)
            except TimeoutError:
                pass
            self._disconnect()

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            try:
                if not await self._is_owed():
                    continue  # no connection for nothing
                link = self._link = await self._connect()
                await self._send_to(link)
            except Exception as error:
                if not isinstance(error, OSError):  # a bug, for which all who log there must not fall silent
                    logger.error("sending of logs failed receiver=%s", self.name, exc_info=error)
                self._disconnect()
                self._take_back()
                await self._rest(error)
            else:  # the other end has left when it had got all
                self._disconnect()

    async def _send_to(self, link: Link) -> None:
        """Send what there is until the other end leaves, in good order. Raises OSError."""
        patience, begun = _ASK_FIRST, asyncio.get_running_loop().time()
        while True:
            if self._waiting:
                patience = _ASK_FIRST
                await self._turn(link)
                await asyncio.sleep(0)
            self._settle(link)
            if self._failures and asyncio.get_running_loop().time() - begun > _STEADY:
                self._failures = 0
                self._reports.reachable(self.name)
            if link.over.is_set():
                if link.error is not None:
                    raise link.error
                if self._under_way or self._waiting:
                    raise ConnectionResetError("the receiver has closed the connection")
                return
            if not self._waiting:
                self._some.clear()
                await self._pause(link, patience if self._under_way or self._failures else None)
                patience = min(_ASK_LAST, 2 * patience)

    async def _pause(self, link: Link, patience: float | None) -> None:
        waits = [asyncio.ensure_future(each.wait()) for each in (self._some, link.over)]
        try:
            await asyncio.wait(waits, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    async def _is_owed(self) -> bool:
        """Whether there is anything to send; those of which nothing is left are settled."""
        while self._waiting:
            shipment = next(iter(self._waiting))
            self._waiting.move_to_end(shipment)  # if that fails, it is another's turn
            if shipment.load(_TURN):
                self._waiting.move_to_end(shipment, last=False)
                return True
            del self._waiting[shipment]
            self._note_end(shipment)
            await asyncio.sleep(0)  # when an agent starts, there are all of its containers to look at
        self._some.clear()
        return False

    def _note_end(self, shipment: Shipment) -> None:
        """There is nothing more of a log to be sent."""
        self._tell_lost(shipment)
        if not shipment.under_way:
            shipment.backlog.commit(shipment.after)
            shipment.settled.set()

    async def _turn(self, link: Link) -> None:
        """Send a part of the log that waits for longest."""
        shipment = next(iter(self._waiting))
        self._waiting.move_to_end(shipment)  # there may be more; or it fails, and it is another's turn
        if not shipment.load(_TURN):
            del self._waiting[shipment]
            self._note_end(shipment)
            return
        after = shipment.after
        sent = await link.send(shipment.messages)
        reached("forwarding.sent")
        if link.dropped:
            count, link.dropped = link.dropped, 0
            self._reports.lost(shipment, f"messages too long for a datagram: {count}")
        if shipment.over:
            return
        shipment.under_way += 1
        self._under_way.append((sent, shipment, after))
        self._tell_lost(shipment)

    def _settle(self, link: Link) -> None:
        """Take note of what has arrived."""
        if not self._under_way:
            return
        arrived = link.acknowledged()
        while self._under_way and self._under_way[0][0] <= arrived:
            _, shipment, after = self._under_way.popleft()
            shipment.under_way -= 1
            shipment.backlog.commit(after)
            if not shipment.under_way and shipment not in self._waiting:
                self.nudge(shipment)  # to find out whether that was all
        reached("forwarding.settled")

    def _take_back(self) -> None:
        """What is under way has not arrived, as far as is known: it is sent again."""
        for shipment in {each[1] for each in self._under_way}:
            shipment.rewind()
            self.nudge(shipment)
        self._under_way.clear()
        for shipment in self._waiting:
            if not shipment.messages:
                shipment.rewind()

    async def _rest(self, error: Exception) -> None:
        """Wait until it is tried again, the longer the more often it has failed."""
        if not self._failures:
            self._reports.unreachable(self.name, _words(error))
        pause = _BACKOFF[min(self._failures, len(_BACKOFF) - 1)]
        self._failures += 1
        self._failed.set()
        self._hurry.clear()
        try:
            async with asyncio.timeout(pause):
                await self._hurry.wait()
        except TimeoutError:
            pass

    def _tell_lost(self, shipment: Shipment) -> None:
        if shipment.backlog.lost:
            count, shipment.backlog.lost = shipment.backlog.lost, 0
            self._reports.lost(
                shipment, f"up to {count} files of its log were rotated away before they were sent"
            )

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("sending of logs failed", exc_info=error)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.errno and not isinstance(error, ssl.SSLError):
        return os.strerror(error.errno)  # asyncio's own words have the address, too
    return str(error) or type(error).__name__
