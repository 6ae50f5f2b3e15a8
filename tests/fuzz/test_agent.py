# SPDX-License-Identifier: Apache-2.0
"""A real agent under fire: bytes that are no HTTP, JSON that is no request, at every route that there is.

It answers in words, or closes; it neither hangs nor fails "inside the agent", and its log has no traceback
(the fixture looks).
"""

from __future__ import annotations

import random
import socket
import time
from typing import Any
from unittest.mock import MagicMock
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE
from mooring_agent.api import docker, fleet

from . import documents
from .mutation import STRANGE, as_bytes, mutated

pytestmark = pytest.mark.root

SECONDS = 10.0 * PATIENCE
CRASHED = b"failed inside the agent"
PROFILE = settings(
    max_examples=150,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)


# --- bytes


def _exchange(agent: AgentUnderTest, pieces: list[bytes], *, ends: bool) -> bytes:
    """Send the pieces, end our side or close it rudely, return all that came back."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect(str(agent.socket))
        try:
            for piece in pieces:
                client.sendall(piece)
            if not ends:
                return b""
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed already, which it may
        found = b""
        try:
            while data := client.recv(65536):
                found += data
        except ConnectionResetError:
            pass
        return found


def _check(answer: bytes) -> None:
    assert CRASHED not in answer, answer[:2000]
    for line in answer.split(b"\r\n"):
        if line.startswith(b"HTTP/1.1 "):
            assert int(line[9:12]) < 500, answer[:2000]


REQUESTS = (
    b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1.41/containers/json?all=1&filters=%7B%22name%22%3A%5B%22x%22%5D%7D HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /containers/create?name=x HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /containers/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"PUT /mooring/v1/containers/x HTTP/1.1\r\nHost:x\r\nExpect: 100-continue\r\nContent-Length:2\r\n\r\n[]",
    b"POST /containers/none/attach HTTP/1.1\r\nHost: x\r\nUpgrade: tcp\r\nConnection: Upgrade\r\n\r\n",
    b"HEAD /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
)
EDITS = st.lists(
    st.tuples(
        st.integers(0, 300),
        st.sampled_from(
            (
                *(
                    b"\r\n",
                    b"\n",
                    b"\0",
                    b" ",
                    b"\r\n\r\n",
                    b":",
                    b"%",
                    b"%00",
                    b"%ff",
                    b"..",
                    b"//",
                    b"?",
                    b"\xff",
                ),
                *(b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n"),
                *(
                    b"Transfer-Encoding: gzip, chunked\r\n",
                    b"Content-Length: " + b"9" * 30 + b"\r\n",
                    b"HTTP/1.0",
                ),
                *(
                    b"ffffffffffffffff\r\n",
                    b"-1\r\n",
                    b"0\r\n",
                    b";x=y",
                    b"x" * 3000,
                    b"Upgrade: h2c\r\n",
                    b"HTTP/9.9",
                ),
            )
        )
        | st.binary(max_size=6),
        st.integers(0, 12),
    ),
    max_size=5,
)


def _edited(request: bytes, edits: list[tuple[int, bytes, int]]) -> bytes:
    for where, new, gone in edits:
        start = where % (len(request) + 1)
        request = request[:start] + new + request[start + gone :]
    return request


def test_bytes_that_are_almost_http(agent: AgentUnderTest) -> None:
    """Damaged, pipelined and cut requests, in pieces, with an end or without."""

    @PROFILE
    @given(
        st.lists(st.tuples(st.sampled_from(REQUESTS), EDITS), min_size=1, max_size=4),
        st.integers(0, 400),
        st.booleans(),
    )
    def attack(requests: list[tuple[bytes, list[tuple[int, bytes, int]]]], cut: int, ends: bool) -> None:
        data = b"".join(_edited(*one) for one in requests)
        _check(_exchange(agent, [data[:cut], data[cut:]], ends=ends))

    attack()
    assert agent.request("GET", "/_ping").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n" * 50_000,
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 50_000,
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b" " * 9_000_000,
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1\r\n \r\n" * 20_000,
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 100_000,
        b"POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Length: 200002\r\n\r\n{"
        + b"[" * 200_000
        + b"}",
        b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n" * 3_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 500,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT example:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://x/_ping HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=lambda data: data[:40].decode("latin-1"),
)
def test_too_much_of_everything(agent: AgentUnderTest, data: bytes) -> None:
    """Each is answered or closed, promptly, and the agent answers others meanwhile."""
    began = time.monotonic()
    _check(_exchange(agent, [data], ends=True))
    assert time.monotonic() - began < SECONDS
    assert agent.request("GET", "/_ping").status == 200


def test_many_who_send_nothing_hold_up_nobody(agent: AgentUnderTest) -> None:
    """Half-sent requests stay, and cost others nothing."""
    clients = []
    try:
        for number in range(100):
            client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            client.connect(str(agent.socket))
            client.sendall(REQUESTS[2][: number % len(REQUESTS[2])])
            clients.append(client)
        assert agent.request("GET", "/_ping", timeout=SECONDS).status == 200
    finally:
        for client in clients:
            client.close()


# --- JSON

# Calls that end the agent, and those that answer only when something happens.
LEFT_OUT = {"/mooring/v1/host/down"}
WAITING = {"/events", "/mooring/v1/events", "/containers/{id}/wait"}
BODIES: dict[str, Any] = {
    "/containers/create": documents.DOCKER_CREATE,
    "/containers/{id}/update": {"Memory": 67108864, "NanoCpus": 10, "RestartPolicy": {"Name": "no"}},
    "/containers/{id}/exec": {
        "Cmd": ["true"],
        "Env": ["A=b"],
        "User": "0",
        "WorkingDir": "/",
        "Tty": False,
        "Privileged": False,
        "AttachStdout": True,
        "DetachKeys": "ctrl-p",
    },
    "/exec/{id}/start": {"Detach": False, "Tty": False, "ConsoleSize": [24, 80]},
    "/volumes/create": {"Name": "v", "Driver": "local", "DriverOpts": {}, "Labels": {"a": "b"}},
    "/networks/create": {
        "Name": "n",
        "Driver": "bridge",
        "Internal": True,
        "Labels": {"a": "b"},
        "Options": {},
    },
    "/auth": {"username": "u", "password": "p", "serveraddress": "x"},
    "/mooring/v1/containers/{name}": documents.CONTAINER,
    "/mooring/v1/networks/{name}": {"driver": "bridge", "internal": True, "labels": {"a": "b"}},
    "/mooring/v1/cgroups/{name}": {"memory": "64m", "cpus": 0.5, "pids_limit": 10},
    "/mooring/v1/volumes/{name}": {"labels": {"a": "b"}},
    "/mooring/v1/images/{ref:path}": {"template": {"name": "busybox"}, "config": documents.IMAGE["config"]},
    "/mooring/v1/state": documents.STATE,
    "/mooring/v1/containers/{name}/exec": {
        "argv": ["true"],
        "env": {"A": "b"},
        "workdir": "/",
        "user": "0",
        "stdin": "x",
        "timeout": 5,
        "max_output": 100,
    },
    "/mooring/v1/containers/{name}/shell": {"argv": ["sh"], "env": {"A": "b"}, "rows": 24, "columns": 80},
    "/mooring/v1/execs/{id}/signal": {"signal": "TERM"},
    "/mooring/v1/execs/{id}/resize": {"rows": 24, "columns": 80},
}
NO_OBJECTS = (
    b"",
    b"[]",
    b"null",
    b'"x"',
    b"1",
    b"NaN",
    b"{",
    b'{"a":}',
    b"\xff\xfe",
    b'{"a":"\xff"}',
    b"{}" * 2,
)
NAMES = (
    "x",
    "no-such",
    "",
    ".",
    "..",
    "a/b",
    "\0",
    "é",
    "\ud800",
    "x" * 5000,
    "%",
    "*",
    "box ",
    "-x",
    "sha256:0",
)
WORDS = (
    "",
    "0",
    "1",
    "-1",
    "x",
    "true",
    "999999999999999999999",
    "1e400",
    "nan",
    "\0",
    "é",
    "{}",
    "[]",
    '{"x":1}',
    "all",
    "9" * 5000,
    "1." + "9" * 5000,
    "2026-01-01T00:00:00." + "9" * 5000 + "Z",
    "-" + "9" * 400 + "h",
    '{"exited":["' + "9" * 5000 + '"]}',
    '{"name":["("],"id":["*"],"label":["=","a="],"status":["x"],"before":["x"],"since":["x"]}',
    '{"until":["1h"],"dangling":["2"],"reference":["[","**"],"type":{"x":true}}',
)
QUERIES = (
    *(
        "all",
        "limit",
        "filters",
        "size",
        "name",
        "signal",
        "t",
        "timeout",
        "w",
        "h",
        "rows",
        "columns",
        "force",
        "v",
    ),
    *(
        "tail",
        "since",
        "until",
        "stdout",
        "stderr",
        "timestamps",
        "condition",
        "stream",
        "ps_args",
        "fromImage",
    ),
    *("tag", "repo", "follow", "logs", "detachKeys", "dry_run", "digests", "platform", "noprune", "one-shot"),
)


def _routes() -> list[tuple[str, str]]:
    engine = MagicMock()
    found = [(route.method, route.path) for route in (*docker.routes(engine), *fleet.routes(engine))]
    return [(method, path) for method, path in found if path not in LEFT_OUT]


def _send(agent: AgentUnderTest, method: str, target: str, body: bytes) -> tuple[int, bytes]:
    """Return status and what came within a moment: some answers are streams without an end."""
    head = (
        f"{method} {target} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(SECONDS)
        client.connect(str(agent.socket))
        client.sendall(head.encode() + body)
        found = b""
        while b"\r\n\r\n" not in found and (data := client.recv(65536)):
            found += data
        if found[9:10] == b"5":
            while data := client.recv(65536):
                found += data
        return int(found[9:12] or b"0"), found


def _target(path: str, box: str, dice: random.Random) -> str:
    while "{" in path:
        start, end = path.index("{"), path.index("}")
        name = box if dice.random() < 0.6 else dice.choice(NAMES)
        path = path[:start] + quote(name, safe="", errors="surrogatepass") + path[end + 1 :]
    words = [(dice.choice(QUERIES), dice.choice(WORDS)) for _ in range(dice.choice((0, 0, 1, 3)))]
    return path + "?" + "&".join(f"{name}={quote(word, safe='')}" for name, word in words)


def _body(path: str, dice: random.Random) -> bytes:
    if dice.random() < 0.15:
        return dice.choice(NO_OBJECTS)
    valid = BODIES.get(path, {"x": 1})
    if dice.random() < 0.1:
        return as_bytes({key: dice.choice(STRANGE) for key in valid})
    return as_bytes(mutated(valid, dice.randbytes(3 * dice.choice((1, 1, 2, 4)))))


@pytest.mark.parametrize(("method", "path"), _routes(), ids=str)
def test_json_of_all_kinds_at_every_route(agent: AgentUnderTest, box: str, method: str, path: str) -> None:
    """Whatever the body, the name and the query are, the answer is in words: a user's mistake is no crash."""
    dice = random.Random(f"{method} {path}")
    count = 3 if path in WAITING else 25 if path in BODIES else 8
    for _ in range(count):
        target, body = _target(path, box, dice), _body(path, dice)
        if method == "PUT" and "dry_run" not in target:
            # Most go no further than the plan: what is made takes time, and is tried elsewhere.
            target += "&dry_run=true" if dice.random() < 0.8 else ""
        if path in WAITING and "no-such" not in target:
            continue
        status, answer = _send(agent, method, target, body)
        assert CRASHED not in answer, (method, target, body[:1000], answer)
        assert status, (method, target, body[:1000])
