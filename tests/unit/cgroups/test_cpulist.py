# SPDX-License-Identifier: Apache-2.0
"""Lists of CPUs and memory nodes."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.cpulist import format_cpulist, parse_cpulist
from mooring_agent.errors import InvalidSpec


def test_ranges_and_numbers() -> None:
    assert parse_cpulist("0-3,8, 10-11\n") == {0, 1, 2, 3, 8, 10, 11}
    assert parse_cpulist("") == frozenset()


@pytest.mark.parametrize("text", ["a", "1-", "-1", "3-1", "1,,2", "0-99999999", "1;2", "٣"])
def test_a_malformed_list_is_named(text: str) -> None:
    with pytest.raises(InvalidSpec, match="cpuset_cpus"):
        parse_cpulist(text, "cpuset_cpus")


@given(st.frozensets(st.integers(0, 600)))
def test_what_is_formatted_is_read_back(numbers: frozenset[int]) -> None:
    text = format_cpulist(numbers)

    assert parse_cpulist(text) == numbers
    # Shortest: no two parts touch.
    edges = [part.split("-") for part in text.split(",") if part]
    assert all(int(left[-1]) + 1 < int(right[0]) for left, right in pairwise(edges))
