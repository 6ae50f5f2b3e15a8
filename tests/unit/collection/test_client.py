# SPDX-License-Identifier: Apache-2.0
"""The client of the modules: what it sends, and what it says when the other side is not as it should be."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.mooring.fleet.plugins.module_utils.client import (
    AgentError,
    AgentUnreachable,
    Client,
    reference,
    segment,
)

from harness.waiting import PATIENCE

Serve = Callable[[socket.socket], None]


def http(status: str, body: bytes, kind: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Client]]:
    opened: list[tuple[Client, socket.socket, threading.Thread]] = []

    def start(*serves: Serve, timeout: float = 5) -> Client:
        path = tmp_path / "agent.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def run() -> None:
            for each in serves:
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(5)
                    each(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        client = Client(str(path), timeout)
        opened.append((client, listener, thread))
        return client

    yield start
    for client, listener, thread in opened:
        client.close()
        thread.join(5)
        listener.close()


def received(connection: socket.socket) -> bytes:
    """Return a whole request, which comes in several pieces."""
    request = b""
    while b"\r\n\r\n" not in request:
        request += connection.recv(65536)
    head, _, body = request.partition(b"\r\n\r\n")
    lengths = [int(line.split(b":")[1]) for line in head.splitlines() if line.startswith(b"Content-Length:")]
    while len(body) < sum(lengths):
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def answering(*answers: bytes, asked: list[bytes] | None = None) -> Serve:
    """Serve a connection: one answer for each request, then close it."""

    def serve(connection: socket.socket) -> None:
        for answer in answers:
            request = received(connection)
            if asked is not None:
                asked.append(request)
            connection.sendall(answer)

    return serve


def test_a_call_is_json_both_ways(serve: Callable[..., Client]) -> None:
    asked: list[bytes] = []
    client = serve(answering(http("200 OK", b'{"changed": true}'), asked=asked))

    answer = client.call(
        "PUT", "/containers/web1", {"image": "x"}, {"dry_run": True, "timeout": None, "force": False}
    )

    assert answer == {"changed": True}
    assert asked[0].startswith(b"PUT /mooring/v1/containers/web1?dry_run=true HTTP/1.1\r\n")
    assert asked[0].endswith(b'{"image": "x"}')


def test_calls_share_a_connection_and_open_another_when_it_was_closed(serve: Callable[..., Client]) -> None:
    gone = threading.Event()

    def leaving(connection: socket.socket) -> None:
        answering(http("200 OK", b"1"), http("200 OK", b"2"))(connection)
        connection.shutdown(socket.SHUT_RDWR)
        gone.set()

    client = serve(leaving, answering(http("200 OK", b"3")))

    answers = [client.call("GET", "/host"), client.call("GET", "/host")]
    assert gone.wait(5 * PATIENCE)

    assert [*answers, client.call("GET", "/host")] == [1, 2, 3]


def test_an_error_of_the_agent_keeps_its_sentence_and_code(serve: Callable[..., Client]) -> None:
    body = json.dumps({"message": "no such image: x; make it first", "code": "not_found"}).encode()
    client = serve(answering(http("404 Not Found", body)))

    with pytest.raises(AgentError) as caught:
        client.call("PUT", "/containers/web1", {})

    assert (caught.value.message, caught.value.code, caught.value.status) == (
        "no such image: x; make it first",
        "not_found",
        404,
    )


def test_progress_is_followed_line_by_line(serve: Callable[..., Client]) -> None:
    lines = b'{"progress": {"step": "unpack"}}\n\n{"outcome": {"changed": true}}\n'
    client = serve(answering(http("200 OK", lines, "application/x-ndjson")))

    assert list(client.follow("PUT", "/images/x", {})) == [
        {"progress": {"step": "unpack"}},
        {"outcome": {"changed": True}},
    ]


def test_progress_may_take_longer_than_the_timeout_but_not_be_silent(serve: Callable[..., Client]) -> None:
    def slow(connection: socket.socket) -> None:
        received(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n")
        for _ in range(4):
            time.sleep(0.4 * limit)
            connection.sendall(b'{"progress": {}}\n')
        time.sleep(2 * limit)

    limit = 0.5 * PATIENCE
    client = serve(slow, timeout=limit)

    lines = client.follow("PUT", "/images/x", {})

    assert [next(lines) for _ in range(4)] == [{"progress": {}}] * 4
    with pytest.raises(AgentError, match=f"has been silent for {limit:g} s"):
        next(lines)


def test_silence(serve: Callable[..., Client]) -> None:
    client = serve(lambda connection: time.sleep(0.5), timeout=0.1)

    with pytest.raises(AgentError, match=r"silent for 0\.1 s") as caught:
        client.call("GET", "/host")

    assert caught.value.code == "timeout"


@pytest.mark.parametrize(
    "answer",
    [
        http("404 Not Found", b'{"error": "page"}'),
        http("404 Not Found", b"page not found", "text/plain"),
        http("200 OK", b"<html>", "text/html"),
    ],
)
def test_another_server(serve: Callable[..., Client], answer: bytes) -> None:
    client = serve(answering(answer))

    with pytest.raises(AgentError, match=r"is no mooring agent; name the agent's socket"):
        client.call("GET", "/host")


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", b"nonsense\r\n\r\n"]
)
def test_a_connection_that_is_cut_off(serve: Callable[..., Client], answer: bytes) -> None:
    client = serve(answering(answer))

    with pytest.raises(AgentError, match=r"ended the connection without an answer") as caught:
        client.call("GET", "/host")

    assert not isinstance(caught.value, AgentUnreachable)


@pytest.mark.parametrize("kind", ["nothing", "file", "dead"])
def test_no_agent(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "agent.sock"
    if kind == "file":
        path.touch()
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))

    with pytest.raises(
        AgentUnreachable, match=r"no agent answers at .*agent.sock \(.*\), expected a running"
    ):
        Client(str(path), 5).call("GET", "/host")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_socket_of_somebody_else(serve: Callable[..., Client], tmp_path: Path) -> None:
    client = serve()
    (tmp_path / "agent.sock").chmod(0o600)
    os.seteuid(65534)
    try:
        with pytest.raises(AgentUnreachable) as caught:
            client.call("GET", "/host")
    finally:
        os.seteuid(0)

    assert "refuses this user" in caught.value.message
    assert "become: true" in caught.value.message


@pytest.mark.parametrize("answer", [http("200 OK", b"OK"), http("500 Oops", b""), b""])
def test_a_ping_says_whether_an_agent_is_there(serve: Callable[..., Client], answer: bytes) -> None:
    client = serve(answering(answer))

    if b"200" in answer:
        client.ping()
    else:
        with pytest.raises(AgentUnreachable):
            client.ping()


def test_names_are_quoted() -> None:
    assert segment("a/b c") == "a%2Fb%20c"
    assert segment("registry/web:1") == "registry%2Fweb:1"
    assert reference("host:5000/web:1@sha256:ab") == "host:5000/web:1@sha256:ab"
