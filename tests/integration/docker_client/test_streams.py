# SPDX-License-Identifier: Apache-2.0
"""Much data through the docker client, and many clients at once."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]

_BLOCK = os.urandom(1 << 20)
_GROWTH = 24 << 20  # bytes that an agent may grow by, whatever passes through it
_CLIENTS = 200
_WAIT = 60.0


def _resident(agent: AgentUnderTest) -> int:
    """Bytes that agent and keeper have in memory."""
    assert agent.process is not None
    pages = 0
    for pid in (agent.process.pid, *agent.keeper_pids()):
        pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _echoed(agent: AgentUnderTest, blocks: int, *command: str) -> int:
    """Send so many MiB through a command of the docker client that echoes, compare what comes back, and
    return by how many bytes agent and keeper were larger meanwhile.
    """
    before, most = _resident(agent), 0
    sent, received, length = hashlib.sha256(), hashlib.sha256(), 0
    with subprocess.Popen(
        ["docker", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=agent.docker_environment(),
    ) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        stdin, stdout = client.stdin, client.stdout

        def feed() -> None:
            with stdin:
                for _ in range(blocks):
                    sent.update(_BLOCK)
                    stdin.write(_BLOCK)

        feeder = threading.Thread(target=feed)
        feeder.start()
        while piece := stdout.read(len(_BLOCK)):
            received.update(piece)
            length += len(piece)
            if length % (16 << 20) == 0:
                most = max(most, _resident(agent))
        feeder.join(_WAIT)
        assert client.wait(_WAIT) == 0
    assert length == blocks * len(_BLOCK)
    assert received.digest() == sent.digest()
    return most - before


@pytest.mark.parametrize("blocks", [128, pytest.param(1024, marks=pytest.mark.bench)])
def test_what_goes_through_a_container_and_an_exec_is_whole(agent: AgentUnderTest, blocks: int) -> None:
    agent.docker("run", "-d", "--name", "echoes", "busybox", "sleep", "600")
    assert _echoed(agent, 8, "exec", "-i", "echoes", "cat") < _GROWTH  # and all is there that is needed once
    assert _echoed(agent, blocks, "exec", "-i", "echoes", "cat") < _GROWTH
    assert _echoed(agent, blocks, "run", "-i", "--rm", "busybox", "cat") < _GROWTH


def test_two_hundred_clients_attached_at_once_all_see_everything(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "-i", "--name", "speaks", "busybox", "cat")
    head = (
        b"POST /v1.43/containers/speaks/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: x\r\n"
        b"Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )
    with ExitStack() as stack:
        clients = []
        for _ in range(_CLIENTS):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.settimeout(_WAIT)
            client.connect(str(agent.socket))
            client.sendall(head)
            stream = stack.enter_context(client.makefile("rb"))
            while (line := stream.readline()) != b"\r\n":
                assert line
            clients.append((client, stream))
        for client, _ in clients[::50]:
            client.sendall(b"x" * 99_999 + b"\n")
        expected = 4 * 100_000
        for _, stream in clients:
            seen = 0
            while seen < expected:
                frame = stream.read(8)
                size = int.from_bytes(frame[4:])
                assert frame[:4] == b"\1\0\0\0"
                assert stream.read(size).strip(b"x\n") == b""
                seen += size
            assert seen == expected
        agent.docker("exec", "speaks", "true")  # others are answered meanwhile
