# SPDX-License-Identifier: Apache-2.0
"""The Mooring API as its clients see it."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from harness.waiting import eventually
from mooring_agent.engine.logs import LogChunk

from .fake_engine import FakeEngine
from .served import PATIENCE, Served

V1 = "/mooring/v1"


def put(api: Served, name: str = "web1", **spec: Any) -> dict[str, Any]:
    answer = api.call("PUT", f"{V1}/containers/{name}", {"image": "web:1", **spec})
    assert answer.status == 200, answer.body
    document: dict[str, Any] = answer.json()
    return document


def test_host(api: Served) -> None:
    assert api.call("GET", f"{V1}/host").json()["name"] == "here"


def test_a_container_is_declared_shown_listed(api: Served) -> None:
    outcome = put(api, labels={"tier": "front"})
    assert outcome["changed"]
    assert outcome["result"]["state"] == "running"
    assert api.call("GET", f"{V1}/containers/web1").json()["name"] == "web1"
    assert len(api.call("GET", f"{V1}/containers?label=tier=front").json()) == 1
    assert len(api.call("GET", f"{V1}/containers?label=tier").json()) == 1
    assert api.call("GET", f"{V1}/containers?label=tier=back").json() == []


def test_a_dry_run_makes_nothing(api: Served, engine: FakeEngine) -> None:
    answer = api.call("PUT", f"{V1}/containers/web1?dry_run=true", {"image": "web:1"})
    assert answer.json()["result"] is None
    assert engine.containers.list() == []


@pytest.mark.parametrize(
    ("method", "target", "body", "status", "code", "part"),
    [
        ("GET", "/containers/nosuch", None, 404, "not_found", "nosuch"),
        (
            "PUT",
            "/containers/web1",
            {"image": "web:1", "memroy": 1},
            400,
            "invalid",
            'did you mean "memory"?',
        ),
        ("PUT", "/containers/web1", {"image": "web:1", "memory": -5}, 400, "invalid", "memory"),
        ("PUT", "/containers/web1?dry_run=perhaps", {"image": "web:1"}, 400, "invalid", "dry_run='perhaps'"),
        ("POST", "/containers/web1", None, 405, "method_not_allowed", "GET or PATCH or PUT"),
        ("GET", "/nothing", None, 404, "not_found", "no such call"),
        ("POST", "/containers/web1/shell", {"argv": ["sh"]}, 426, "upgrade_required", "Upgrade"),
        ("GET", "/execs/abc", None, 404, "not_found", "abc"),
    ],
)
def test_errors_have_a_status_a_code_and_a_sentence(
    api: Served, method: str, target: str, body: object, status: int, code: str, part: str
) -> None:
    answer = api.call(method, V1 + target, body)
    assert (answer.status, answer.json()["code"]) == (status, code)
    assert part in answer.json()["message"]


def test_a_name_with_a_slash_reaches_the_call_that_refuses_it(api: Served) -> None:
    answer = api.call("GET", f"{V1}/containers/a%2Fb")
    assert answer.json()["message"] == "no such container: a/b"


def test_stop_start_restart_answer_outcomes(api: Served, engine: FakeEngine) -> None:
    put(api)
    stopped = api.call("POST", f"{V1}/containers/web1/stop?timeout=0.5").json()
    assert (stopped["changed"], stopped["result"]["state"]) == (True, "exited")
    assert engine.containers.asked[-1] == ("stop", 0.5, None)
    assert api.call("POST", f"{V1}/containers/web1/stop").json()["changed"] is False
    planned = api.call("POST", f"{V1}/containers/web1/start?dry_run=1").json()
    assert (planned["changed"], planned["result"], planned["after"]["state"]) == (True, None, "running")
    assert planned["actions"] == [
        {"action": "start", "kind": "container", "name": "web1", "reason": "it is exited"}
    ]
    assert api.call("POST", f"{V1}/containers/web1/start").json()["result"]["state"] == "running"
    assert api.call("POST", f"{V1}/containers/web1/restart").json()["changed"]


def test_delete_passes_its_options_on(api: Served, engine: FakeEngine) -> None:
    api.call("DELETE", f"{V1}/containers/web1?force=false&timeout=3&dry_run=true")
    assert engine.containers.asked == [("delete", False, 3.0, True)]


def test_logs_are_lines_of_json(api: Served, engine: FakeEngine) -> None:
    put(api)
    engine.containers.lines = [LogChunk(1_700_000_000_000_000_001, 1, b"a\n"), LogChunk(0, 2, b"\xff\n")]
    answer = api.call("GET", f"{V1}/containers/web1/logs?tail=5&since=2023-11-14T22:13:20Z")
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in answer.body.splitlines()] == [
        {"time": "2023-11-14T22:13:20.000000001Z", "stream": "stdout", "data": "a\n"},
        {"time": "1970-01-01T00:00:00Z", "stream": "stderr", "data": "\ufffd\n"},
    ]
    assert engine.containers.asked[-1][1]["tail"] == 5
    assert engine.containers.asked[-1][1]["since"] == 1_700_000_000.0


def test_exec_runs_to_the_end(api: Served, engine: FakeEngine) -> None:
    put(api)
    body = {"argv": ["ls"], "env": ["A=1"], "stdin": "x", "timeout": 2, "user": "me", "max_output": 10}
    assert api.call("POST", f"{V1}/containers/web1/exec", body).json()["exit_code"] == 3
    name, argv, options = engine.execs.asked[-1]
    assert (name, argv) == ("run", ("ls",))
    assert options == {
        "env": {"A": "1"},
        "workdir": None,
        "user": "me",
        "stdin": b"x",
        "timeout": 2.0,
        "max_output": 10,
    }


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "needs argv"),
        ({"argv": "ls"}, 'argv is "ls"'),
        ({"argv": ["ls"], "timeout": 0}, "timeout is 0"),
        ({"argv": ["ls"], "timeout": True}, "timeout is true"),
        ({"argv": ["ls"], "max_output": -1}, "max_output"),
        ({"argv": ["ls"], "env": ["A"]}, "env"),
        ({"argv": ["ls"], "env": {"A=B": "1"}}, "env"),
        ({"argv": ["ls"], "usr": "me"}, 'did you mean "user"?'),
    ],
)
def test_a_bad_exec_is_refused_by_name(api: Served, body: dict[str, Any], part: str) -> None:
    put(api)
    answer = api.call("POST", f"{V1}/containers/web1/exec", body)
    assert answer.status == 400
    assert part in answer.json()["message"]


def test_a_shell_is_a_raw_stream_with_an_exec_of_its_own(api: Served, engine: FakeEngine) -> None:
    put(api)
    with api.wire() as wire:
        body = b'{"argv": ["sh"], "cols": 100, "rows": 30}'
        wire.ask("POST", f"{V1}/containers/web1/shell", body, Connection="Upgrade", Upgrade="mooring-stream")
        head = wire.head()
        assert (head.status, head.headers["upgrade"]) == (101, "mooring-stream")
        exec_id = head.headers["mooring-exec-id"]
        assert wire.exactly(6) == b"ready\n"
        wire.send(b"abc")
        assert wire.exactly(3) == b"ABC"
        spec = engine.execs.get(exec_id).spec
        assert (spec.tty, spec.rows, spec.cols) == (True, 30, 100)
        assert api.call("GET", f"{V1}/execs/{exec_id}").json()["id"] == exec_id
        assert api.call("GET", f"{V1}/execs/{exec_id}/foreground").json()["is_shell"] is True
        assert api.call("POST", f"{V1}/execs/{exec_id}/resize", {"rows": 5, "cols": 6}).status == 204
        signal = {"signal": "INT", "target": "leader"}
        assert api.call("POST", f"{V1}/execs/{exec_id}/signal", signal).status == 204
        assert api.call("POST", f"{V1}/execs/{exec_id}/signal", {"signal": "HUP"}).status == 400
        assert api.call("POST", f"{V1}/execs/{exec_id}/resize", {"rows": 0, "cols": 6}).status == 400
    assert engine.execs.asked[-2:] == [("resize", 5, 6), ("signal", "INT", "leader")]


def test_a_shell_whose_client_has_left_before_it_is_hung_up(
    api: Served, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(api)
    asked, answer, left = threading.Event(), threading.Event(), threading.Event()
    start = engine.execs.start

    async def late(id: str) -> Any:
        asked.set()
        await asyncio.to_thread(answer.wait, PATIENCE)
        return await start(id)

    monkeypatch.setattr(engine.execs, "start", late)
    monkeypatch.setattr(engine.execs, "client_has_left", lambda process: left.set())
    with api.wire() as wire:
        body = b'{"argv": ["sh"]}'
        wire.ask("POST", f"{V1}/containers/web1/shell", body, Connection="Upgrade", Upgrade="mooring-stream")
        assert asked.wait(PATIENCE)
    eventually(lambda: not api.server._connections)
    answer.set()
    assert left.wait(PATIENCE)
    assert engine.execs.streams[-1].closed


def test_images_with_slashes(api: Served) -> None:
    assert api.call("GET", f"{V1}/images").json()[0]["references"] == ["web:1"]
    assert api.call("GET", f"{V1}/images/web:1").json()["id"].startswith("sha256:ab")
    answer = api.call("PUT", f"{V1}/images/some/deep/name:2", {"template": "busybox"})
    assert answer.json()["actions"][0]["name"] == "some/deep/name:2"


def test_image_progress_is_streamed_and_ends_with_the_outcome(api: Served) -> None:
    spec = {"template": "busybox"}
    answer = api.call("PUT", f"{V1}/images/a:1", spec, Accept="application/x-ndjson")
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert lines[0] == {"progress": {"step": "unpack", "current": 1, "total": 2, "detail": "layer"}}
    assert lines[-1]["outcome"]["changed"]


@pytest.mark.parametrize(
    ("reference", "code", "part"),
    [("bad/one:1", "conflict", "in use"), ("crash", "internal", "ZeroDivision")],
)
def test_image_progress_ends_with_the_error(api: Served, reference: str, code: str, part: str) -> None:
    answer = api.call("PUT", f"{V1}/images/{reference}", {}, Accept="application/x-ndjson")
    assert answer.status == 200
    error = json.loads(answer.body.splitlines()[-1])["error"]
    assert error["code"] == code
    assert part in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize("kind", ["networks", "volumes", "cgroups"])
def test_declared_resources(api: Served, kind: str) -> None:
    assert api.call("GET", f"{V1}/{kind}").json() == []
    assert api.call("PUT", f"{V1}/{kind}/one?dry_run=true", {}).json()["changed"]
    assert api.call("GET", f"{V1}/{kind}/one").status == 404
    assert api.call("PUT", f"{V1}/{kind}/one", {"labels": {"a": "b"}}).json()["changed"]
    assert api.call("GET", f"{V1}/{kind}/one").json()["labels"] == {"a": "b"}
    assert api.call("DELETE", f"{V1}/{kind}/one").status == 200
    assert api.call("GET", f"{V1}/{kind}").json() == []


def test_state(api: Served) -> None:
    answer = api.call("PUT", f"{V1}/state?dry_run=1&prune=1", {"containers": {}}).json()
    assert answer == {
        "changed": False,
        "items": [{"prune": True, "document": {"containers": {}}}],
        "failed": 0,
    }


def test_events_are_lines_of_json(api: Served, engine: FakeEngine) -> None:
    put(api)
    with api.wire() as wire:
        wire.ask("GET", f"{V1}/events?since=1")
        wire.head()
        event = json.loads(wire.chunk())
    assert (event["type"], event["action"], event["attributes"]) == ("container", "start", {"name": "web1"})
