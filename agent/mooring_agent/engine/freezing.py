# SPDX-License-Identifier: Apache-2.0
"""Containers that stand still: paused by their user, or held for a work of the agent's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from ..cgroups.group import Group
from ..errors import Conflict, MooringError
from ..failpoints import reached
from .container import Container
from .registry import Registry


class Freezing:
    """Freezes and thaws. `publish` tells what happened to a container."""

    def __init__(
        self,
        registry: Registry,
        group_of: Callable[[Container], Group],
        publish: Callable[[Container, str], None],
    ) -> None:
        self._registry = registry
        self._group_of = group_of
        self._publish = publish

    async def pause(self, container: Container) -> None:
        """Freeze all its processes until it is unpaused. Raises Conflict when it does not run."""
        async with container.lock:
            await self._freeze(container, held=False)

    async def unpause(self, container: Container) -> None:
        """Let its processes go on. Raises Conflict when they do not stand still."""
        async with container.lock:
            if container.status != "paused":
                raise Conflict(f"container {container.name} is {container.status}: it is not paused")
            await self.thaw(container)
        self._publish(container, "unpause")

    @asynccontextmanager
    async def held(self, container: Container) -> AsyncIterator[None]:
        """Freeze it for a while, if it runs; its user may unpause it before.

        Of several works at once the last one to end lets it go. That it is held is on the disk before it
        stands still, so that the next agent lets it go when this one is killed.
        """
        if not await self._hold(container):
            yield
            return
        try:
            yield
        finally:
            container.holders -= 1
            await self.let_go(container)

    async def let_go(self, container: Container) -> None:
        """Thaw a container that nobody holds any more; one that its user has paused or unpaused stays as it
        is.
        """
        async with container.lock:
            if container.holders or not container.held or container.status != "paused":
                return
            with suppress(Conflict):  # a group above it is frozen
                await self.thaw(container)
                self._publish(container, "unpause")

    async def thaw(self, container: Container) -> None:
        """Let it go on; the caller has its lock, or does not care."""
        await asyncio.to_thread(self._group_of(container).thaw)
        reached("pause.thawed")
        if container.running:
            container.status, container.held = "running", False
            self._registry.save_run(container)

    def found(self, container: Container) -> bool:
        """Take over what the control group of a running container says, of which an agent was killed while it
        froze or thawed it; returns whether it stands still and was held for that agent.
        """
        try:
            status = "paused" if self._group_of(container).is_frozen() else "running"
        except MooringError:
            status = container.status  # no freezer on this host
        held = container.held and status == "paused"
        if (status, held) != (container.status, container.held):
            container.status, container.held = status, held
            self._registry.save_run(container)
        return held

    async def _hold(self, container: Container) -> bool:
        """Have it stand still; False for one that does not run, or that its user has paused."""
        async with container.lock:
            if container.status == "running":
                try:
                    await self._freeze(container, held=True)
                except Conflict:
                    if container.running:
                        raise
                    container.held = False  # it has ended meanwhile, and stands still for good
                    self._registry.save_run(container)
                    return False
            elif container.status != "paused" or not container.held:
                return False
            container.holders += 1
            return True

    async def _freeze(self, container: Container, *, held: bool) -> None:
        """The caller has its lock."""
        if container.status != "running":
            raise Conflict(
                f"container {container.name} is {container.status}: only a running one can be paused"
            )
        if container.held != held:
            container.held = held
            self._registry.save_run(container)
            reached("pause.held")
        await asyncio.to_thread(self._group_of(container).freeze)
        reached("pause.frozen")
        if not container.running:
            raise Conflict(f"container {container.name} has ended before it was paused")
        container.status = "paused"
        self._registry.save_run(container)
        self._publish(container, "pause")
