# SPDX-License-Identifier: Apache-2.0
"""Stages, and which of them a target needs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.dockerfile.errors import DockerfileError
from mooring_agent.images.dockerfile.instructions import Copy, From, Label, Run, User
from mooring_agent.images.dockerfile.plan import SCRATCH, BuildPlan, plan_stages
from mooring_agent.images.dockerfile.stages import parse_dockerfile, parse_trigger

FOUR = """\
ARG RELEASE=12
ARG ALL=debian:$RELEASE
FROM $ALL AS Tools
RUN make
FROM tools AS docs
FROM scratch AS www
COPY --from=docs /d /d
FROM www
COPY --from=0 /t /t
COPY --from=registry.example/other /o /o
RUN --mount=from=docs,target=/d --mount=from=busybox,target=/b x
"""


def plan(text: str, target: str = "", triggers: dict[int, list[str]] | None = None) -> BuildPlan:
    return plan_stages(parse_dockerfile(text.encode()), {"ALL": "debian:13"}.get, target, triggers)


def test_a_file_is_split_into_stages() -> None:
    found = parse_dockerfile(FOUR.encode())
    assert [(one.index, one.name, len(one.instructions)) for one in found.stages] == [
        (0, "tools", 1),
        (1, "docs", 0),
        (2, "www", 1),
        (3, "", 3),
    ]
    assert [arg.arguments[0].name for arg in found.global_args] == ["RELEASE", "ALL"]
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("RUN a\nFROM b", "Dockerfile:1: RUN stands before the first FROM"),
        ("ARG a", "Dockerfile:1: it has no FROM"),
    ],
)
def test_a_file_needs_from_first(text: str, part: str) -> None:
    with pytest.raises(DockerfileError, match=part):
        parse_dockerfile(text.encode())


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("FROM a AS x\nFROM b AS X", 2, "stage name x is there twice"),
        ("FROM a\nENV a b", 2, "ENV name=value says the same"),
        ("FROM a\nLABEL a b", 2, "LABEL name=value says the same"),
        ("FROM a\nMAINTAINER b", 2, "MAINTAINER is deprecated"),
        ("FROM a\nEXPOSE 8080:80", 2, "EXPOSE publishes nothing"),
    ],
)
def test_what_is_advised_against_is_said(text: str, line: int, part: str) -> None:
    (warning,) = parse_dockerfile(text.encode()).warnings
    assert warning.line == line
    assert part in warning.message


def test_a_plan_has_what_the_target_needs() -> None:
    found = plan(FOUR)
    assert [(one.index, one.parent, set(one.needs), one.base.image) for one in found.stages] == [
        (0, None, set(), "debian:13"),
        (1, 0, {0}, "tools"),
        (2, None, {1}, SCRATCH),
        (3, 2, {0, 1, 2}, "www"),
    ]
    assert found.target.origins == {"0": 0, "docs": 1}
    assert found.target.images == ("registry.example/other", "busybox")


@pytest.mark.parametrize(("target", "indexes"), [("tools", [0]), ("DOCS", [0, 1]), ("www", [0, 1, 2])])
def test_a_target_is_a_stage_by_its_name(target: str, indexes: list[int]) -> None:
    assert [one.index for one in plan(FOUR, target).stages] == indexes


def test_stages_that_are_not_needed_are_left_out() -> None:
    found = plan("FROM a AS one\nFROM b AS two\nFROM c\nCOPY --from=one x y")
    assert [one.index for one in found.stages] == [0, 2]


def test_of_two_stages_with_a_name_the_nearest_above_is_meant() -> None:
    found = plan("FROM a AS x\nFROM x AS x\nFROM x\nCOPY --from=x a b", "")
    assert [(one.index, one.parent) for one in found.stages] == [(0, None), (1, 0), (2, 1)]
    assert found.target.origins == {"x": 1}


@pytest.mark.parametrize(
    ("text", "target", "part"),
    [
        (FOUR, "dosc", "has no stage 'dosc' to build: did you mean docs?"),
        ("FROM a", "b", "none has a name"),
        ("FROM a AS x\nCOPY --from=x b c", "", "Dockerfile:2: the stage x is this stage itself"),
        ("FROM a\nCOPY --from=0 b c", "", "Dockerfile:2: the stage 0 is this stage itself"),
        ("FROM a\nCOPY --from=y b c\nFROM d AS y", "", "Dockerfile:2: the stage y stands below"),
        ("FROM a\nRUN --mount=from=y,target=/c b\nFROM d AS y", "", "Dockerfile:2: the stage y stands below"),
        ("FROM a\nCOPY --from=1 b c", "", "Dockerfile:2: there is no stage 1: expected one from 0 to 0"),
        ("FROM a\nCOPY --from=" + "9" * 5000 + " b c", "", "there is no stage 9"),
        ("FROM $UNSET", "", "Dockerfile:1: the image \\$UNSET is empty"),
    ],
)
def test_what_is_wrong_is_said(text: str, target: str, part: str) -> None:
    with pytest.raises(DockerfileError, match=part):
        plan(text, target)


def test_triggers_of_stages_and_images_come_first() -> None:
    text = "FROM a AS tools\nFROM b AS base\nONBUILD COPY --from=tools x y\nUSER u\nFROM base\nLABEL l=1"
    found = plan(text, triggers={1: ["RUN i"]})
    assert [type(one) for one in found.stages[1].instructions[:1]] == [Run]
    assert [type(one) for one in found.target.instructions] == [Copy, Label]
    assert found.target.needs == {0, 1}
    assert found.target.instructions[0].location.start == 5
    assert [type(one) for one in plan("FROM a", triggers={0: ["USER x"]}).target.instructions] == [User]


@pytest.mark.parametrize("trigger", ["", "FROM x", "RUN a\nRUN b", "COPY x", "ONBUILD RUN a", "MAINTAINER a"])
def test_a_trigger_that_is_not_valid_is_told_with_its_image(trigger: str) -> None:
    base = plan("FROM a").target.base
    with pytest.raises(DockerfileError, match="Dockerfile:1: a trigger of a: "):
        parse_trigger(trigger, base)


def test_a_trigger_with_a_heredoc_comes_back() -> None:
    found = plan("FROM a AS x\nONBUILD COPY <<-E <<F /d\n\tone\n\tE\ntwo\nF\nFROM x")
    (copy,) = found.target.instructions
    assert isinstance(copy, Copy)
    assert [(one.name, one.content) for one in copy.files] == [("E", "one\n"), ("F", "two\n")]


@given(st.data(), st.integers(1, 8))
def test_a_plan_holds_what_it_needs_in_order(data: st.DataObject, count: int) -> None:
    # given stages that take from any above
    lines: list[str] = []
    takes: list[set[int]] = []
    for index in range(count):
        above = data.draw(st.sets(st.integers(0, index - 1))) if index else set()
        takes.append(above)
        lines.append(f"FROM scratch AS s{index}")
        lines += [f"COPY --from=s{one} a b" for one in sorted(above)]
    target = data.draw(st.integers(0, count - 1))
    # when
    found = plan("\n".join(lines), f"s{target}")
    # then
    reachable = {target}
    while True:
        more = reachable.union(*(takes[one] for one in reachable))
        if more == reachable:
            break
        reachable = more
    assert [one.index for one in found.stages] == sorted(reachable)
    for one in found.stages:
        assert one.needs == takes[one.index]
        assert isinstance(one.base, From)
