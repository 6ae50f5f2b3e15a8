# SPDX-License-Identifier: Apache-2.0
"""Execs that outlive the agent that started them: the next one knows them and gives their streams again."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

from .conftest import SLEEPER
from .shells import WAIT, Shell

pytestmark = pytest.mark.root

_FRAME = struct.Struct(">BxxxI")


@pytest.fixture(scope="module")
def box(agent: AgentUnderTest) -> Iterator[str]:
    """Return the name of a container that stays while the agent is killed."""
    agent.api("PUT", "/mooring/v1/containers/box", SLEEPER)
    yield "box"
    agent.api("DELETE", "/mooring/v1/containers/box")


def again(agent: AgentUnderTest) -> None:
    agent.kill9()
    agent.start()


def view(agent: AgentUnderTest, id: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/execs/{id}")
    return found


def docker_view(agent: AgentUnderTest, id: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/v1.43/exec/{id}/json")
    return found


@contextmanager
def upgraded(agent: AgentUnderTest, path: str, protocol: str) -> Iterator[socket.socket]:
    """A connection that was handed over, after its head."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(WAIT)
        connection.connect(str(agent.socket))
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n"
            "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = connection.recv(1)
            assert byte, head
            head += byte
        assert b" 101 " in head.split(b"\r\n")[0], head
        yield connection


def frame(connection: socket.socket) -> tuple[int, bytes]:
    """The next frame; (0, b"") at the end."""
    head = connection.recv(_FRAME.size, socket.MSG_WAITALL)
    if not head:
        return 0, b""
    stream, length = _FRAME.unpack(head)
    return stream, connection.recv(length, socket.MSG_WAITALL)


def docker_exec(agent: AgentUnderTest, box: str, *argv: str, stdin: bool) -> str:
    body = {"Cmd": list(argv), "AttachStdin": stdin, "AttachStdout": True, "AttachStderr": True}
    id: str = agent.api("POST", f"/v1.43/containers/{box}/exec", body)["Id"]
    return id


@pytest.mark.parametrize("end", [AgentUnderTest.kill9, AgentUnderTest.terminate], ids=["kill", "stop"])
def test_a_shell_is_taken_up_again(
    agent: AgentUnderTest, box: str, end: Callable[[AgentUnderTest], object]
) -> None:
    go = Path(f"/proc/{agent.api('GET', f'/mooring/v1/containers/{box}')['pid']}/root/go")
    go.unlink(missing_ok=True)
    with Shell(agent, box, "sh") as shell:
        shell.send("echo before $((40+1))\n")
        shell.until("before 41")
        id = shell.id
        shell.send("until [ -e /go ]; do usleep 9999; done; echo meanwhile $((40+2))\n")
        shell.until("$((40+2))")  # the terminal has it
        end(agent)
    go.touch()
    agent.start()
    assert view(agent, id)["running"]
    with Shell(agent, box, exec_id=id) as shell:
        shell.until("meanwhile 42")
        shell.call("resize", rows=33, cols=99)
        shell.send("stty size\n")
        shell.until("33 99")
        assert eventually(lambda: shell.foreground()["is_shell"])
        second = agent.request(
            "POST",
            f"/mooring/v1/execs/{id}/attach",
            {},
            headers={"Connection": "Upgrade", "Upgrade": "mooring-stream"},
        )
        assert (second.status, b"has a client already" in second.body) == (409, True)
        shell.send("exit 5\n")
        shell.rest()
    assert eventually(lambda: not (found := view(agent, id))["running"] and found)["exit_code"] == 5


def test_a_shell_taken_up_again_hangs_up_with_its_client(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box, "sh") as shell:
        shell.send("echo here $((40+1))\n")
        shell.until("here 41")
        again(agent)
    with Shell(agent, box, exec_id=shell.id) as back:
        back.send("echo there $((40+1))\n")
        back.until("there 41")
    assert eventually(lambda: not (found := view(agent, shell.id))["running"] and found)["exit_code"] == 129


def test_an_exec_with_pipes_is_taken_up_again(agent: AgentUnderTest, box: str) -> None:
    script = "read x; echo got $x; echo wrong >&2; read y; echo got $y; cat; exit 6"
    id = docker_exec(agent, box, "sh", "-c", script, stdin=True)
    with upgraded(agent, f"/v1.43/exec/{id}/start", "tcp") as connection:
        connection.sendall(b"one\n")
        assert {frame(connection), frame(connection)} == {(1, b"got one\n"), (2, b"wrong\n")}
        again(agent)
    found = docker_view(agent, id)
    assert (found["Running"], found["ExitCode"], found["OpenStdin"]) == (True, None, True)
    assert found["ProcessConfig"]["entrypoint"] == "sh"
    assert found["ProcessConfig"]["arguments"] == ["-c", script]
    with upgraded(agent, f"/mooring/v1/execs/{id}/attach", "mooring-stream") as connection:
        connection.sendall(b"two\n")
        assert frame(connection) == (1, b"got two\n")
        connection.sendall(b"rest")
        connection.shutdown(socket.SHUT_WR)
        assert frame(connection) == (1, b"rest")
        assert frame(connection) == (0, b"")
    found = docker_view(agent, id)
    assert (found["Running"], found["ExitCode"]) == (False, 6)


def test_the_end_and_the_last_words_of_one_that_ended_without_an_agent(
    agent: AgentUnderTest, box: str
) -> None:
    id = docker_exec(agent, box, "sh", "-c", "read x; echo last; exit 7", stdin=True)
    with upgraded(agent, f"/v1.43/exec/{id}/start", "tcp"):
        pid = eventually(lambda: docker_view(agent, id)["Pid"])
        stdin = os.open(f"/proc/{pid}/fd/0", os.O_WRONLY)
        agent.kill9()
    os.write(stdin, b"go\n")
    os.close(stdin)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the exec")
    agent.start()
    for _ in range(2):  # and the next agent knows it too
        found = view(agent, id)
        assert (found["running"], found["exit_code"], found["exit_known"]) == (False, 7, True)
        again(agent)
    with upgraded(agent, f"/mooring/v1/execs/{id}/attach", "mooring-stream") as connection:
        assert frame(connection) == (1, b"last\n")
        assert frame(connection) == (0, b"")


def test_the_exit_codes_of_many_are_known_to_the_next_agent(agent: AgentUnderTest, box: str) -> None:
    ids = [docker_exec(agent, box, "sh", "-c", f"exit {number}", stdin=False) for number in range(12)]
    for id in ids:
        agent.request("POST", f"/v1.43/exec/{id}/start", {"Detach": True})
    for id in ids:
        eventually(lambda id=id: not view(agent, id)["running"])
    again(agent)
    assert [view(agent, id)["exit_code"] for id in ids] == list(range(12))


def test_records_of_execs_go_with_their_container(agent: AgentUnderTest) -> None:
    agent.api("PUT", "/mooring/v1/containers/short", SLEEPER)
    before = set(os.listdir(agent.config.run_root / "keeper/records"))
    for _ in range(3):
        agent.api("POST", "/mooring/v1/containers/short/exec", {"argv": ["true"]})
    records = set(os.listdir(agent.config.run_root / "keeper/records")) - before
    assert len(records) == 3
    noted = [
        json.loads((agent.config.run_root / "keeper/records" / name).read_text())["note"] for name in records
    ]
    assert all(json.loads(note)["argv"] == ["true"] for note in noted)
    agent.api("DELETE", "/mooring/v1/containers/short")
    eventually(lambda: not records & set(os.listdir(agent.config.run_root / "keeper/records")))
