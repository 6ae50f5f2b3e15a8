# SPDX-License-Identifier: Apache-2.0
"""The published ports of an agent: in the book, in the state file, and in the firewall, in this order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from ..errors import MooringError
from . import connections
from .ports import PortBook
from .publishing import Change, Mapped, Target, plan, withdraw
from .records import Publication
from .store import NetworkStore

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Mapped)


class PublishedPorts:
    """`carry_out` brings a change to the firewall. Called in the event loop's thread only."""

    def __init__(
        self,
        store: NetworkStore,
        container_name: Callable[[str], str],
        carry_out: Callable[[Change], Awaitable[None]],
    ) -> None:
        self._store = store
        self._book = PortBook(container_name)
        self._carry_out = carry_out
        self._tidying: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[Publication]:
        return iter(self._book)

    def restore(self) -> list[str]:
        """Take up what the state file says; returns a sentence for each port that somebody else has now."""
        taken = (self._book.restore(publication) for publication in self._store.publications())
        return [message for message in taken if message is not None]

    def of(self, container_id: str) -> list[Publication]:
        """What a container has published."""
        return self._book.of(container_id)

    def sharing(self, container_id: str) -> Iterator[str]:
        """The others that have published a port that a container has, one after the other."""
        found = {container_id}
        for publication in self._book.at(one.key for one in self._book.of(container_id)):
            if publication.container_id not in found:
                found.add(publication.container_id)
                yield publication.container_id

    async def publish(
        self, container_id: str, mappings: Sequence[M], target: Target, taking_over: str | None
    ) -> list[M]:
        """See `service.NetworkService.publish`."""
        change = plan(self._book, container_id, mappings, target, taking_over)
        self._store.change_publications(change.removed, change.added)
        try:
            await self._carry_out(change)
        except MooringError:
            undo = change.inverse()
            self._book.change(undo.removed, ())
            for publication in undo.added:
                self._book.restore(publication)
            self._store.change_publications(undo.removed, undo.added)
            raise
        await self._let_datagrams_follow(change)
        return change.filled(mappings)

    async def unpublish(self, container_id: str) -> None:
        """Take back all ports that a container has published."""
        change = withdraw(self._book, container_id)
        if change.before:
            self._store.change_publications(change.removed, change.added)
            await self._carry_out(change)
            await self._let_datagrams_follow(change)

    def clear(self) -> None:
        """Forget everything but what the state file says."""
        self._book.change(list(self._book), ())

    def close(self) -> None:
        """Let go of the ports' sockets; what is published stays so."""
        for task in self._tidying:
            task.cancel()
        self._book.close()

    async def _let_datagrams_follow(self, change: Change) -> None:
        """See `connections`. What clients have sent before a port was published keeps nobody waiting, and
        where the kernel forgets nothing the ports are what they should be nevertheless.
        """
        if any(publication.protocol == "udp" for publication in change.removed):
            with _told():
                await connections.forget_datagrams_to(change.removed, change.added)
        if any(publication.protocol == "udp" for publication in change.added):
            task = asyncio.get_running_loop().create_task(_forget_before(change))
            self._tidying.add(task)
            task.add_done_callback(self._tidying.discard)


async def _forget_before(change: Change) -> None:
    with _told():
        await connections.forget_datagrams_before(change.added)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except MooringError as error:
        logger.warning("datagrams of before stay where they went error=%r", error.message)
