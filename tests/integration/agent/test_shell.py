# SPDX-License-Identifier: Apache-2.0
"""Terminals over an upgraded connection: what the foreground waits for, and what becomes of it without a
client.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import UnixConnection
from harness.waiting import eventually

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def host(agent: AgentUnderTest) -> Iterator[str]:
    """A container to open shells in."""
    agent.api(
        "PUT",
        "/mooring/v1/containers/host",
        {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0},
    )
    yield "host"
    agent.api("DELETE", "/mooring/v1/containers/host")


@contextmanager
def shell(
    agent: AgentUnderTest, container: str, *argv: str
) -> Iterator[tuple[str, http.client.HTTPConnection]]:
    """The id of a process on a terminal, and the connection that carries the terminal."""
    connection = UnixConnection(agent.socket)
    headers = {"Content-Type": "application/json", "Connection": "Upgrade", "Upgrade": "mooring-stream"}
    path = f"/mooring/v1/containers/{container}/shell"
    connection.request("POST", path, json.dumps({"argv": list(argv)}), headers)
    raw = connection.sock
    head = b""
    while b"\r\n\r\n" not in head:
        head += raw.recv(1)
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:] if ": " in line)
    yield next(value for name, value in fields.items() if name.lower() == "mooring-exec-id"), connection
    connection.close()


def front(agent: AgentUnderTest, id: str) -> dict[str, Any]:
    response = agent.request("GET", f"/mooring/v1/execs/{id}/foreground")
    return response.json() if response.status == 200 else {}


@pytest.mark.parametrize(
    "script", ["read x", "cat", "cat | cat", "head -c 1"], ids=["read of ash", "cat", "a pipe", "head"]
)
def test_a_program_that_waits_for_input_is_seen(agent: AgentUnderTest, host: str, script: str) -> None:
    with shell(agent, host, "sh", "-c", script) as (id, _):
        eventually(lambda: front(agent, id).get("waiting_for_input"), what="waiting for input")


def test_a_program_that_computes_does_not_wait(agent: AgentUnderTest, host: str) -> None:
    with shell(agent, host, "sh", "-c", "while :; do :; done") as (id, _):
        found = eventually(lambda: front(agent, id), what="the foreground")
    assert not found["waiting_for_input"]


def test_a_password_is_told_by_the_missing_echo(agent: AgentUnderTest, host: str) -> None:
    with shell(agent, host, "sh", "-c", "stty -echo; read x") as (id, _):
        eventually(lambda: (seen := front(agent, id)).get("waiting_for_input") and not seen["echo"])


def test_a_shell_without_its_client_is_hung_up(agent: AgentUnderTest, host: str) -> None:
    with shell(agent, host, "sh") as (id, _):
        assert agent.api("GET", f"/mooring/v1/execs/{id}")["running"]
    ended = eventually(lambda: not (seen := agent.api("GET", f"/mooring/v1/execs/{id}"))["running"] and seen)
    assert ended["exit_code"] is not None
