# SPDX-License-Identifier: Apache-2.0
"""How many launchers wait: as many as bursts of starts take."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from harness.clock import Clock
from mooring_agent.engine.reserve import Demand, Reserve
from mooring_agent.keeper import messages
from mooring_agent.runtime.plan import Shape

_USUAL, _MOST = 16, 62
_MINUTES = 60.0


def _burst(demand: Demand, starts: int, now: float) -> int:
    """So many starts without a pause; how many of them had found a launcher."""
    waiting = demand.size(now)
    for number in range(starts):
        if number < waiting:
            demand.taken(now)
        else:
            demand.missed(now)
    demand.quiet()
    return min(starts, waiting)


def test_a_burst_that_takes_more_than_there_are_has_more_for_the_next_one() -> None:
    demand = Demand(_USUAL, _MOST)
    assert _burst(demand, 50, now=0.0) == _USUAL
    assert _burst(demand, 50, now=2 * _MINUTES) == 50


def test_bursts_that_go_on_keep_them() -> None:
    demand = Demand(_USUAL, _MOST)
    for minute in range(0, 60, 9):
        _burst(demand, 50, now=minute * _MINUTES)
    assert demand.size(60 * _MINUTES) == 50


def test_they_are_as_many_as_the_greatest_burst_took_within_bounds() -> None:
    demand = Demand(_USUAL, _MOST)
    for starts in (20, 40, 30):
        _burst(demand, starts, now=0.0)
    assert demand.size(0.0) == 40
    _burst(demand, 500, now=0.0)
    assert demand.size(0.0) == _MOST


def test_what_was_long_ago_does_not_count() -> None:
    demand = Demand(_USUAL, _MOST)
    _burst(demand, 50, now=0.0)
    _burst(demand, 20, now=11 * _MINUTES)
    assert demand.size(11 * _MINUTES) == 20


def test_they_are_given_up_after_the_last_burst() -> None:
    demand = Demand(_USUAL, _MOST)
    _burst(demand, 50, now=0.0)
    for minute in range(1, 10):  # single ones need no more than the usual number
        _burst(demand, 3, now=minute * _MINUTES)
    assert demand.size(9 * _MINUTES) == 50
    assert demand.size(11 * _MINUTES) == _USUAL


def test_nobody_gets_more_for_asking_for_another_network() -> None:
    demand = Demand(_USUAL, _MOST)
    for _ in range(100):
        demand.taken(0.0)
        demand.missed(0.0)
        demand.quiet()
    assert demand.size(0.0) == _USUAL


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.lists(st.tuples(st.sampled_from(["taken", "missed", "quiet"]), st.floats(0, 1000)), max_size=60),
)
def test_it_stays_within_its_bounds_and_ends_as_the_usual_one(
    usual: int, more: int, steps: list[tuple[str, float]]
) -> None:
    demand = Demand(usual, usual + more)
    now = 0.0
    for step, seconds in steps:
        now += seconds
        if step == "quiet":
            demand.quiet()
        else:
            getattr(demand, step)(now)
        assert usual <= demand.size(now) <= usual + more
    assert demand.size(now + 600) == usual


_POOL = 4


class _Keeper:
    """A client of a keeper that has any number of launchers."""

    asked_at = 0.0

    def __init__(self) -> None:
        self.waiting = 0
        self.pool = -1
        self._changed = asyncio.Event()

    async def request(self, message: object) -> Any:
        if isinstance(message, messages.Configure):
            self.pool = message.size
        else:
            self.waiting += 1 if isinstance(message, messages.Acquire) else -1
        self._changed.set()
        return messages.Slot("slot", 1), ()

    async def until(self, waiting: int, pool: int | None = None) -> None:
        """Wait until so many launchers are with the agent, and so many are to be kept here."""
        async with asyncio.timeout(700):
            while self.waiting != waiting or pool not in (None, self.pool):
                self._changed.clear()
                await self._changed.wait()


def _play(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scene)


def test_those_of_a_burst_are_given_up_though_the_keeper_was_away() -> None:
    shape = Shape(("mnt",))

    async def scene() -> None:
        before, after = cast(Any, _Keeper()), cast(Any, _Keeper())
        kept = Reserve(cast(Any, None), 1, _POOL)
        kept.open(before, shape)
        await before.until(1)
        assert kept.take_waiting(before, shape, None) is not None
        for _ in range(2):
            assert kept.take_waiting(before, shape, None) is None
        await before.until(1 + 3)
        kept.close()

        kept.open(after, shape)
        await after.until(3)
        await after.until(1)
        kept.close()

    _play(scene())


def test_the_keeper_keeps_the_fewer_the_more_wait_here() -> None:
    shape = Shape(("mnt",))

    async def scene() -> None:
        keeper = cast(Any, _Keeper())
        kept = Reserve(cast(Any, None), 1, _POOL)
        kept.open(keeper, shape)
        await keeper.until(1, pool=-1)
        assert kept.left_to_keeper == _POOL - 1
        kept.take_waiting(keeper, shape, None)
        for _ in range(20):
            kept.take_waiting(keeper, shape, None)
        most = 2 * _POOL - 1
        await keeper.until(1 + most, pool=1)
        await keeper.until(1 + 1, pool=_POOL - 1)
        kept.close()

    _play(scene())
