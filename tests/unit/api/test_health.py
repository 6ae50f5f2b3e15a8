# SPDX-License-Identifier: Apache-2.0
"""Health in Docker's words."""

from __future__ import annotations

import time
from typing import Any

import pytest

from mooring_agent.api.docker import convert_health
from mooring_agent.api.docker.render import status_text
from mooring_agent.engine.container import Container
from mooring_agent.engine.health import Health, Probe
from mooring_agent.engine.resources import ContainerSpec


def container(health: Health | None, status: str = "running", **options: Any) -> Container:
    spec = ContainerSpec.parse({"image": "web", **options})
    made = Container("1" * 64, "web1", spec, "", 0.0, False, (), (), "/", "", "TERM")
    made.status, made.health, made.started_at = status, health, time.time()
    made.finished_at = None if status == "running" else time.time()
    return made


@pytest.mark.parametrize(
    ("status", "health", "text"),
    [
        ("running", None, "Up Less than a second"),
        ("running", Health(), "Up Less than a second (health: starting)"),
        ("running", Health("healthy"), "Up Less than a second (healthy)"),
        ("running", Health("unhealthy"), "Up Less than a second (unhealthy)"),
        ("paused", Health("healthy"), "Up Less than a second (Paused)"),
        ("exited", Health("unhealthy"), "Exited (0) Less than a second ago"),
    ],
)
def test_the_status_of_a_list(status: str, health: Health | None, text: str) -> None:
    assert status_text(container(health, status)) == text


def test_the_state_of_one_container() -> None:
    probe = Probe(1_700_000_000_000_000_001, 1_700_000_001_500_000_000, -1, "late")
    assert convert_health.health(container(Health("unhealthy", 3, (probe,)))) == {
        "Status": "unhealthy",
        "FailingStreak": 3,
        "Log": [
            {
                "Start": "2023-11-14T22:13:20.000000001Z",
                "End": "2023-11-14T22:13:21.5Z",
                "ExitCode": -1,
                "Output": "late",
            }
        ],
    }
    assert convert_health.health(container(None)) is None


def test_the_config_of_one_container_is_what_holds() -> None:
    made = container(None, healthcheck={"retries": 2})
    made.image_health = {"Healthcheck": {"Test": ["CMD", "a"], "Interval": 5_000_000_000}}
    assert convert_health.config(made) == {"Test": ["CMD", "a"], "Interval": 5_000_000_000, "Retries": 2}
    assert convert_health.config(container(None)) is None
