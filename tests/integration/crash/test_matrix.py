# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the agent, of the keeper and of both, at every place where something is half done.

Whatever the place: what runs goes on, no line is lost or doubled, no exit code is lost or invented, nothing
is left on the host, and the container can be started, stopped and removed by whoever comes next.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.unix_http import Response
from harness.waiting import NotInTime, eventually

from .site import DOCKER, SUBJECT, Operation, Site, spec

pytestmark = pytest.mark.root

NAME = "subject"
SIGKILLED = 137


# Operations


def create(site: Site, name: str) -> Response:
    return site.agent.request(
        "POST",
        f"{DOCKER}/containers/create?name={name}",
        {
            "Image": "busybox",
            "Cmd": ["sh", "-c", SUBJECT],
            "Volumes": {"/data": {}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": ""}]}},
        },
    )


def start(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"{DOCKER}/containers/{name}/start")


def run(site: Site, name: str) -> Response:
    """Create and start in one go: what a start needs is begun with as soon as there is a container."""
    created = create(site, name)
    return start(site, name) if created.status < 300 else created


def stop(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"{DOCKER}/containers/{name}/stop?t=10")


def remove(site: Site, name: str) -> Response:
    return site.agent.request("DELETE", f"{DOCKER}/containers/{name}?force=1&v=1")


def execute(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["echo", "here"]})


def pause(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"{DOCKER}/containers/{name}/pause")


def unpause(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"{DOCKER}/containers/{name}/unpause")


def commit(site: Site, name: str) -> Response:
    return site.agent.request("POST", f"{DOCKER}/commit?container={name}&repo=made")


def idle(site: Site, name: str) -> Response:
    return site.agent.request("GET", "/_ping")


# What each operation finds, and what there may be afterwards.
BEFORE: dict[Operation, tuple[Operation, ...]] = {
    create: (),
    start: (create,),
    run: (),
    stop: (create, start),
    remove: (create, start),
    execute: (create, start),
    pause: (create, start),
    unpause: (create, start, pause),
    commit: (create, start),
    idle: (create, start),
}
DONE: dict[Operation, str] = {
    create: "created",
    start: "running",
    run: "running",
    stop: "exited",
    remove: "",
    execute: "running",
    pause: "paused",
    unpause: "running",
    idle: "running",
}
AGENT_POINTS: list[tuple[Operation, str]] = [
    (create, "commit.before"),
    (create, "commit.after"),
    (create, "create.prepared"),
    (create, "create.added"),
    (start, "start.published"),
    (start, "start.acquired"),
    (run, "start.connected"),
    (start, "start.launched"),
    (start, "start.saved"),
    (execute, "exec.started"),
    (stop, "stop.signalled"),
    (stop, "end.saved"),
    (stop, "end.cleared"),
    (stop, "end.forgotten"),
    (pause, "pause.frozen"),
    (unpause, "pause.thawed"),
    (remove, "remove.stopped"),
    (remove, "remove.released"),
    (remove, "volume.doomed"),
    (remove, "remove.row"),
]
KEEPER_POINTS: list[tuple[Operation, str]] = [
    (start, "keeper.recorded"),
    (start, "keeper.handed"),
    (start, "keeper.executed"),
    (execute, "keeper.exec-handed"),
    (execute, "keeper.exec-pid"),
    (execute, "keeper.exec-recorded"),
    (execute, "keeper.executed"),
    (stop, "keeper.ending"),
    (stop, "keeper.ended"),
    (stop, "keeper.told"),
    (remove, "keeper.forgetting"),
    (idle, "keeper.spliced"),
]


# Where it makes a difference that there is no agent to ask the next keeper at once.
BOTH_POINTS: list[tuple[Operation, str]] = [
    (start, "keeper.handed"),
    (start, "keeper.executed"),
    (execute, "keeper.exec-recorded"),
    (stop, "keeper.ending"),
    (stop, "keeper.ended"),
    (remove, "keeper.forgetting"),
]


@pytest.fixture(scope="module")
def used(site: Site) -> Site:
    """Return a site on which there was a subject once, and is none."""
    for operation in (create, start, remove):
        assert operation(site, NAME).status < 300
    return site


@pytest.fixture
def clean(used: Site) -> Iterator[dict[str, Any]]:
    """Return the census before a case. A case that failed leaves no subject to the next one."""
    eventually(lambda: used.census()["links left"] == 0)
    yield used.census()
    used.revive()
    remove(used, NAME)


def ids(cases: list[tuple[Operation, str]]) -> list[str]:
    return [f"{operation.__name__}-{point}" for operation, point in cases]


@pytest.mark.parametrize(("operation", "point"), AGENT_POINTS, ids=ids(AGENT_POINTS))
def test_the_agent_dies(site: Site, clean: dict[str, Any], operation: Operation, point: str) -> None:
    answer = interrupted(site, operation, point)
    site.revive()
    afterwards(site, clean, operation, answer)


@pytest.mark.parametrize("point", ["pause.held", "pause.frozen", "commit.held"])
def test_who_stood_still_for_a_commit_goes_on(site: Site, clean: dict[str, Any], point: str) -> None:
    assert interrupted(site, commit, point) is None
    site.revive()
    eventually(lambda: site.view(NAME)["state"] == "running", what="the container to go on")
    assert pause(site, NAME).status == 204, "it is not held any more"
    site.agent.kill9()
    site.revive()
    assert site.view(NAME)["state"] == "paused", "its user has paused it"
    afterwards(site, clean, commit, None)


