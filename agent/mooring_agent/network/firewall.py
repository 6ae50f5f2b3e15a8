# SPDX-License-Identifier: Apache-2.0
"""Carries the changes of our nftables tables out, one after the other, off the event loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..linux.nftables import Nftables, NftError
from . import neighbours, ruleset
from .portrules import FAMILY
from .records import Network, Publication

A = TypeVar("A")
B = TypeVar("B")
Contents = Callable[[], tuple[Iterable[Network], Iterable[Publication]]]


class Firewall:
    """The table of this agent's networks. Changes run in the order in which they were asked for.

    `contents` tells what the table should hold in all; it is called in the event loop's thread. When a change
    does not fit the table in the kernel, somebody else has touched it, and it is rewritten from `contents` as
    a whole.
    """

    def __init__(self, table: str, contents: Contents) -> None:
        self.table = table
        self._contents = contents
        self._nftables = Nftables()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="nftables")

    async def apply(self, commands: Iterable[str]) -> None:
        """Carry commands out as one transaction; they must be part of `contents` already.

        Raises NftError if even a rewritten table cannot hold them, and MissingProgram without libnftables.
        """
        text = "\n".join(commands)
        if not text:
            return
        try:
            await self._in_worker(self._nftables.run, text)
        except NftError:
            await self.rewrite()

    async def rewrite(self) -> None:
        """Replace the table by what it should hold, in one transaction."""
        await self._in_worker(self._nftables.run, ruleset.full(self.table, *self._contents()))

    async def remove(self) -> None:
        """Remove the table."""
        await self._in_worker(self._nftables.run, ruleset.remove_table(self.table))

    async def run(self, commands: str) -> None:
        """Carry out commands about another table of this agent as one transaction. Raises NftError."""
        await self._in_worker(self._nftables.run, commands)

    async def listing(self, table: str) -> list[dict[str, Any]] | None:
        """What is in a table; None if there is no such."""
        return await self._in_worker(self._listing, table)

    async def differences(self) -> list[str]:
        """What of the table is not as it should be, a phrase each."""
        networks, publications = self._contents()
        listing = await self.listing(self.table)
        if listing is None:
            return ["it is missing"]
        return ruleset.differences(listing, networks, publications)

    async def obstacles(self, bridge_prefix: str) -> list[str]:
        """A sentence for each firewall beside ours that drops what networks forward."""
        networks, _ = self._contents()
        versions = {subnet.cidr.version for network in networks for subnet in network.subnets}
        if not versions:
            return []
        return await asyncio.to_thread(
            neighbours.dropping, self._nftables, self.table, bridge_prefix, neighbours.FORWARDING, versions
        )

    def close(self) -> None:
        """Wait for the last change and end the worker thread; the table stays."""
        self._worker.shutdown(wait=True)

    def _listing(self, table: str) -> list[dict[str, Any]] | None:
        return self._nftables.table(FAMILY, table)

    async def _in_worker(self, function: Callable[[A], B], argument: A) -> B:
        return await asyncio.get_running_loop().run_in_executor(self._worker, function, argument)
