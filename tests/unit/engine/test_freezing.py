# SPDX-License-Identifier: Apache-2.0
"""Containers that stand still for several works at once, and for their users."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from mooring_agent.engine.container import Container
from mooring_agent.engine.freezing import Freezing


class World:
    """A running container whose group and events are noted."""

    def __init__(self) -> None:
        self.frozen = False
        self.told: list[str] = []
        group: Any = SimpleNamespace(freeze=lambda: self._put(True), thaw=lambda: self._put(False))
        registry: Any = SimpleNamespace(save_run=lambda container: None)
        self.freezing = Freezing(registry, lambda _: group, lambda _, event: self.told.append(event))
        spec: Any = None
        self.container = Container("1", "web", spec, "", 0.0, False, (), (), "/", "", "TERM")
        self.container.status = "running"

    def _put(self, frozen: bool) -> None:
        self.frozen = frozen

    def assert_is(self, status: str) -> None:
        assert (self.container.status, self.frozen) == (status, status == "paused")


def test_the_last_of_several_works_lets_it_go() -> None:
    async def work() -> None:
        world = World()
        async with world.freezing.held(world.container):
            second = world.freezing.held(world.container)
            await second.__aenter__()
        world.assert_is("paused")
        await second.__aexit__(None, None, None)
        world.assert_is("running")
        assert world.told == ["pause", "unpause"]

    asyncio.run(work())


def test_works_that_begin_together_hold_it_together() -> None:
    async def work() -> None:
        world = World()

        async def hold() -> None:
            async with world.freezing.held(world.container):
                world.assert_is("paused")
                await asyncio.sleep(0)
                world.assert_is("paused")

        await asyncio.gather(hold(), hold(), hold())
        world.assert_is("running")

    asyncio.run(work())


def test_a_work_that_follows_its_user_s_unpausing_holds_it_to_its_own_end() -> None:
    async def work() -> None:
        world = World()
        first, second = (world.freezing.held(world.container) for _ in range(2))
        await first.__aenter__()
        await world.freezing.unpause(world.container)
        await second.__aenter__()
        await first.__aexit__(None, None, None)
        world.assert_is("paused")
        await second.__aexit__(None, None, None)
        world.assert_is("running")

    asyncio.run(work())


def test_what_its_user_has_paused_stays_so() -> None:
    async def work() -> None:
        world = World()
        async with world.freezing.held(world.container):
            await world.freezing.unpause(world.container)
            await world.freezing.pause(world.container)
        world.assert_is("paused")
        async with world.freezing.held(world.container):
            pass
        world.assert_is("paused")
        assert world.told == ["pause", "unpause", "pause"]

    asyncio.run(work())
