# SPDX-License-Identifier: Apache-2.0
"""A replacement that has to be undone, when even that fails at first."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mooring_agent.engine import desired
from mooring_agent.engine.desired import DesiredContainers
from mooring_agent.errors import MooringError, NotFound, Unavailable


class World:
    """An engine of two containers, the second of which has ended while it took over from the first."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.done: list[str] = []
        spec = SimpleNamespace(update_order="start_first")
        self.old = SimpleNamespace(id="old", name="web", running=True, replaces="", spec=spec)
        self.new = SimpleNamespace(
            id="new", name="web.new", running=True, wanted=True, replaces="old", spec=spec
        )
        self.there = {"old": self.old, "new": self.new}
        self.switch: asyncio.Task[Any] | None = None
        self.removed = asyncio.Event()
        self.failed = asyncio.Semaphore(0)

    def __iter__(self) -> Any:
        return iter(list(self.there.values()))

    def find(self, id: str) -> Any:
        return self.there.get(id)

    @property
    def lifecycle(self) -> SimpleNamespace:
        return SimpleNamespace(run_soon=self._run_soon)

    def _run_soon(self, work: Any) -> None:
        self.switch = asyncio.get_running_loop().create_task(work)

    async def take_over(self, new: Any, old: Any) -> None:
        raise Unavailable("it ended")

    async def hand_back(self, new: Any, old: Any) -> None:
        if self.failures:
            self.failures -= 1
            self.failed.release()
            raise MooringError("nftables refused a change")
        self.done.append("hand back")

    async def remove(self, id: str, *, force: bool) -> None:
        if id not in self.there:
            raise NotFound(id)
        del self.there[id]
        self.done.append(f"remove {id}")
        self.removed.set()

    async def play(self) -> DesiredContainers:
        made = DesiredContainers(
            *(cast(Any, self), cast(Any, self), cast(Any, None), cast(Any, None), cast(Any, self)),
            cast(Any, None),
        )
        await made.finish_replacements()
        assert self.switch is not None
        await self.switch
        return made


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desired, "_UNDONE_AFTER", (0.001, 0.001, 0.001))


async def _until_done(world: World) -> None:
    made = await world.play()
    assert world.done == []
    await asyncio.wait_for(world.removed.wait(), 10)
    made.close()


def test_what_cannot_be_undone_at_once_is_tried_again() -> None:
    world = World(failures=3)
    asyncio.run(_until_done(world))
    assert world.done == ["hand back", "remove new"]
    assert world.find("old") is world.old


async def _somebody_removes_it(world: World) -> None:
    made = await world.play()
    await world.remove("new", force=True)
    await asyncio.sleep(0.05)
    made.close()


def test_nothing_is_tried_with_what_somebody_has_removed() -> None:
    world = World(failures=1)
    asyncio.run(_somebody_removes_it(world))
    assert world.done == ["remove new"]


async def _never(world: World) -> None:
    made = await world.play()
    for _ in range(4):
        await asyncio.wait_for(world.failed.acquire(), 10)
    await asyncio.sleep(0.05)
    made.close()


def test_it_is_given_up_in_the_end() -> None:
    world = World(failures=100)
    asyncio.run(_never(world))
    assert world.failures == 100 - 4
    assert world.done == []
