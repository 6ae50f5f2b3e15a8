# SPDX-License-Identifier: Apache-2.0
"""The harness against an agent of straw: it must notice what a broken agent does."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator

import pytest

from harness.agent import AgentFailed, AgentUnderTest
from harness.unix_http import ApiError

# Answers what the harness asks for, and keeps a list of "containers"; each behaviour breaks one promise.
STRAW_AGENT = """
import http.server, json, os, signal, socketserver, subprocess, sys

behaviour, path = sys.argv[1], sys.argv[sys.argv.index("--socket") + 1]
if behaviour == "refuses":
    sys.exit("mooring: the data root is on fire")
if behaviour == "never ready":
    signal.pause()
if behaviour == "traceback":
    print("Traceback (most recent call last)", flush=True)
if behaviour == "leaves a process":
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", path], start_new_session=True)
keeper = subprocess.Popen(["sleep", "60"]) if behaviour == "keeper stays" else None
containers = [{"name": "web1"}]

class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self, value, status=200):
        body = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def address_string(self):
        return "unix"
    def do_GET(self):
        answers = {
            "/_ping": "OK",
            "/mooring/v1/host": {"keeper": {"pid": keeper.pid if keeper else None, "guardian_pid": None}},
            "/mooring/v1/containers": containers,
            "/mooring/v1/networks": [],
            "/mooring/v1/cgroups": [],
        }
        if self.path in answers:
            self.answer(answers[self.path])
        else:
            self.answer({"code": "not_found", "message": "no such path " + self.path}, 404)
    def do_DELETE(self):
        if behaviour == "removes nothing":
            self.answer({"code": "conflict", "message": "container web1 is glued"}, 409)
        else:
            containers.clear()
            self.answer({"changed": True})

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True

def stop(*_):
    os._exit(3 if behaviour == "stops badly" else 0)

os.makedirs(os.path.dirname(path), exist_ok=True)
if os.path.exists(path):
    os.unlink(path)
signal.signal(signal.SIGTERM, stop)
Server(path, Handler).serve_forever()
"""


class StrawAgent(AgentUnderTest):
    def __init__(self, behaviour: str) -> None:
        super().__init__()
        self.behaviour = behaviour

    def command(self) -> list[str]:
        return [sys.executable, "-c", STRAW_AGENT, self.behaviour, "--socket", str(self.socket)]


@pytest.fixture
def straw() -> Iterator[Callable[[str], StrawAgent]]:
    made: list[StrawAgent] = []

    def make(behaviour: str = "good") -> StrawAgent:
        made.append(StrawAgent(behaviour))
        return made[-1]

    yield make
    for agent in made:
        if agent.process is not None:
            agent.kill9()
        agent.traces.sweep()
        shutil.rmtree(agent.base, ignore_errors=True)


def test_a_good_agent_lives_and_leaves_nothing(straw: Callable[..., StrawAgent]) -> None:
    agent = straw().start()
    assert agent.api("GET", "/mooring/v1/containers") == [{"name": "web1"}]
    agent.restart()
    agent.destroy()
    assert not agent.base.exists()


def test_a_killed_agent_is_started_again_to_clean_up(straw: Callable[..., StrawAgent]) -> None:
    agent = straw().start()
    agent.kill9()
    agent.destroy()
    assert not agent.base.exists()


def test_an_error_of_the_api_is_raised_or_returned(straw: Callable[..., StrawAgent]) -> None:
    agent = straw().start()
    with pytest.raises(ApiError) as caught:
        agent.api("GET", "/mooring/v1/moon")
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert agent.api("GET", "/mooring/v1/moon", check=False)["code"] == "not_found"
    agent.destroy()


def test_an_agent_that_ends_at_once_is_told_with_its_log(straw: Callable[..., StrawAgent]) -> None:
    with pytest.raises(AgentFailed, match=r"(?s)ended with 1 before it was ready.*the data root is on fire"):
        straw("refuses").start()


def test_an_agent_that_never_answers_is_not_waited_for_for_ever(straw: Callable[..., StrawAgent]) -> None:
    agent = straw("never ready").start(wait=False)
    with pytest.raises(AgentFailed, match=r"was not ready within 0\.2 s"):
        agent.wait_until_ready(0.2)
    agent.kill9()


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ("stops badly", "it stopped with status 3, expected 0"),
        ("removes nothing", "409 conflict container web1 is glued"),
        ("leaves a process", r"left behind: process \d+: "),
        ("traceback", "its log has a traceback"),
        ("keeper stays", r"the keeper, process \d+, was still there"),
    ],
)
def test_a_broken_promise_fails_and_the_host_is_clean_nevertheless(
    straw: Callable[..., StrawAgent], monkeypatch: pytest.MonkeyPatch, behaviour: str, problem: str
) -> None:
    monkeypatch.setattr("harness.agent.GONE_WITHIN", 0.3)
    monkeypatch.setattr("harness.agent.KEEPER_GONE_WITHIN", 0.3)
    agent = straw(behaviour).start()
    with pytest.raises(AgentFailed, match=problem):
        agent.destroy()
    assert agent.traces.wait_until_gone(5) == []
    assert not agent.base.exists()


def test_a_crash_between_two_requests_is_told(straw: Callable[..., StrawAgent]) -> None:
    agent = straw().start()
    assert agent.process is not None
    agent.process.kill()
    agent.process.wait(10)
    with pytest.raises(AgentFailed, match="it ended by itself with -9"):
        agent.destroy()


def test_two_agents_share_no_name(straw: Callable[..., StrawAgent]) -> None:
    one, other = straw().config, straw().config
    for name in ("data_root", "socket", "cgroup_parent", "network_prefix", "nft_table", "bridge_prefix"):
        assert getattr(one, name) != getattr(other, name)
