# SPDX-License-Identifier: Apache-2.0
"""How long a repair waits, when repairs do not last."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.network.drift import CALM_S, LONGEST_PAUSE_S, SETTLE_S, Patience


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_first_repair_comes_at_once_and_the_next_ones_later_and_later() -> None:
    clock = Clock()
    patience = Patience(clock)
    waits = []
    for _ in range(14):
        waits.append(patience.wait())
        clock.now += waits[-1]
        patience.repaired()
    assert waits[0] == SETTLE_S
    assert all(later >= earlier for earlier, later in itertools.pairwise(waits))
    assert waits[-1] == LONGEST_PAUSE_S
    assert patience.disputed


@given(st.lists(st.floats(0, 300), max_size=30))
def test_no_repair_waits_longer_than_the_longest_pause(gaps: list[float]) -> None:
    clock = Clock()
    patience = Patience(clock)
    for gap in gaps:
        clock.now += gap
        wait = patience.wait()
        assert SETTLE_S <= wait <= LONGEST_PAUSE_S
        clock.now += wait
        patience.repaired()


def test_after_a_calm_time_all_is_forgiven() -> None:
    clock = Clock()
    patience = Patience(clock)
    for _ in range(5):
        clock.now += patience.wait()
        patience.repaired()
    clock.now += CALM_S + 2 * LONGEST_PAUSE_S + 1
    assert patience.wait() == SETTLE_S
    patience.repaired()
    assert patience.wait() == SETTLE_S
    assert not patience.disputed
