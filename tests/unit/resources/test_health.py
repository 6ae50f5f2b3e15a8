# SPDX-License-Identifier: Apache-2.0
"""The option `healthcheck`: spellings, refusals, and what becomes of it with an image's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.resources import ContainerSpec, Healthcheck, compare
from mooring_agent.engine.resources.health import (
    SECOND,
    Span,
    from_docker,
    inherited,
    of_image,
    spelled,
    to_docker,
)
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.dockerfile.durations import parse_duration

SPANS = st.integers(10**6, 2**63 - 1)
DOCKER = st.fixed_dictionaries(
    {},
    optional={
        "Test": st.sampled_from([["CMD", "a"], ["CMD-SHELL", "b c"]]),
        **dict.fromkeys(("Interval", "Timeout", "StartPeriod", "StartInterval"), SPANS),
        "Retries": st.integers(1, 9),
    },
)


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1_500, "1.5µs"),
        (500 * 10**6, "500ms"),
        (SECOND, "1s"),
        (90 * SECOND, "1m30s"),
        (3600 * SECOND, "1h0m0s"),
        (3661 * SECOND + 50 * 10**6, "1h1m1.05s"),
    ],
)
def test_a_span_is_spelled_as_go_does(span: int, text: str) -> None:
    assert spelled(span) == text


@given(SPANS)
def test_a_spelled_span_is_the_same(span: int) -> None:
    assert parse_duration("", spelled(span)) == span
    assert Span().parse(Span().dump(span), "x") == span


@pytest.mark.parametrize("value", [90, "90", 90.0, "1m30s", " 90s ", "1.5m", "90000ms"])
def test_spellings_of_a_span(value: object) -> None:
    assert Span().parse(value, "x") == 90 * SECOND


@pytest.mark.parametrize(
    "value", [-1, "-1s", True, None, "soon", "1d", [], "nan", float("inf"), 1e-9, "1us", 2**64, "0x10", "1_0"]
)
def test_no_spans(value: object) -> None:
    with pytest.raises(InvalidSpec, match=r"container: healthcheck\.interval is"):
        Span().parse(value, "container: healthcheck.interval")


@pytest.mark.parametrize(
    ("given", "test"),
    [
        ("curl -f localhost", ("CMD-SHELL", "curl -f localhost")),
        (["CMD", "curl", "-f"], ("CMD", "curl", "-f")),
        (["CMD-SHELL", "exit 1"], ("CMD-SHELL", "exit 1")),
        (["NONE"], ("NONE",)),
        ("none", ("NONE",)),
    ],
)
def test_spellings_of_a_test(given: object, test: tuple[str, ...]) -> None:
    assert Healthcheck.parse({"test": given}).test == test


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"test": ["curl", "-f"]}, 'healthcheck: test is ["curl", "-f"], expected a command for the shell'),
        ({"test": ["CMD"]}, "test is"),
        ({"test": ["CMD", ""]}, "test is"),
        ({"test": " "}, "test is"),
        ({"test": []}, "test is"),
        ({"test": ["NONE", "x"]}, "test is"),
        ({"test": {}}, "test is"),
        ({"test": ["CMD", 1.5]}, "test[1] is 1.5"),
        (
            {"test": ["NONE"], "interval": 5, "retries": 2},
            "NONE, so that nothing is asked, and interval, retr",
        ),
        ({"retries": -1}, "retries is -1, expected a number of failures in a row, or 0 for not set"),
        ({"on_unhealthy": "kill"}, 'on_unhealthy is "kill", expected one of none, restart'),
        ({"every": 5}, 'no option "every"'),
    ],
)
def test_refusals(given: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec) as refused:
        Healthcheck.parse(given)
    assert words in refused.value.message


def test_a_restart_needs_a_policy() -> None:
    spec = {"image": "web", "healthcheck": {"on_unhealthy": "restart"}}
    with pytest.raises(InvalidSpec, match='on_unhealthy is "restart" with the restart policy "no"'):
        ContainerSpec.parse(spec)
    ContainerSpec.parse({**spec, "restart": "always"})


def test_equal_checks_are_no_change_and_others_are_live() -> None:
    def spec(**check: object) -> ContainerSpec:
        return ContainerSpec.parse({"image": "web", "healthcheck": check})

    assert compare(spec(test="true", interval=90), spec(test="true", interval="1m30s", retries=0)) == ()
    (change,) = compare(spec(test="true", interval=90), spec(test="false", timeout=1.5, interval=90))
    assert change.live
    assert change.text == ("healthcheck test true, interval 1m30s → test false, interval 1m30s, timeout 1.5s")


@given(DOCKER)
def test_dockers_words_come_back(config: dict[str, Any]) -> None:
    assert to_docker(Healthcheck.parse(from_docker(config))) == config


@given(DOCKER, DOCKER)
def test_a_declaration_is_laid_over_the_images_field_by_field(
    declared: dict[str, Any], image: dict[str, Any]
) -> None:
    held = inherited(Healthcheck.parse(from_docker(declared)), of_image(image, "image"))

    assert to_docker(held) == {**image, **declared}


def test_an_image_with_a_check_that_means_nothing_is_named() -> None:
    with pytest.raises(InvalidSpec, match=r"image web: healthcheck\.interval is .* test is NONE"):
        of_image({"Test": ["CMD", "x"], "Interval": -5}, "image web")
    assert of_image({"Test": ["NONE"], "Interval": -5}, "image web") is None
