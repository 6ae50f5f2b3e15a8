# SPDX-License-Identifier: Apache-2.0
"""The engine's connection to the keeper, made again whenever it ends, with the pool of launchers it
asks for.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import MooringError, Unavailable
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, KeeperRefused, KeeperSilent
from ..runtime.plan import Shape
from .reserve import Reserve

logger = logging.getLogger(__name__)

_RETRY_FIRST = 0.05
_RETRY_MOST = 2.0
_READY_TIMEOUT = 10.0
_START_ATTEMPTS = 5


class KeeperLink:
    """Keeps a KeeperClient connected. `on_inventory` gets the keeper's records after each connection, the
    first too.
    """

    def __init__(
        self,
        run_root: Path,
        shape: Shape,
        reserve: Reserve,
        on_exit: Callable[[messages.Exited], None],
        on_inventory: Callable[[list[dict[str, Any]]], Awaitable[None]],
    ) -> None:
        self.client = KeeperClient(run_root)
        self.shape = shape
        self._reserve = reserve
        self._on_inventory = on_inventory
        self._ready = asyncio.Event()
        self._reconnecting: asyncio.Task[None] | None = None
        self._keeps_old = False
        self._on_exit = on_exit
        # Ends that are told while an inventory is on its way, which may be older than they are.
        self._told: list[messages.Exited] | None = None
        self.client.on_exit = self._exited

    async def start(self) -> None:
        """Connect for the first time. Raises Unavailable."""
        for _ in range(_START_ATTEMPTS - 1):
            try:
                await self._connect()
            except KeeperSilent:
                raise
            except KeeperLost:
                await asyncio.sleep(_RETRY_FIRST)  # it was killed just now: the next one is on its way
            else:
                return
        await self._connect()

    def close(self) -> None:
        """End the connection; containers run on."""
        if self._reconnecting is not None:
            self._reconnecting.cancel()
        self._reserve.close()
        self.client.close()

    async def ready(self) -> KeeperClient:
        """The connected client. Raises Unavailable when it does not come back in time."""
        if self._ready.is_set():
            return self.client
        try:
            await asyncio.wait_for(self._ready.wait(), _READY_TIMEOUT)
        except TimeoutError:
            raise Unavailable(
                "keeper does not answer and could not be started again: see the agent's log and keeper/log "
                "below the run root"
            ) from None
        return self.client

    async def request(self, message: messages.Message) -> messages.Message:
        """One request without descriptors, to a connected keeper."""
        answer, _ = await (await self.ready()).request(message)
        return answer

    async def end_keeper(self) -> None:
        """Let the keeper end now, not only when nobody has needed it for a while. One that still has a
        process stays. There is no connection afterwards.
        """
        client = await self.ready()
        self._ready.clear()
        client.on_lost = lambda: None
        with suppress(KeeperRefused):
            await client.request(messages.Shutdown())
        client.close()

    async def _connect(self) -> None:
        self.client.on_lost = lambda: None  # what is lost before all is told shows as an exception here
        await self.client.connect()
        try:
            await self._renew()
            await self.client.request(messages.Configure(vars(self.shape), self._reserve.left_to_keeper))
            await self._take_inventory()
            if not self.client.connected:
                raise KeeperLost("keeper has gone while it was asked what it has")
        except BaseException:
            self.client.close()
            raise
        self.client.on_lost = self._lost
        self._reserve.open(self.client, self.shape)
        self._ready.set()

    async def _renew(self) -> None:
        """Bring a keeper that runs other code to this agent's. Where that fails the old one goes on, and is
        not asked again: it would fail again, and might lose something each time.
        """
        client = self.client
        if self._keeps_old or not client.outdated:
            return
        former = client.identity
        try:
            await client.renew()
        except MooringError as error:
            self._keeps_old = True
            logger.warning(
                "keeper goes on with its own code pid=%d version=%s code=%s reason=%r",
                *(former.pid, former.version, former.code, error.message),
            )
            if not client.connected:
                await client.connect()
        else:
            now = client.identity
            logger.info(
                "keeper upgraded pid=%d version=%s code=%s was_pid=%d was_version=%s was_code=%s",
                *(now.pid, now.version, now.code, former.pid, former.version, former.code),
            )

    async def _take_inventory(self) -> None:
        self._told = []
        try:
            _, descriptors = await self.client.request(messages.Inventory())
            await self._on_inventory(json.loads(messages.read_memory_file(descriptors[0])))
        finally:
            told, self._told = self._told, None
            for event in told:
                self._on_exit(event)

    def _exited(self, event: messages.Exited) -> None:
        if self._told is None:
            self._on_exit(event)
        else:
            self._told.append(event)

    def _lost(self) -> None:
        self._ready.clear()
        self._reserve.close()
        logger.warning("keeper lost pid=%d", self.client.identity.pid)
        if self._reconnecting is None or self._reconnecting.done():
            self._reconnecting = asyncio.get_running_loop().create_task(self._reconnect())

    async def _reconnect(self) -> None:
        pause = _RETRY_FIRST
        while not self._ready.is_set():
            try:
                await self._connect()
            except (MooringError, OSError) as error:
                logger.error("keeper cannot be reached error=%r", str(error))
                await asyncio.sleep(pause)
                pause = min(pause * 2, _RETRY_MOST)
        logger.info("keeper back pid=%d", self.client.identity.pid)
