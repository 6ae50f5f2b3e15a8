# SPDX-License-Identifier: Apache-2.0
"""Every answer is as the published description of its API version says."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from time import time
from typing import Any
from urllib.parse import quote

import pytest

from harness.agent import AgentUnderTest
from harness.archives import packed
from harness.description import VERSIONS, Description, need_description
from harness.registry import PASSWORD, USER, RegistryUnderTest
from harness.unix_http import Response
from harness.waiting import eventually

pytestmark = pytest.mark.root

# What an engine outside of a swarm and without plugins answers with an error alone; tested by bad input.
_ELSEWHERE = ("/swarm", "/nodes", "/services", "/tasks", "/secrets", "/configs", "/plugins/", "/session")
# Those whose answer is a stream of another kind, or that are for clusters alone.
_APART = {("GET", "/containers/{id}/attach/ws"), ("PUT", "/volumes/{name}")}


class Session:
    """Requests of one API version, and what was wrong with their answers."""

    def __init__(self, agent: AgentUnderTest, description: Description, registry: RegistryUnderTest) -> None:
        self.agent = agent
        self.registry = registry
        self.description = description
        self.problems: list[str] = []
        self.asked: set[tuple[str, str]] = set()

    def __call__(
        self, method: str, path: str, body: object = None, *, status: int | None = None, auth: bool = False
    ) -> Any:
        """Send a request, expect a success (or `status`), and return the JSON of the answer, or its bytes."""
        target = f"/v{self.description.version}{path}"
        headers = {"X-Registry-Auth": _credentials(self.registry)} if auth else {}
        response: Response = self.agent.request(method, target, body, headers=headers)
        failed = response.status >= 400 if status is None else response.status != status
        if failed:
            self.problems.append(f"{method} {target}: {response.status} {response.body!r}")
        operation = self.description.operation(method, target)
        assert operation is not None, f"{method} {target} is not described"
        self.asked.add((operation.method, operation.path))
        self.problems += self.description.problems(method, target, response)
        whole = response.headers.get("content-type") == "application/json" and response.body.count(b"\n") == 1
        return response.json() if whole else response.body


def _credentials(registry: RegistryUnderTest) -> str:
    user = {"username": USER, "password": PASSWORD, "serveraddress": registry.host}
    return base64.urlsafe_b64encode(json.dumps(user).encode()).decode()


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryUnderTest]:
    """Return a real registry with a user, shared by the module."""
    with RegistryUnderTest(auth=True) as started:
        yield started


@pytest.fixture(params=VERSIONS)
def session(
    request: pytest.FixtureRequest, agent: AgentUnderTest, registry: RegistryUnderTest
) -> Iterator[Session]:
    """Return a session of each version; in the end, no answer of it was other than described."""
    made = Session(agent, need_description(request.param), registry)
    yield made
    assert not made.problems, "\n".join(dict.fromkeys(made.problems))


def test_a_whole_session(session: Session) -> None:
    system(session)
    images(session)
    volumes(session)
    networks(session)
    containers(session)
    left = {(each.method, each.path) for each in session.description.operations} - session.asked - _APART
    assert sorted(each for each in left if not each[1].startswith(_ELSEWHERE)) == []


def system(ask: Session) -> None:
    ask("GET", "/_ping")
    ask("HEAD", "/_ping")
    ask("GET", "/info")
    ask("GET", "/version")
    ask("GET", "/plugins")
    ask("POST", "/auth", {"username": USER, "password": PASSWORD, "serveraddress": ask.registry.url})
    ask(
        "POST",
        "/auth",
        {"username": USER, "password": "wrong", "serveraddress": ask.registry.url},
        status=401,
    )


def images(ask: Session) -> None:
    dockerfile = b"FROM busybox\nLABEL a=b\nHEALTHCHECK --interval=1s CMD true\nEXPOSE 80\nVOLUME /v\n"
    ask("POST", "/build?t=described", packed({"Dockerfile": dockerfile}))
    ask("POST", "/build/prune")
    ask("POST", f"/images/described/tag?repo={ask.registry.host}/x&tag=2", status=201)
    ask("POST", f"/images/{ask.registry.host}/x/push?tag=2", auth=True)
    ask("GET", f"/distribution/{ask.registry.host}/x:2/json", auth=True)
    ask("GET", f"/distribution/{ask.registry.host}/x:2/json", status=401)
    ask("POST", f"/images/create?fromImage={ask.registry.host}/x&tag=2", auth=True)
    ask("POST", f"/images/create?fromImage={ask.registry.host}/x&tag=3", auth=True, status=404)
    ask("GET", "/images/search?term=x", status=501)
    ask("GET", "/images/json")
    ask("GET", "/images/json?digests=true&shared-size=true")
    ask("GET", "/images/described/json")
    ask("GET", "/images/described/history")
    saved = ask("GET", "/images/described/get")
    ask("GET", "/images/get?names=described")
    ask("POST", "/images/load", saved)
    ask("POST", "/images/create?fromSrc=-&repo=imported&changes=" + quote("CMD true"), packed({"file": b"x"}))
    ask("DELETE", "/images/imported")
    ask("DELETE", f"/images/{ask.registry.host}/x:2")
    ask("GET", "/system/df")


def volumes(ask: Session) -> None:
    ask("POST", "/volumes/create", {"Name": "described", "Labels": {"a": "b"}})
    ask("GET", "/volumes")
    ask("GET", "/volumes/described")
    options = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
    ask("POST", "/volumes/create", {"Name": "elsewhere", "Driver": "local", "DriverOpts": options})
    ask("POST", "/volumes/create", {"Name": "wrong", "DriverOpts": {"type": "nfs"}}, status=400)
    ask("GET", "/volumes")
    ask("GET", "/volumes/elsewhere")
    ask("GET", "/volumes/absent", status=404)
    ask("GET", "/system/df")
    ask("DELETE", "/volumes/described")
    ask("DELETE", "/volumes/elsewhere")
    ask("POST", "/volumes/create", {})
    ask("POST", "/volumes/prune")


def networks(ask: Session) -> None:
    ask("POST", "/networks/create", {"Name": "described", "Labels": {"a": "b"}})
    ask("GET", "/networks")
    ask("GET", "/networks/described")
    ask("GET", "/networks/described?verbose=true")
    ask("DELETE", "/networks/described")
    ask("POST", "/networks/create", {"Name": "idle"})
    ask("POST", "/networks/prune")


def containers(ask: Session) -> None:
    ask("POST", "/networks/create", {"Name": "side"})
    body = {
        "Image": "described",
        "Cmd": ["sh", "-c", "echo out; echo err >&2; exec sleep 600"],
        "Labels": {"a": "b"},
        "OpenStdin": True,
        "HostConfig": {
            "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1"}]},
            "Tmpfs": {"/t": ""},
            "Mounts": [{"Type": "volume", "Source": "kept", "Target": "/kept"}],
            "Memory": 64 << 20,
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 1},
            "Ulimits": [{"Name": "nofile", "Soft": 1024, "Hard": 2048}],
            "CapAdd": ["NET_ADMIN"],
        },
    }
    ask("POST", "/containers/create?name=described", body, status=201)
    ask("POST", "/containers/create?name=described", body, status=409)
    ask("GET", "/containers/described/json")
    ask("GET", "/containers/json?all=true&size=true")
    ask("POST", "/containers/described/start", status=204)
    ask("POST", "/containers/described/start", status=304)
    ask("POST", "/networks/side/connect", {"Container": "described", "EndpointConfig": {"Aliases": ["x"]}})
    ask("GET", "/networks/side?verbose=true")
    eventually(lambda: ask("GET", "/containers/described/json")["State"]["Health"]["Log"], 60)
    ask("GET", "/containers/described/json?size=true")
    ask("GET", "/containers/json")
    ask("GET", "/containers/json?size=true")
    ask("GET", "/containers/described/top")
    ask("GET", "/containers/described/logs?stdout=true&stderr=true")
    ask("GET", "/containers/described/changes")
    ask("GET", "/containers/described/stats?stream=false")
    ask("GET", "/containers/described/stats?stream=false&one-shot=true")
    ask("POST", "/containers/described/attach?logs=true&stdout=true")
    ask("PUT", "/containers/described/archive?path=/tmp", packed({"file": b"x"}))
    ask("GET", "/containers/described/archive?path=/tmp/file")
    ask("HEAD", "/containers/described/archive?path=/tmp/file")
    ask("GET", "/containers/described/changes")
    execs(ask)
    ask("POST", "/containers/described/update", {"Memory": 96 << 20, "MemorySwap": -1})
    ask("POST", "/containers/described/pause")
    ask("GET", "/containers/described/json")
    ask("POST", "/containers/described/unpause")
    ask("POST", "/containers/described/rename?name=renamed")
    ask("POST", "/containers/renamed/restart?t=0")
    ask("POST", "/containers/renamed/kill")
    ask("POST", "/containers/renamed/wait")
    ask("POST", "/containers/renamed/stop", status=304)
    ask("GET", "/containers/renamed/json")
    ask("GET", "/containers/renamed/export")
    committed = ask("POST", "/commit?container=renamed&repo=committed&comment=why", {}, status=201)
    ask("DELETE", f"/images/{committed['Id']}")
    ask("POST", "/networks/side/disconnect", {"Container": "renamed"})
    ask("GET", "/system/df")
    ask("GET", f"/events?since=0&until={time():.0f}")
    ask("DELETE", "/containers/renamed?v=true")
    terminal(ask)
    ask("POST", "/containers/prune")
    ask("DELETE", "/networks/side")
    ask("DELETE", "/volumes/kept")
    ask("DELETE", "/images/described")
    ask("POST", "/images/prune")


def execs(ask: Session) -> None:
    made = ask("POST", "/containers/described/exec", {"Cmd": ["true"], "AttachStdout": True}, status=201)
    ask("POST", f"/exec/{made['Id']}/start", {"Detach": False})
    ask("GET", f"/exec/{made['Id']}/json")
    tty = ask("POST", "/containers/described/exec", {"Cmd": ["sleep", "9"], "Tty": True}, status=201)
    ask("POST", f"/exec/{tty['Id']}/start", {"Detach": True, "Tty": True})
    ask("POST", f"/exec/{tty['Id']}/resize?h=20&w=70")
    ask("GET", "/containers/described/json")


def terminal(ask: Session) -> None:
    body = {"Image": "busybox", "Cmd": ["cat"], "Tty": True}
    ask("POST", "/containers/create?name=terminal", body, status=201)
    ask("POST", "/containers/terminal/start")
    ask("POST", "/containers/terminal/resize?h=20&w=70")
    ask("POST", "/containers/terminal/stop?t=0", status=204)
