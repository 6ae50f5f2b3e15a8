# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the agent at every stage of a build: the next agent finds nothing of it, and builds."""

from __future__ import annotations

import os
import subprocess
import threading
from http.client import HTTPException
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError
from harness.waiting import PATIENCE, eventually
from integration.images.building import build, write_context

pytestmark = pytest.mark.root

POINTS = (
    "build-context",
    "build-run",
    "build-launched",
    "build-ran",
    "build-layer-published",
    "build-layer-committed",
    "build-finish",
    "images-layer-published",
    "images-layer-committed",
    "images-registered",
)
DOCKERFILE = """
FROM busybox
COPY f /copied
RUN --mount=type=cache,target=/cache --mount=type=bind,target=/mnt,rw \\
    --mount=type=secret,id=s,target=/secret echo written > /file; touch /mnt/x
"""


def leftovers(agent: AgentUnderTest) -> list[str]:
    """What belongs to no image, container or cache."""
    data, run = agent.config.data_root, agent.config.run_root
    places = (data / "containers", run / "etc", data / "images" / "ingest")
    found = [str(path) for place in places for path in place.iterdir()]
    found += [str(path) for path, _ in agent.traces.occupied_cgroups() if len(path.name) == 64]
    found += [str(path) for path in (data / "images" / "cache-mounts").iterdir() if "new-" in path.name]
    records = (run / "keeper" / "records").glob("*.json")
    return found + [str(record) for record in records]


@pytest.mark.parametrize("point", POINTS)
def test_nothing_is_left_of_a_build(
    switched: tuple[AgentUnderTest, Path], point: str, tmp_path: Path
) -> None:
    agent, switch = switched
    context = write_context(tmp_path / "context", DOCKERFILE, {"f": point})
    switch.write_text(point)

    def begin() -> None:
        try:
            build(agent, context, tags=["killed"], no_cache=True, secrets={"s": "c2VjcmV0"})
        except (OSError, HTTPException, ApiError):
            return

    thread = threading.Thread(target=begin)
    thread.start()
    eventually(lambda: not switch.exists(), 15, "the fail point")
    assert agent.process is not None
    agent.process.wait(10 * PATIENCE)
    agent.process = None
    thread.join(10 * PATIENCE)
    agent.start()

    eventually(lambda: not leftovers(agent), 10, "the end of what was left")
    built = build(agent, context, tags=["killed"], secrets={"s": "c2VjcmV0"})
    assert built.image is not None, built.error
    assert built.image["references"] == ["killed:latest"]
    assert leftovers(agent) == []


def test_a_command_ends_with_the_agent_that_began_it(
    switched: tuple[AgentUnderTest, Path], tmp_path: Path
) -> None:
    agent, _ = switched
    mark = f"{os.getpid()}.25"
    context = write_context(tmp_path / "context", f"FROM busybox\nRUN sleep {mark}\n")
    thread = threading.Thread(target=lambda: _quietly(agent, context))
    thread.start()

    def runs() -> bool:
        return subprocess.run(["pgrep", "-f", f"sleep {mark}"], capture_output=True).returncode == 0

    eventually(runs, 15, "the command")
    agent.kill9()
    thread.join(10 * PATIENCE)
    assert runs()
    agent.start()
    eventually(lambda: not runs(), 10, "the end of the command")
    eventually(lambda: not leftovers(agent), 10, "the end of what was left")


@pytest.mark.parametrize(
    "point", ["keeper.acquired", "keeper.recorded", "keeper.handed", "keeper.executed", "keeper.ended"]
)
def test_a_build_goes_on_when_the_keeper_is_killed(
    switched: tuple[AgentUnderTest, Path], point: str, tmp_path: Path
) -> None:
    agent, switch = switched
    context = write_context(tmp_path / "context", "FROM busybox\nRUN echo ran | tee -a /ran\n")
    switch.write_text(point)
    built = build(agent, context, tags=["survives"], no_cache=True)
    assert built.image is not None, built.error
    assert not switch.exists()
    # Its output is whole, and it has run once.
    assert [event["detail"] for event in built.events if event["step"] == "output"] == ["ran\n"]
    assert agent.docker("run", "--rm", "survives", "cat", "/ran").stdout == "ran\n"
    eventually(lambda: not leftovers(agent), 10, "the end of what was left")


def _quietly(agent: AgentUnderTest, context: Path) -> None:
    try:
        build(agent, context)
    except (OSError, HTTPException, ApiError):
        return
