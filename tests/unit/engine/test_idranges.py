# SPDX-License-Identifier: Apache-2.0
"""Each container's ids are its own: of other containers, of other agents, of the host's users."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.idranges import SIZE, IdRanges
from mooring_agent.errors import Unavailable


def none(tmp_path: Path) -> Path:
    return tmp_path / "there-is-no-such-file"


@given(st.text(max_size=8), st.integers(1, 20))
def test_ranges_do_not_meet(seed: str, count: int) -> None:
    ranges = IdRanges(seed, Path("/nonexistent/subuid"))
    taken: list[int] = []
    for _ in range(count):
        taken.append(ranges.choose(taken))
    ordered = sorted(taken)
    assert all(other - one >= SIZE for one, other in pairwise(ordered))
    assert ordered[0] >= 0x80000
    assert ordered[-1] + SIZE <= 0x70000000


def test_a_range_that_has_become_free_is_given_again(tmp_path: Path) -> None:
    ranges = IdRanges("a", none(tmp_path))
    first = ranges.choose(())
    assert ranges.choose((first,)) != first
    assert ranges.choose(()) == first


def test_agents_begin_at_different_places(tmp_path: Path) -> None:
    assert IdRanges("/a", none(tmp_path)).choose(()) != IdRanges("/b", none(tmp_path)).choose(())


def test_what_the_host_gives_to_mooring_is_used_and_no_more(tmp_path: Path) -> None:
    subuid = tmp_path / "subuid"
    subuid.write_text("alice:100000:65536\nmooring:1000000:131072\nno line of its\nmooring:x:y\n")
    ranges = IdRanges("a", subuid)
    assert ranges.choose(()) == 1_000_000
    assert ranges.choose((1_000_000,)) == 1_065_536
    with pytest.raises(Unavailable, match="give mooring more of them"):
        ranges.choose((1_000_000, 1_065_536))


def test_what_the_host_gives_to_others_is_passed_over(tmp_path: Path) -> None:
    alone = IdRanges("a", none(tmp_path)).choose(())
    subuid = tmp_path / "subuid"
    subuid.write_text(f"alice:{alone + 10}:20\n")
    assert IdRanges("a", subuid).choose(()) == alone + SIZE
