# SPDX-License-Identifier: Apache-2.0
"""Launchers that the agent has acquired ahead, each with a cable to the network that was last asked for.

A start that finds one here saves a round trip to the keeper and the making of a veth pair. It is filled when
nothing has been asked for a moment, since that is work, too. A burst of starts that takes more than there are
has more kept for the next one, until there has been none for a while.
"""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import dataclass

from ..errors import MooringError
from ..keeper import messages
from ..keeper.client import KeeperClient
from ..network.service import NetworkService
from ..network.veths import Cable
from ..runtime.plan import Shape

logger = logging.getLogger(__name__)

# How long nobody must have taken one before the reserve is filled again; the keeper's own pool waits as long.
_QUIET_SECONDS = 0.03
_PAUSE_AFTER_FAILURE = 1.0
# How long after a burst there may be another one. What waits for it takes memory, and nothing else.
_BURSTS_WITHIN = 600.0


@dataclass(frozen=True)
class Berth:
    """A launcher that waits for a plan, perhaps with a cable laid."""

    slot: str
    pid: int
    cable: Cable | None = None

    @property
    def network(self) -> str | None:
        """Where its cable leads to."""
        return self.cable.network if self.cable is not None else None

    def close(self) -> None:
        """Let go of the cable; it goes with the launcher's network namespace."""
        if self.cable is not None:
            self.cable.inside.close()


@dataclass
class Demand:
    """How many launchers ought to wait: as a rule `usual`, and for some minutes after a burst that took more
    as many as it took, at most `most`. Moments are those of one clock, in seconds.
    """

    usual: int
    most: int
    at_once: int = 0  # wanted since the last quiet moment
    burst: int = 0  # wanted in the greatest burst since there has been none for a while
    until: float = -math.inf

    def size(self, now: float) -> int:
        """How many there should be."""
        return min(max(self.burst, self.usual), self.most) if now < self.until else self.usual

    def taken(self, now: float) -> None:
        """One of those that wait is taken."""
        self.at_once += 1
        if self.at_once > self.usual:
            self._grow(now)

    def missed(self, now: float) -> None:
        """One was wanted, and none waits: after so many that is a burst, else they are for another network,
        or not there yet.
        """
        if self.at_once >= max(self.usual, 1):
            self.at_once += 1
            self._grow(now)

    def _grow(self, now: float) -> None:
        self.burst = max(self.burst if now < self.until else 0, self.at_once)
        self.until = now + _BURSTS_WITHIN

    def quiet(self) -> None:
        """Nobody wants one at the moment."""
        self.at_once = 0


