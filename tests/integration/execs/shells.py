# SPDX-License-Identifier: Apache-2.0
"""A client of `POST …/shell` that speaks to the socket itself, and short words for the other calls."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually

WAIT = 15.0 * PATIENCE


class Shell:
    """A process on a terminal in a container; `output` is all that it has shown so far.

    With `exec_id` it is that of an exec which runs already.
    """

    def __init__(
        self, agent: AgentUnderTest, container: str, *argv: str, exec_id: str = "", **options: Any
    ) -> None:
        self._agent = agent
        self.output = b""
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(WAIT)
        self._socket.connect(str(agent.socket))
        body = json.dumps({"argv": list(argv or ("sh",)), **options}).encode()
        path = f"execs/{exec_id}/attach" if exec_id else f"containers/{container}/shell"
        head = (
            f"POST /mooring/v1/{path} HTTP/1.1\r\nHost: x\r\n"
            "Connection: Upgrade\r\nUpgrade: mooring-stream\r\n"
            f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = self._socket.recv(4096)
            if not piece:
                raise AssertionError(f"the connection ended within the head: {answer!r}")
            answer += piece
        self.head, _, self.output = answer.partition(b"\r\n\r\n")
        lines = self.head.decode().split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])
        }
        self.id = self.headers.get("mooring-exec-id", "")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, text: str) -> None:
        """Type."""
        self._socket.sendall(text.encode())

    def until(self, words: str, timeout: float = WAIT) -> str:
        """Read until the output has `words`; all of it. Raises AssertionError where they do not come."""
        deadline = time.monotonic() + timeout
        while words.encode() not in self.output:
            self._socket.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                piece = self._socket.recv(1 << 16)
            except TimeoutError:
                raise AssertionError(f"{words!r} did not come: {self.output!r}") from None
            if not piece:
                raise AssertionError(f"{words!r} did not come before the end: {self.output!r}")
            self.output += piece
        return self.output.decode(errors="replace")

    def rest(self, timeout: float = WAIT) -> bytes:
        """Read to the end; all of the output."""
        self._socket.settimeout(timeout)
        while piece := self._socket.recv(1 << 16):
            self.output += piece
        return self.output

    def close(self) -> None:
        """Leave, as a client that is killed does."""
        self._socket.close()

    def end_input(self) -> None:
        """Send no more, and go on listening."""
        self._socket.shutdown(socket.SHUT_WR)

    def call(self, what: str, **body: Any) -> Any:
        """POST …/execs/ID/WHAT."""
        return self._agent.api("POST", f"/mooring/v1/execs/{self.id}/{what}", body)

    def foreground(self) -> dict[str, Any]:
        """What the terminal's foreground does."""
        found: dict[str, Any] = self._agent.api("GET", f"/mooring/v1/execs/{self.id}/foreground")
        return found

    def view(self) -> dict[str, Any]:
        """The exec as the API shows it."""
        found: dict[str, Any] = self._agent.api("GET", f"/mooring/v1/execs/{self.id}")
        return found


def run(agent: AgentUnderTest, name: str, *argv: str, **options: Any) -> dict[str, Any]:
    """Run a command to its end."""
    answer: dict[str, Any] = agent.api(
        "POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv), **options}
    )
    return answer


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    """The container as the API shows it."""
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def settled(opened: Callable[[], list[int]]) -> list[int]:
    """How many descriptors are open once that stays as it is: what the agent keeps in reserve for the next
    containers is filled when nobody has asked for anything for a moment.
    """

    def same() -> list[int]:
        before = opened()
        time.sleep(1)
        return before if opened() == before else []

    return eventually(same, 30, "descriptors that stay as many")


def logged(agent: AgentUnderTest, name: str, query: str = "") -> list[str]:
    """The lines of a container's log."""
    return [line["data"] for line in agent.stream("GET", f"/mooring/v1/containers/{name}/logs{query}")]
