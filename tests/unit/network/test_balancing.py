# SPDX-License-Identifier: Apache-2.0
"""Who gets which connections to a shared port."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.network.balancing import MOST_WEIGHT, ROUND_ROBIN, SOURCE, SOURCE_SLOTS, slots

WEIGHTS = st.dictionaries(
    st.text("abcdef0123456789", min_size=1, max_size=8), st.integers(0, MOST_WEIGHT), max_size=6
)


@given(WEIGHTS)
def test_round_robin_gives_everybody_exactly_its_share(weights: dict[str, int]) -> None:
    turns = slots(ROUND_ROBIN, weights)
    counted = Counter(turns)
    assert set(counted) == {member for member, weight in weights.items() if weight}
    total = sum(weights.values())
    for member, count in counted.items():
        assert count * total == weights[member] * len(turns)


def test_round_robin_spreads_the_turns_of_one() -> None:
    assert "".join(slots(ROUND_ROBIN, {"a": 5, "b": 1, "c": 1})) == "aabacaa"


@given(WEIGHTS.filter(lambda weights: any(weights.values())), st.integers(1, MOST_WEIGHT))
def test_who_comes_or_goes_moves_nobody_else(weights: dict[str, int], weight: int) -> None:
    before = slots(SOURCE, weights)
    after = slots(SOURCE, {**weights, "newcomer": weight})
    assert len(before) == len(after) == SOURCE_SLOTS
    assert all(new in (old, "newcomer") for old, new in zip(before, after, strict=True))


def test_source_spreads_by_weight() -> None:
    counted = Counter(slots(SOURCE, {"a": 3, "b": 1, "c": 0}))
    assert set(counted) == {"a", "b"}
    assert 2 < counted["a"] / counted["b"] < 4.5


@given(st.sampled_from([ROUND_ROBIN, SOURCE]), WEIGHTS)
def test_the_order_in_which_members_are_told_makes_no_difference(
    method: str, weights: dict[str, int]
) -> None:
    assert slots(method, weights) == slots(method, dict(reversed(weights.items())))


def test_nobody_with_a_share_leaves_nothing() -> None:
    assert slots(ROUND_ROBIN, {"a": 0}) == slots(SOURCE, {"a": 0}) == slots(SOURCE, {}) == ()
