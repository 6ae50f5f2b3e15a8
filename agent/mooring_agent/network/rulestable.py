# SPDX-License-Identifier: Apache-2.0
"""Keeps the nftables table of the networks' rules what it should be."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

from ..errors import MooringError
from ..linux.nftables import NftError
from . import isolation
from .firewall import Firewall
from .isolation import Table
from .leases import Leases
from .records import Network
from .traffic import Traffic

logger = logging.getLogger(__name__)


class RulesTable:
    """The table of this agent's rules; there is none while no network has rules and no container a class.

    `firewall` carries changes out, and `networks` tells all networks that have a bridge. Everything is called
    in the event loop's thread.
    """

    def __init__(
        self,
        firewall: Firewall,
        networks: Callable[[], Collection[Network]],
        leases: Leases,
        traffic: Traffic,
    ) -> None:
        self.table = f"{firewall.table}_rules"
        self._firewall = firewall
        self._networks = networks
        self._leases = leases
        self._traffic = traffic
        self._present: Table | None = None
        self._changing = asyncio.Lock()
        self._refreshing: set[asyncio.Task[None]] = set()

    def names(self, container: str) -> bool:
        """Whether a rule names this container."""
        return any(
            container == rule.peer_container or container in rule.containers
            for network in self._networks()
            for rule in network.rules
        )

    async def refresh(self, *, anew: bool = False) -> None:
        """Bring the table to what the networks' rules and the names in them mean now; `anew` whatever it is.

        Raises NftError, MissingProgram.
        """
        async with self._changing:
            wanted = self._wanted()
            before = None if anew else self._present
            if wanted == before or not (wanted.text or before or self._networks()):
                return
            self._present = None
            if before is not None:
                try:
                    await self._firewall.run(isolation.change(self.table, before, wanted))
                except NftError:  # somebody else has touched it
                    before = None
            if before is None and (wanted.text or await self._firewall.listing(self.table) is not None):
                await self._firewall.run(isolation.full(self.table, wanted))
            self._present = wanted

    async def differences(self) -> list[str]:
        """What of the table is not as it should be, a sentence each."""
        async with self._changing:
            wanted = self._wanted()
            if not (wanted.text or self._networks()):
                return []
            try:
                listing = await self._firewall.listing(self.table)
            except MooringError as error:
                return [error.message]
        name = f"nftables table {self.table} of the networks' rules"
        if listing is None:
            return [f"{name} is missing"] if wanted.text else []
        if not wanted.text:
            return [f"{name} is left over"]
        return [] if isolation.is_as_wanted(listing, wanted) else [f"{name} was changed"]

    async def repair(self) -> list[str]:
        """Make the table what it should be if it is not; what was wrong, or is, a sentence each."""
        found = await self.differences()
        try:
            await self.refresh(anew=bool(found))
        except MooringError as error:
            found.append(error.message)
        return found

    def refresh_soon(self) -> None:
        """`refresh` without waiting for it, where rules name anybody or somebody has a class."""
        classified = self._present is not None and any(
            where.startswith("classes") for where, _ in self._present.elements
        )
        if classified or any(
            rule.peer_container or rule.containers for network in self._networks() for rule in network.rules
        ):
            task = asyncio.get_running_loop().create_task(self._refresh_in_background())
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)

    async def close(self) -> None:
        """Wait for what is under way; the table stays."""
        while self._refreshing:
            await asyncio.wait(self._refreshing)

    async def _refresh_in_background(self) -> None:
        try:
            await self.refresh()
        except MooringError as error:
            logger.error("rules of networks are not up to date error=%r", error.message)

    async def remove(self) -> None:
        """Remove the table, if it is there."""
        async with self._changing:
            if self._present is not None and self._present.text:
                await self._firewall.run(isolation.full(self.table, Table()))
            self._present = None

    def _wanted(self) -> Table:
        networks = {network.name: network for network in self._networks()}

        def subnets(name: str) -> list[str]:
            return [str(subnet.cidr) for subnet in networks[name].subnets] if name in networks else []

        classes = self._traffic.classes(self._leases.all())
        return isolation.build(networks.values(), self._leases.addresses_of, subnets, classes)
