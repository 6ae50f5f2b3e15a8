# SPDX-License-Identifier: Apache-2.0
"""Attaching through a websocket, with the client that docker-py uses."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually

websocket = pytest.importorskip("websocket")

pytestmark = pytest.mark.root

WAIT = 20.0 * PATIENCE
Attach = Callable[..., Any]


@pytest.fixture
def run(agent: AgentUnderTest) -> Iterator[Callable[..., str]]:
    """Return a function that runs a command in a container; all of them are removed."""
    made: list[str] = []

    def start(*command: str, **options: Any) -> str:
        body = {"Image": "busybox", "Cmd": list(command), **options}
        made.append(agent.api("POST", "/containers/create", body)["Id"])
        agent.api("POST", f"/containers/{made[-1]}/start")
        return made[-1]

    yield start
    for container in made:
        agent.api("DELETE", f"/containers/{container}?force=true&v=true")


@pytest.fixture
def attach(agent: AgentUnderTest) -> Iterator[Attach]:
    """Return a function that attaches a websocket to a container."""
    with ExitStack() as stack:

        def attached(container: str, version: str = "1.47", **query: str) -> Any:
            connection = socket.socket(socket.AF_UNIX)
            stack.callback(connection.close)
            connection.settimeout(WAIT)
            connection.connect(str(agent.socket))
            parameters = "&".join(f"{name}={value}" for name, value in query.items())
            url = f"ws://localhost/v{version}/containers/{container}/attach/ws?{parameters}"
            return websocket.create_connection(url, timeout=WAIT, socket=connection)

        yield attached


def until(channel: Any, mark: bytes) -> bytes:
    """Receive binary messages until what they say ends with a mark."""
    heard = b""
    while not heard.endswith(mark):
        opcode, data = channel.recv_data()
        assert opcode == websocket.ABNF.OPCODE_BINARY, (opcode, data, heard)
        heard += data
    return heard


def closing(channel: Any) -> int:
    """Receive the Close that must come next, and return its code. It is not answered."""
    frame = channel.recv_frame()
    assert frame.opcode == websocket.ABNF.OPCODE_CLOSE, frame
    return int.from_bytes(frame.data[:2])


def test_what_is_said_reaches_the_container_and_comes_back(run: Callable[..., str], attach: Attach) -> None:
    channel = attach(run("cat", OpenStdin=True), stdin="1", stdout="1", stream="1")
    channel.send("text\n")
    assert until(channel, b"text\n") == b"text\n"
    data = os.urandom(3 << 20)
    for place in range(0, len(data), 1 << 18):  # a message of several frames each
        channel.send_frame(websocket.ABNF.create_frame(data[place : place + 1000], 2, fin=0))
        channel.ping("still there?")
        rest = data[place + 1000 : place + (1 << 18)]
        channel.send_frame(websocket.ABNF.create_frame(rest, websocket.ABNF.OPCODE_CONT))
        assert until(channel, rest[-20:]).endswith(rest[-20:])
    channel.close()


def test_the_streams_are_those_that_were_asked_for(
    agent: AgentUnderTest, run: Callable[..., str], attach: Attach
) -> None:
    container = run("sh", "-c", "echo out; echo err >&2; exec sleep 600")
    logs = f"/containers/{container}/logs?stdout=1&stderr=1"
    eventually(lambda: b"out\n" in agent.request("GET", logs).body, what="its output is logged")
    eventually(lambda: b"err\n" in agent.request("GET", logs).body, what="its errors are logged")
    assert until(attach(container, logs="1", stdout="1"), b"out\n") == b"out\n"
    assert until(attach(container, logs="1", stderr="1"), b"err\n") == b"err\n"
    whole = b""
    channel = attach(container, "1.41", logs="1")
    while len(whole) < len(b"out\nerr\n"):
        whole += channel.recv()
    assert sorted(whole.split()) == [b"err", b"out"]
    assert closing(channel) == 1000  # without `stream` it ends with what was there


def test_messages_of_old_versions_are_text(run: Callable[..., str], attach: Attach) -> None:
    channel = attach(run("cat", OpenStdin=True), version="1.27", stream="1")
    channel.send_binary("größe ".encode() + b"\xff\n")
    heard = ""
    while not heard.endswith("\n"):
        opcode, data = channel.recv_data()
        assert opcode == websocket.ABNF.OPCODE_TEXT
        heard += data.decode()
    assert heard == "größe \ufffd\n"
    channel.close()


def test_the_end_of_the_container_closes_the_websocket(run: Callable[..., str], attach: Attach) -> None:
    channel = attach(
        run("sh", "-c", "read line; echo bye", OpenStdin=True), stdin="1", stdout="1", stream="1"
    )
    channel.send_binary(b"\n")
    assert until(channel, b"bye\n") == b"bye\n"
    assert closing(channel) == 1000


def test_a_close_ends_the_input_of_who_has_one_client(
    agent: AgentUnderTest, run: Callable[..., str], attach: Attach
) -> None:
    container = run("sh", "-c", "cat > /file", OpenStdin=True, StdinOnce=True)
    channel = attach(container, stdin="1", stream="1")
    channel.send_binary(b"x")
    channel.send_close(1001, b"done")
    assert closing(channel) == 1001
    assert agent.api("POST", f"/containers/{container}/wait")["StatusCode"] == 0


def test_a_close_detaches_from_who_goes_on(
    agent: AgentUnderTest, run: Callable[..., str], attach: Attach
) -> None:
    container = run("cat", OpenStdin=True)
    channel = attach(container, stdin="1", stdout="1", stream="1")
    channel.send_close()
    assert closing(channel) == 1000
    assert agent.api("GET", f"/containers/{container}/json")["State"]["Running"]
    again = attach(container, stdin="1", stdout="1", stream="1")
    again.send("again\n")
    assert until(again, b"again\n") == b"again\n"


def test_input_may_end_before_output(run: Callable[..., str], attach: Attach) -> None:
    channel = attach(
        run("sh", "-c", "cat; echo end", OpenStdin=True, StdinOnce=True), stdin="1", stdout="1", stream="1"
    )
    channel.send_binary(b"in\n")
    channel.sock.shutdown(socket.SHUT_WR)
    assert until(channel, b"end\n") == b"in\nend\n"
    assert closing(channel) == 1000


def test_detach_keys(agent: AgentUnderTest, run: Callable[..., str], attach: Attach) -> None:
    container = run("cat", OpenStdin=True, Tty=True)
    channel = attach(container, stdin="1", stdout="1", stream="1", detachKeys="ctrl-x,x")
    channel.send("typed\r")
    assert until(channel, b"typed\r\ntyped\r\n")
    channel.send("\x18x")
    assert closing(channel) == 1000
    assert agent.api("GET", f"/containers/{container}/json")["State"]["Running"]


def test_who_breaks_the_protocol_is_told_and_harms_nobody(
    agent: AgentUnderTest, run: Callable[..., str], attach: Attach
) -> None:
    container = run("cat", OpenStdin=True)
    channel = attach(container, stdin="1", stdout="1", stream="1")
    channel.sock.sendall(b"\x82\x01x")  # not masked
    assert closing(channel) == 1002
    assert channel.sock.recv(1) == b""
    assert agent.api("GET", f"/containers/{container}/json")["State"]["Running"]


def test_a_client_that_reads_nothing_makes_nothing_grow(
    agent: AgentUnderTest, run: Callable[..., str], attach: Attach
) -> None:
    container = run("sh", "-c", "read line; exec dd if=/dev/zero bs=1M count=64", OpenStdin=True)
    channel = attach(container, stdin="1", stdout="1", stream="1")
    before = _resident(agent)
    channel.send("\n")
    for _ in range(100):
        channel.ping("x" * 100)
    eventually(lambda: agent.api("GET", f"/containers/{container}/json")["State"]["Status"] == "exited", WAIT)
    assert _resident(agent) - before < 24 << 20
    received = 0
    while True:
        opcode, data = channel.recv_data()
        if opcode == websocket.ABNF.OPCODE_CLOSE:
            break
        received += len(data)
    assert received == 64 << 20


def test_what_is_no_websocket_is_refused(agent: AgentUnderTest, run: Callable[..., str]) -> None:
    response = agent.request("GET", f"/containers/{run('sleep', '600')}/attach/ws?stream=1")
    assert (response.status, "Connection: Upgrade" in response.json()["message"]) == (400, True)


def _resident(agent: AgentUnderTest) -> int:
    assert agent.process is not None
    pages = int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
