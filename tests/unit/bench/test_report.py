# SPDX-License-Identifier: Apache-2.0
"""Figures, their spread, and when a target counts as reached."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.report import Bound, Row, alternate, interval_of_median, latency, paired, print_table, spread


def test_a_ratio_says_how_many_times_better_we_are() -> None:
    assert Row("start", 2.0, "dockerd", 80.0, "ms").ratio == 40
    assert Row("rate", 60.0, "dockerd", 3.0, "1/s", more=True).ratio == 20
    assert Row("memory", 0.0, "dockerd", 3.0, "MiB").ratio == float("inf")


@pytest.mark.parametrize(
    ("row", "reached"),
    [
        (Row("start", 2.0, "dockerd", 80.0, "ms", target=40), True),
        (Row("start", 2.1, "dockerd", 80.0, "ms", target=40), False),
        (Row("start", 2.1, "dockerd", 80.0, "ms"), True),
        (Bound("memory", 90.0, "MiB", 90), True),
        (Bound("memory", 90.1, "MiB", 90), False),
        (Bound("reached by exec", 201, "", 202, more=True), False),
        (Bound("system down", 12.0, "s"), True),
    ],
)
def test_a_target_is_reached_or_missed_and_the_line_says_so(row: Row | Bound, reached: bool) -> None:
    line = str(row)

    assert row.reached is reached
    assert ("MISSED" in line) is not reached


def test_a_line_has_medians_and_the_spread_in_milliseconds() -> None:
    row = latency("start", [0.001, 0.002, 0.009], "dockerd", [0.1, 0.2, 0.3], 40)

    assert (row.ours, row.theirs) == pytest.approx((2, 200))
    assert row.our_spread == pytest.approx((1.2, 7.6))
    assert "2.00 (1.20..7.60)" in str(row)


def test_a_single_sample_has_no_spread() -> None:
    assert spread([1.0]) is None
    assert spread([1.0, 1.0]) == pytest.approx((1, 1))


def test_contenders_take_turns_and_nobody_is_always_first() -> None:
    order: list[str] = []

    ours, theirs = alternate(3, lambda: order.append("a"), lambda: order.append("b"))

    assert "".join(order) == "abbaab"
    assert len(ours) == len(theirs) == 3


def test_the_table_counts_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    rows = (Row("start", 2.0, "dockerd", 80.0, "ms", target=40), Bound("memory", 91, "MiB", 90))

    print_table("density", rows)

    assert capsys.readouterr().out.endswith("targets reached: 1 of 2\n")


def test_a_ratio_of_pairs_is_that_of_the_pairs_not_of_the_medians() -> None:
    slower_and_slower = [(float(second), second * 1.5) for second in range(1, 100)]

    row = paired(
        "way", slower_and_slower, "dockerd", lambda seconds: 1 / seconds, "1/s", more=True, target=1.5
    )

    assert row.ratio == pytest.approx(1.5)
    assert row.reached
    assert "1.500x (1.500..1.500)" in str(row)


@given(st.lists(st.floats(0.5, 2), min_size=1))
def test_the_median_lies_in_its_interval(samples: list[float]) -> None:
    lowest, highest = interval_of_median(samples)

    assert min(samples) <= lowest <= statistics.median(samples) <= highest <= max(samples)


def test_the_interval_of_a_hundred_leaves_forty_out_at_either_end() -> None:
    assert interval_of_median([float(number) for number in range(100)]) == (40.0, 59.0)