@pytest.mark.parametrize(("operation", "point"), KEEPER_POINTS, ids=ids(KEEPER_POINTS))
def test_the_keeper_dies(site: Site, clean: dict[str, Any], operation: Operation, point: str) -> None:
    answer = interrupted(site, operation, point)
    site.revive()
    afterwards(site, clean, operation, answer)


@pytest.mark.parametrize(("operation", "point"), BOTH_POINTS, ids=ids(BOTH_POINTS))
def test_both_die(site: Site, clean: dict[str, Any], operation: Operation, point: str) -> None:
    answer = interrupted(site, operation, point, agent_too=True)
    site.revive()
    afterwards(site, clean, operation, answer)


@pytest.mark.parametrize(
    "operation", [idle, create, start, execute, stop, remove], ids=lambda one: one.__name__
)
@pytest.mark.parametrize("who", ["agent", "keeper", "both"])
def test_they_die_at_any_moment(site: Site, clean: dict[str, Any], operation: Operation, who: str) -> None:
    for before in BEFORE[operation]:
        assert before(site, NAME).status < 300
    answer = site.during(operation, NAME)
    if who != "agent":
        site.kill_keeper()
    if who != "keeper":
        site.agent.kill9()
    answered = answer.result(60)
    site.revive()
    afterwards(site, clean, operation, answered)


@pytest.mark.parametrize(
    ("who", "point"),
    [
        ("keeper", "keeper.spliced"),
        ("keeper", "keeper.cut"),
        ("keeper", "keeper.unlinked"),
        ("both", "keeper.rotated"),
    ],
)
def test_a_flood_with_rotation_loses_no_line(site: Site, clean: dict[str, Any], who: str, point: str) -> None:
    count = 30_000
    log = {"max_size": "32k", "max_files": 100 if point != "keeper.unlinked" else 2}
    script = f"until [ -e /go ]; do usleep 10000; done; seq {count}; exit 5"
    site.agent.api("PUT", "/mooring/v1/containers/flood", spec(script, log=log))
    go = Path(f"/proc/{site.view('flood')['pid']}/root/go")
    site.arm(f"{point}:2")
    go.touch()
    site.reached()
    if who == "both":
        site.agent.kill9()
    site.revive()
    found = eventually(lambda: (view := site.view("flood"))["state"] == "exited" and view, 30)
    assert (found["exit_code"], found["exit_known"]) == (5, True)
    directory = site.agent.config.data_root / "containers" / found["id"] / "log"
    lines = site.log(found["id"])
    first = int(lines[0])
    assert lines == [b"%d" % number for number in range(first, count + 1)]
    segments = {name.split(".")[0] for name in os.listdir(directory)}
    if point == "keeper.unlinked":
        assert len(segments) == 2
    else:
        assert first == 1
    site.agent.api("DELETE", "/mooring/v1/containers/flood")
    site.check_witness()
    eventually(lambda: is_clean(site, clean), what="the clean host")


def interrupted(site: Site, operation: Operation, point: str, *, agent_too: bool = False) -> Response | None:
    """Do what comes before an operation, then the operation, which a death at `point` interrupts."""
    for before in BEFORE[operation]:
        assert before(site, NAME).status < 300
    site.arm(point)
    answer = site.during(operation, NAME)
    try:
        site.reached()
    except NotInTime as error:
        error.add_note(f"the operation was answered: {answer.result(60)}")
        raise
    finally:
        site.disarm()
    if agent_too:
        site.agent.kill9()
    return answer.result(60)


def afterwards(site: Site, clean: dict[str, Any], operation: Operation, answer: Response | None) -> None:
    """What was answered holds, what is told is true, the subject can be used, and nothing is left of it."""
    if answer is not None and answer.status < 300:
        expected = DONE[operation]

        def as_answered() -> bool:
            view = site.view(NAME)
            assert view.get("state", "") == expected, view
            return True

        eventually(as_answered, what=f"{NAME} is {expected or 'gone'}, as {answer.status} said")
    site.check_witness()
    view = site.view(NAME)
    if view and view["state"] == "exited":
        told = (view["exit_code"], view["exit_known"])
        assert told in ((7, True), (SIGKILLED, True)), told
    use(site, view)
    assert remove(site, NAME).status == 204
    eventually(lambda: is_clean(site, clean), what="the clean host")
    site.check_witness()


def use(site: Site, view: dict[str, Any]) -> None:
    """Whatever state it is in: it can be started, commanded and stopped, and tells its exit code."""
    if not view:
        assert create(site, NAME).status == 201
    if view.get("state") == "paused":
        assert unpause(site, NAME).status == 204
    if view.get("state") not in ("running", "paused"):
        assert start(site, NAME).status == 204
    done = execute(site, NAME)
    assert (done.status, done.json().get("stdout")) == (200, "here\n")
    id = site.view(NAME)["id"]
    eventually(lambda: site.log(id)[-1:] == [b"up"], what="its first line")
    assert stop(site, NAME).status == 204
    view = site.view(NAME)
    assert (view["state"], view["exit_code"], view["exit_known"]) == ("exited", 7, True)
    assert site.log(id)[-2:] == [b"up", b"bye"]


def is_clean(site: Site, clean: dict[str, Any]) -> bool:
    """Whether a census gives what it gave at first. Raises AssertionError with the differences."""
    found = site.census()
    assert {key: (clean[key], found[key]) for key in clean if clean[key] != found[key]} == {}
    return True
