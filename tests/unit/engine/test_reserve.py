# SPDX-License-Identifier: Apache-2.0
"""How many launchers wait: as many as bursts of starts take."""

from __future__ import annotations

import asyncio
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
    assert demand.size(60 * _MINUTES) == _MOST


def test_they_are_given_up_after_the_last_burst() -> None:
    demand = Demand(_USUAL, _MOST)
    _burst(demand, 50, now=0.0)
    for minute in range(1, 10):  # single ones need no more than the usual number
        _burst(demand, 3, now=minute * _MINUTES)
    assert demand.size(9 * _MINUTES) == _MOST
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
def test_it_is_one_of_two_numbers_and_ends_as_the_usual_one(
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
        assert demand.size(now) in (usual, usual + more)
    assert demand.size(now + 600) == usual


class _Keeper:
    """A client of a keeper that has any number of launchers."""

    asked_at = 0.0

    def __init__(self) -> None:
        self.waiting = 0
        self._changed = asyncio.Event()

    async def request(self, message: object) -> Any:
        self.waiting += 1 if isinstance(message, messages.Acquire) else -1
        self._changed.set()
        return messages.Slot("slot", 1), ()

    async def until(self, waiting: int) -> None:
        """Wait until so many launchers are with the agent."""
        async with asyncio.timeout(700):
            while self.waiting != waiting:
                self._changed.clear()
                await self._changed.wait()


def test_those_of_a_burst_are_given_up_though_the_keeper_was_away() -> None:
    shape = Shape(("mnt",))

    async def scene() -> None:
        before, after = cast(Any, _Keeper()), cast(Any, _Keeper())
        kept = Reserve(cast(Any, None), 1, 3)
        kept.open(before, shape)
        await before.until(1)
        assert kept.take_waiting(before, shape, None) is not None
        assert kept.take_waiting(before, shape, None) is None
        await before.until(1 + 3)
        kept.close()

        kept.open(after, shape)
        await after.until(3)
        await after.until(1)
        kept.close()

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scene())