class Reserve:
    """Launchers of one shape, `usual` or for a while as many as bursts take. With the keeper's own they are
    `pool` at rest, and never more than twice that. It is empty while the keeper is away.
    """

    def __init__(self, networks: NetworkService, usual: int, pool: int) -> None:
        self._networks = networks
        self._pool = pool
        # Some stay with the keeper, for containers of another shape or network.
        self._demand = Demand(usual, 2 * pool - max(pool // 4, min(pool, 1)))
        self.left_to_keeper = pool - usual
        self._shape: Shape | None = None
        self._client: KeeperClient | None = None
        self._berths: list[Berth] = []
        self._network: str | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._shrinking: asyncio.TimerHandle | None = None
        self._filling: asyncio.Task[None] | None = None

    def open(self, client: KeeperClient, shape: Shape) -> None:
        """The keeper is there, and keeps `left_to_keeper`: keep launchers of `shape` from now on."""
        self._client, self._shape = client, shape
        self._fill_after(_QUIET_SECONDS)
        self._shrink_later(asyncio.get_running_loop().time())

    def close(self) -> None:
        """The keeper is gone, and its launchers with it, or the agent is about to end."""
        self._client = None
        for timer in (self._timer, self._shrinking):
            if timer is not None:
                timer.cancel()
        self._shrinking = None
        if self._filling is not None:
            self._filling.cancel()
        for berth in self._berths:
            berth.close()
        self._berths.clear()

    def take_waiting(self, client: KeeperClient, shape: Shape, network: str | None) -> Berth | None:
        """A launcher of `shape` with a cable to `network`, if one waits."""
        if shape != self._shape or client is not self._client:
            return None
        self._network = network
        self._fill_after(_QUIET_SECONDS)
        now = asyncio.get_running_loop().time()
        for berth in self._berths:
            if berth.network == network:
                self._berths.remove(berth)
                self._demand.taken(now)
                self._shrink_later(now)
                return berth
        self._demand.missed(now)
        self._shrink_later(now)
        return None

    def has_waiting(self, client: KeeperClient, shape: Shape, network: str | None) -> bool:
        """Whether `take_waiting` would find one."""
        return (
            shape == self._shape
            and client is self._client
            and any(berth.network == network for berth in self._berths)
        )

    @property
    def size(self) -> int:
        """How many there should be at the moment."""
        return self._demand.size(asyncio.get_running_loop().time())

    def _shrink_later(self, now: float) -> None:
        if self._shrinking is None and now < self._demand.until:
            self._shrinking = asyncio.get_running_loop().call_at(self._demand.until, self._shrink)

    def _shrink(self) -> None:
        self._shrinking = None
        self._fill_after(_QUIET_SECONDS)
        self._shrink_later(asyncio.get_running_loop().time())

    def _fill_after(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._start_filling)

    def _start_filling(self) -> None:
        if self._client is None or (self._filling is not None and not self._filling.done()):
            return
        loop = asyncio.get_running_loop()
        quiet = loop.time() - self._client.asked_at
        if quiet < _QUIET_SECONDS:
            self._fill_after(_QUIET_SECONDS - quiet)
        else:
            self._demand.quiet()
            self._filling = loop.create_task(self._fill())

    async def _fill(self) -> None:
        client, shape = self._client, self._shape
        try:
            while client is not None and client is self._client and shape is not None:
                wrong = [berth for berth in self._berths if berth.network != self._network]
                size = self.size
                if len(self._berths) == size and not wrong:
                    await self._share(client, shape)
                    return
                if len(self._berths) >= max(size, 1):
                    superfluous = (wrong or self._berths)[0]
                    self._berths.remove(superfluous)
                    await release(client, superfluous)
                    continue
                berth = await acquire(client, shape)
                asked_at = client.asked_at
                if self._client is not client:
                    return
                cable = None
                if self._network is not None:
                    cable = self._networks.lay_cable(self._network, berth.pid)
                    if cable is None:
                        await release(client, berth)
                        self._fill_after(_PAUSE_AFTER_FAILURE)
                        return
                self._berths.append(Berth(berth.slot, berth.pid, cable))
                await asyncio.sleep(0)
                if client.asked_at != asked_at:  # somebody is about something: this can wait
                    await self._share(client, shape)
                    self._fill_after(_QUIET_SECONDS)
                    return
        except MooringError as error:
            logger.info("reserve of launchers rests error=%r", error.message)
            if self._client is not None:
                self._fill_after(_PAUSE_AFTER_FAILURE)

    async def _share(self, client: KeeperClient, shape: Shape) -> None:
        """Have the keeper keep no more than what the bound leaves to it."""
        left = min(self._pool - self._demand.usual, 2 * self._pool - len(self._berths))
        if left != self.left_to_keeper:
            self.left_to_keeper = left
            await client.request(messages.Configure(vars(shape), left))


async def acquire(client: KeeperClient, shape: Shape) -> Berth:
    """A launcher of `shape` from the keeper."""
    slot, _ = await client.request(messages.Acquire(vars(shape)))
    assert isinstance(slot, messages.Slot)
    return Berth(slot.slot, slot.pid)


async def release(client: KeeperClient, berth: Berth) -> None:
    """Give a launcher up; the keeper does so itself when the connection to it ends."""
    berth.close()
    with suppress(MooringError):
        await client.request(messages.Release(berth.slot))
