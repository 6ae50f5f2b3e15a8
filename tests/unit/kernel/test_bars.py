# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.bars import Bar, Movement, bundle

MIB = 1 << 20
DIGEST = "sha256:" + "d" * 64


def event(step: str, current: int, total: int = 4 * MIB, detail: str = "aa") -> dict[str, Any]:
    return {"step": step, "current": current, "total": total, "detail": detail}


def test_a_pull_is_half_the_wire_and_half_the_unpacking() -> None:
    movement = Movement("web1", unpacks=True)
    assert movement.bar(0.0) == Bar("web1", 0.0, "asks its registry")
    movement.take(event("download", 1 * MIB), 10.0)
    movement.take(event("download", 3 * MIB), 12.0)
    assert movement.bar(12.0) == Bar("web1", 0.375, "3 MiB of 4 MiB, 1 MiB/s")
    movement.take(event("verify", 4 * MIB), 13.0)
    assert movement.bar(13.0) == Bar("web1", 0.5, "4 MiB of 4 MiB, unpacking")
    movement.take(event("unpack", 2 * MIB), 14.0)
    assert movement.bar(14.0).fraction == 0.75
    movement.succeed(True, "pulled", DIGEST)
    assert movement.bar(99.0) == Bar(
        "web1", 1.0, "pulled, sha256:dddddddddddd, 3 MiB in 3.0 s, 1 MiB/s", "done"
    )


def test_what_is_there_goes_over_no_wire() -> None:
    movement = Movement("web1", unpacks=True)
    for detail in ("aa", "bb"):
        movement.take(event("exists", 4 * MIB, detail=detail), 1.0)
        movement.take(event("exists", 4 * MIB, detail=detail), 2.0)
    assert movement.bar(2.0).fraction == 1.0
    movement.succeed(False, "pulled", DIGEST)
    assert movement.bar(3.0).words == "is up to date, sha256:dddddddddddd"


def test_a_push_is_the_wire_alone() -> None:
    movement = Movement("web1", unpacks=False)
    movement.take(event("mount", MIB, MIB, "bb from other/app"), 1.0)
    movement.take(event("upload", 1 * MIB, 3 * MIB), 1.0)
    movement.take(event("upload", 2 * MIB, 3 * MIB), 2.0)
    assert movement.bar(2.0) == Bar("web1", 0.75, "3 MiB of 4 MiB, 1 MiB/s")
    movement.fail("registry 1.2.3.4 does not answer")
    assert movement.bar(3.0) == Bar("web1", 0.75, "registry 1.2.3.4 does not answer", "failed")


steps = st.sampled_from(["download", "verify", "exists", "unpack", "upload", "mount", "else", ""])
events = st.builds(
    event,
    steps,
    st.one_of(st.none(), st.integers(0, 1 << 40)),
    st.one_of(st.none(), st.integers(0, 1 << 40)),
    st.one_of(st.none(), st.text(max_size=3)),
)


@given(st.lists(events, max_size=20), st.booleans())
def test_whatever_an_agent_tells_can_be_drawn(told: list[dict[str, Any]], unpacks: bool) -> None:
    movement = Movement("web1", unpacks=unpacks)
    for moment, each in enumerate(told):
        movement.take(each, float(moment))
        bar = movement.bar(float(moment))
        assert 0.0 <= bar.fraction <= 1.0
        assert not bar.end
    movement.succeed(True, "pulled", DIGEST)
    assert movement.bar(99.0).fraction == 1.0


@given(st.text(max_size=20), st.text(max_size=40), st.floats(0, 1))
def test_a_bundle_has_a_line_and_a_row_for_each_host(host: str, words: str, fraction: float) -> None:
    shown = bundle([Bar(host, fraction, words), Bar("other", 1.0, "pulled", "done")])
    assert len(shown["text/plain"].split("\n")) == 3
    assert shown["text/html"].count("<tr>") == 2
    assert not re.search(r"<(?!/?(table|tbody|tr|td|div)\b)", shown["text/html"])
