# SPDX-License-Identifier: Apache-2.0
"""What follows from the answers to health checks, beside a model of dockerd's; what an agent leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.engine.health import (
    HEALTHY,
    STARTING,
    UNHEALTHY,
    Check,
    Health,
    Probe,
    after,
    ended,
    image_part,
    pause,
    settled,
)
from mooring_agent.engine.healthrecords import HealthRecord, decoded, encoded
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec

CHECKS = st.builds(
    Check,
    argv=st.just(("true",)),
    interval=st.just(30),
    timeout=st.just(10),
    start_period=st.integers(0, 20),
    start_interval=st.just(5),
    retries=st.integers(1, 4),
    restart=st.just(False),
)
PROBES = st.builds(
    Probe, st.integers(0, 2**62), st.integers(0, 2**62), st.integers(-1, 255), st.text(max_size=20)
)
HISTORIES = st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=30)
HEALTHS = st.builds(
    Health,
    st.sampled_from([STARTING, HEALTHY, UNHEALTHY]),
    st.integers(0, 9),
    st.lists(PROBES, max_size=5).map(tuple),
    st.booleans(),
)


def probe(good: bool) -> Probe:
    return Probe(0, 0, 0 if good else 1, "")


@given(CHECKS, HISTORIES)
def test_the_status_is_that_of_the_model(check: Check, history: list[tuple[int, bool]]) -> None:
    """Seen from its end: the failures since the last success count, without those of the start period, if
    there was no success before. It is unhealthy if there have been enough in a row at any time since.
    """
    health, age, seen = Health(), 0, []
    for step, good in history:
        age += step
        health = after(health, probe(good), check, age)
        seen.append((age, good))

        successes = [number for number, (_, fine) in enumerate(seen) if fine]
        since = seen[successes[-1] + 1 :] if successes else seen
        counted = [moment for moment, _ in since if successes or moment >= check.start_period]
        expected = UNHEALTHY if len(counted) >= check.retries else HEALTHY if successes else STARTING
        assert (health.status, health.failing_streak) == (expected, len(counted))
        assert health.served is bool(successes)
        assert len(health.log) == min(5, len(seen))


@given(HEALTHS, CHECKS, st.integers(0, 50))
def test_a_failure_that_is_extra_changes_the_log_only(health: Health, check: Check, age: int) -> None:
    failed, fine = probe(False), probe(True)
    found = after(health, failed, check, age, extra=True)
    assert found == replace(health, log=found.log)
    assert found.log[-1] is failed
    assert after(health, fine, check, age, extra=True) == after(health, fine, check, age)
    assert after(health, fine, check, age).status == HEALTHY


@given(HEALTHS, CHECKS, st.integers(0, 50))
def test_it_is_asked_sooner_in_the_start_period_until_the_first_success(
    health: Health, check: Check, age: int
) -> None:
    soon = health.status == STARTING and age < check.start_period
    assert pause(health, check, age) == (check.start_interval if soon else check.interval)


def test_one_that_has_ended_is_unhealthy() -> None:
    health = Health(HEALTHY, 0, (probe(True),), served=True)
    assert ended(health) == replace(health, status=UNHEALTHY)


def spec(**options: Any) -> ContainerSpec:
    return ContainerSpec.parse({"image": "web", **options})


def test_defaults_are_dockers() -> None:
    check = settled(spec(healthcheck={"test": "exit 1"}), {}, "web1")
    assert check == Check(("/bin/sh", "-c", "exit 1"), 30 * 10**9, 30 * 10**9, 0, 5 * 10**9, 3, restart=False)


def test_an_image_gives_what_is_left_out_and_its_shell() -> None:
    given = {"Test": ["CMD-SHELL", "a"], "Interval": 10**9}
    image = image_part({"Healthcheck": given, "Shell": ["/bin/ash", "-ec"], "Cmd": []})
    assert json.loads(json.dumps(image)) == image
    check = settled(spec(), image, "web1")
    assert check is not None
    assert (check.argv, check.interval) == (("/bin/ash", "-ec", "a"), 10**9)
    check = settled(spec(healthcheck={"test": ["CMD", "b"], "retries": 7}), image, "web1")
    assert check is not None
    assert (check.argv, check.interval, check.retries) == (("b",), 10**9, 7)
    assert settled(spec(healthcheck={"test": ["NONE"]}), image, "web1") is None


def test_no_check_is_none() -> None:
    assert settled(spec(), image_part({"Cmd": ["a"], "Healthcheck": None}), "web1") is None
    assert settled(spec(), {"Healthcheck": {"Test": ["NONE"]}}, "web1") is None


def test_a_check_without_a_test_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="container web1 has a healthcheck without a test, and image web"):
        settled(spec(healthcheck={"interval": 5}), {}, "web1")


def test_an_images_nonsense_can_be_declared_away() -> None:
    image = {"Healthcheck": {"Test": ["ASK", "me"]}}
    with pytest.raises(InvalidSpec, match=r"image web: healthcheck\.test"):
        settled(spec(), image, "web1")
    assert settled(spec(healthcheck={"test": ["NONE"]}), image, "web1") is None


@given(st.builds(HealthRecord, st.text(max_size=9), st.floats(0, 1e9), st.floats(0, 1e9), HEALTHS))
def test_a_record_comes_back(record: HealthRecord) -> None:
    assert decoded(encoded(record)) == record


@given(st.builds(HealthRecord, st.text(max_size=9), st.floats(0, 1e9), st.floats(0, 1e9), HEALTHS), st.data())
def test_half_a_record_is_none(record: HealthRecord, data: st.DataObject) -> None:
    text = encoded(record)
    assert decoded(text[: data.draw(st.integers(0, len(text) - 1))]) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "1", '["r", 1, 2, "dead", 0, true, []]', "[" * 9999])
def test_what_is_no_record(text: str) -> None:
    assert decoded(text) is None
