# SPDX-License-Identifier: Apache-2.0
"""Clients attached to a container's own streams, through the Docker API's attach call."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

from .shells import WAIT, logged, settled, view

pytestmark = pytest.mark.root

_FRAME = struct.Struct(">BxxxI")


@contextmanager
def attached(agent: AgentUnderTest, name: str, query: str) -> Iterator[socket.socket]:
    """An upgraded connection, after its head."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT)
        connection.connect(str(agent.socket))
        connection.sendall(
            f"POST /v1.43/containers/{name}/attach?{query} HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            assert byte, head
            head += byte
        assert b" 101 " in head.split(b"\r\n")[0], head
        yield connection


def frames(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """The frames to the end of the stream."""
    buffer = b""
    while piece := connection.recv(1 << 16):
        buffer += piece
        while len(buffer) >= _FRAME.size:
            stream, length = _FRAME.unpack_from(buffer)
            if len(buffer) < _FRAME.size + length:
                break
            yield stream, buffer[_FRAME.size : _FRAME.size + length]
            buffer = buffer[_FRAME.size + length :]
    assert buffer == b""


def output(connection: socket.socket) -> dict[int, bytes]:
    found = {1: b"", 2: b""}
    for stream, data in frames(connection):
        found[stream] += data
    return found


def test_input_goes_in_and_both_outputs_come_out(agent: AgentUnderTest, declare: Any) -> None:
    script = "for x in 1 2; do read x; echo out $x; echo err $x >&2; done; echo over; exit 6"
    declare("talks", command=["sh", "-c", script], interactive=True)
    with attached(agent, "talks", "stream=1&stdin=1&stdout=1&stderr=1") as connection:
        connection.sendall(b"one\ntwo\n")
        connection.shutdown(socket.SHUT_WR)  # which leaves the output flowing
        assert output(connection) == {1: b"out one\nout two\nover\n", 2: b"err one\nerr two\n"}
    assert view(agent, "talks")["exit_code"] == 6


def test_large_input_and_output_are_whole(agent: AgentUnderTest, declare: Any) -> None:
    declare("copies", command=["cat"], interactive=True, log={"max_size": "64m", "max_files": 2})
    size = 8 << 20
    with attached(agent, "copies", "stream=1&stdin=1&stdout=1&stderr=1") as connection:
        sent = received = 0
        connection.setblocking(False)
        buffer = b""
        deadline = time.monotonic() + 4 * WAIT
        while received < size and time.monotonic() < deadline:
            if sent < size:
                try:
                    sent += connection.send(b"x" * min(1 << 16, size - sent))
                except BlockingIOError:
                    pass
                if sent == size:
                    connection.shutdown(socket.SHUT_WR)
            try:
                buffer += connection.recv(1 << 16)
            except BlockingIOError:
                time.sleep(0.001)
                continue
            while len(buffer) >= _FRAME.size:
                _, length = _FRAME.unpack_from(buffer)
                if len(buffer) < _FRAME.size + length:
                    break
                received += length
                buffer = buffer[_FRAME.size + length :]
        assert (sent, received) == (size, size)


def test_a_client_sees_what_comes_and_with_logs_what_was(agent: AgentUnderTest, declare: Any) -> None:
    declare("speaks", command=["sh", "-c", "echo before; read x; echo after"], interactive=True)
    eventually(lambda: logged(agent, "speaks") == ["before\n"])
    with (
        attached(agent, "speaks", "stream=1&stdout=1") as new,
        attached(agent, "speaks", "stream=1&logs=1&stdout=1") as old,
        attached(agent, "speaks", "stream=1&stdin=1") as typist,
    ):
        typist.sendall(b"go\n")
        assert output(new)[1] == b"after\n"
        assert output(old)[1] == b"before\nafter\n"


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("talks", [False, True])
def test_what_a_client_has_sent_before_it_left_is_delivered(
    agent: AgentUnderTest, declare: Any, terminal: bool, talks: bool
) -> None:
    # Where it talks, the agent notices that the client has gone when it passes that on.
    script = "while read x; do echo $x >> /got; done"
    if talks:
        script = f"while :; do echo; done & {script}"
    declare("hears", command=["sh", "-c", script], interactive=True, tty=terminal)
    words = {str(number) for number in range(20)}
    for word in words:
        with attached(agent, "hears", "stream=1&stdin=1&stdout=1") as connection:
            if talks:
                connection.recv(1)
            connection.sendall(word.encode() + b"\n")
    eventually(
        lambda: set(agent.docker("exec", "hears", "cat", "/got").stdout.split()) == words, what="all words"
    )


def test_a_client_that_does_not_read_holds_up_nobody(agent: AgentUnderTest, declare: Any) -> None:
    declare("floods", command=["sh", "-c", "read x; seq 300000"], interactive=True)
    with (
        attached(agent, "floods", "stream=1&stdout=1"),
        attached(agent, "floods", "stream=1&stdin=1&stdout=1") as reader,
    ):
        reader.sendall(b"go\n")
        assert output(reader)[1] == b"".join(b"%d\n" % number for number in range(1, 300_001))
    assert view(agent, "floods")["exit_code"] == 0


def test_a_terminal_is_shared_by_its_clients(agent: AgentUnderTest, declare: Any) -> None:
    declare("tty", command=["sh", "-c", "read x; echo got $x; exit 2"], interactive=True, tty=True)
    with (
        attached(agent, "tty", "stream=1&stdout=1") as watcher,
        attached(agent, "tty", "stream=1&stdin=1&stdout=1") as typist,
    ):
        typist.sendall(b"word\n")
        for connection in (watcher, typist):
            seen = b""
            while piece := connection.recv(1 << 16):
                seen += piece
            assert b"got word\r\n" in seen
    assert view(agent, "tty")["exit_code"] == 2


def test_one_that_leaves_leaves_the_others_and_the_container(agent: AgentUnderTest, declare: Any) -> None:
    declare("stays", command=["cat"], interactive=True)
    with attached(agent, "stays", "stream=1&stdin=1&stdout=1") as one:
        with attached(agent, "stays", "stream=1&stdin=1&stdout=1") as other:
            other.sendall(b"from the other\n")
            assert next(frames(other)) == (1, b"from the other\n")
        assert next(frames(one)) == (1, b"from the other\n")
        assert view(agent, "stays")["state"] == "running"
        one.sendall(b"from the one\n")
        assert next(frames(one)) == (1, b"from the one\n")


def test_a_hundred_clients_leave_no_descriptor(agent: AgentUnderTest, declare: Any) -> None:
    assert agent.process is not None
    pids = (agent.process.pid, *agent.keeper_pids())
    declare("visited", command=["cat"], interactive=True)

    def opened() -> list[int]:
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    def visits(count: int) -> None:
        for number in range(count):
            with attached(agent, "visited", "stream=1&stdin=1&stdout=1&logs=1") as connection:
                if number % 2:
                    connection.sendall(b"x\n")
                    connection.recv(100)

    visits(5)
    eventually(lambda: opened()[0] < 60)
    before = settled(opened)
    visits(100)
    eventually(
        lambda: all(now <= then + 1 for now, then in zip(opened(), before, strict=True)), 10, str(before)
    )
