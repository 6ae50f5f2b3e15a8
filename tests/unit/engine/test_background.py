# SPDX-License-Identifier: Apache-2.0
"""Work in the background, restart policies, and the agent's configuration."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.config import SUN_PATH_MAX, AgentConfig
from mooring_agent.engine.background import Background
from mooring_agent.engine.container import Container
from mooring_agent.engine.health import Health
from mooring_agent.engine.restarts import count_so_far, pause, restarts, restarts_unhealthy
from mooring_agent.errors import Conflict, InvalidSpec


def test_a_failure_in_the_background_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def work() -> list[str]:
        done: list[str] = []

        async def succeed() -> None:
            done.append("done")

        background = Background()
        background.start(fail(Conflict("it is taken")))
        background.start(fail(ValueError("a mistake")))
        background.start(succeed())
        await asyncio.sleep(0.01)
        assert not background._tasks
        return done

    assert asyncio.run(work()) == ["done"]
    assert [(record.levelno, bool(record.exc_info)) for record in caplog.records] == [
        (logging.WARNING, False),
        (logging.ERROR, True),
    ]
    assert "it is taken" in caplog.text


def test_what_is_not_done_ends_with_it(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        background = Background()
        background.start(asyncio.sleep(60))
        await asyncio.sleep(0)
        background.close()
        await asyncio.sleep(0.01)
        assert not background._tasks

    asyncio.run(work())
    assert caplog.records == []


def container(policy: str, most: int | None = None, **fields: Any) -> Container:
    restart = SimpleNamespace(name=policy, max_retries=most)
    values = {"wanted": True, "exit_code": 1, "restart_count": 0, "started_at": 100.0, "finished_at": 101.0}
    values |= {"failing": False, "health": None, "status": "running"}
    return cast(Container, SimpleNamespace(spec=SimpleNamespace(restart=restart), **{**values, **fields}))


@pytest.mark.parametrize(
    ("policy", "most", "fields", "expected"),
    [
        ("no", None, {}, False),
        ("always", None, {"exit_code": 0}, True),
        ("always", None, {"wanted": False}, False),
        ("unless-stopped", None, {"exit_code": 0}, True),
        ("unless-stopped", None, {"wanted": False}, False),
        ("on-failure", None, {}, True),
        ("on-failure", None, {"restart_count": 10_000}, True),
        ("on-failure", None, {"exit_code": 0}, False),
        ("on-failure", 3, {"restart_count": 2}, True),
        ("on-failure", 3, {"restart_count": 3}, False),
        ("on-failure", 3, {"wanted": False}, False),
    ],
)
def test_policies(policy: str, most: int | None, fields: dict[str, Any], expected: bool) -> None:
    assert restarts(container(policy, most, **fields)) is expected


def test_an_end_that_was_asked_for_since_it_is_unhealthy_is_a_failure() -> None:
    assert not restarts(container("on-failure", exit_code=0))
    assert restarts(container("on-failure", exit_code=0, failing=True))
    assert not restarts(container("on-failure", 3, exit_code=0, failing=True, restart_count=3))
    assert not restarts(container("no", exit_code=0, failing=True))


@pytest.mark.parametrize(
    ("policy", "most", "fields", "expected"),
    [
        ("always", 0, {}, True),
        ("no", 0, {}, False),
        ("always", 0, {"check": SimpleNamespace(restart=False)}, False),
        ("always", 0, {"check": None}, False),
        ("always", 0, {"health": Health("starting")}, False),
        ("always", 0, {"health": None}, False),
        ("always", 0, {"status": "paused"}, False),
        ("always", 0, {"wanted": False}, False),
        ("on-failure", 2, {"restart_count": 1}, True),
        ("on-failure", 2, {"restart_count": 2}, False),
        ("on-failure", 2, {"restart_count": 2, "health": Health("unhealthy", served=True)}, True),
    ],
)
def test_an_unhealthy_one_is_restarted_where_policy_and_check_say_so(
    policy: str, most: int, fields: dict[str, Any], expected: bool
) -> None:
    values = {"check": SimpleNamespace(restart=True), "health": Health("unhealthy"), **fields}
    assert restarts_unhealthy(container(policy, most, **values)) is expected


@given(st.integers(0, 10**6))
def test_the_pause_grows_and_is_bounded(count: int) -> None:
    assert 0.1 <= pause(count) <= pause(count + 1) <= 60.0


def test_a_good_run_ends_the_row() -> None:
    assert count_so_far(container("always", restart_count=5)) == 5
    assert count_so_far(container("always", restart_count=5, finished_at=109.9)) == 5
    assert count_so_far(container("always", restart_count=5, finished_at=110.0)) == 0


def test_a_run_that_never_got_healthy_is_no_good_one() -> None:
    values = {"restart_count": 5, "finished_at": 200.0, "failing": True}
    assert count_so_far(container("always", **values, health=Health("unhealthy"))) == 5
    assert count_so_far(container("always", **values, health=Health("unhealthy", served=True))) == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"run_root": "/tmp/" + "r" * 100, "socket": "/tmp/s"},
            ["run root", "r" * 100, str(SUN_PATH_MAX), "--run-root"],
        ),
        ({"socket": "/tmp/" + "s" * 120}, ["socket", "s" * 120, str(SUN_PATH_MAX)]),
        ({"cgroup_parent": "../up"}, ["../up"]),
        ({"cgroup_parent": "/"}, ["cgroup parent"]),
        ({"network_prefix": "10.0.0.0/25"}, ["10.0.0.0/25", "/24"]),
        ({"network_prefix": "fd00::/64"}, ["fd00::/64", "IPv4"]),
        ({"network_prefix": "x"}, ["'x'", "10.210.0.0/16"]),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_by_name(
    options: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(InvalidSpec) as refused:
        AgentConfig.make(**options)
    for word in words:
        assert word in refused.value.message


def test_agents_side_by_side_share_no_name() -> None:
    one, two = (AgentConfig.make(run_root=f"/run/mooring-{number}") for number in (1, 2))
    assert one.instance != two.instance
    assert one.cgroup_parent != two.cgroup_parent
    assert one.nft_table != two.nft_table
    assert one.bridge_prefix != two.bridge_prefix
    assert AgentConfig.make().instance == "mooring"
