# SPDX-License-Identifier: Apache-2.0
"""What these tests do to containers, and how they look at them from outside."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually
from integration.network.topology import HOST_OUTER, NamedNamespace, Namespace

PORT = 8080
_PROGRAM_TIMEOUT = 30.0 * PATIENCE


def server(name: str, **options: Any) -> dict[str, Any]:
    """A web server that says `name`, and an echo server on port 81; it is killed when it shall end."""
    script = f"mkdir /srv; echo {name} >/srv/index.html; nc -ll -p 81 -e cat & exec httpd -f -p 80 -h /srv"
    return {
        "image": "busybox",
        "command": ["sh", "-c", script],
        "ports": [f"{PORT}:80", "8081:81"],
        "update_order": "start_first",
        "stop_timeout": 0,
        **options,
    }


def echoes(connection: socket.socket, text: bytes = b"1\n") -> bool:
    """Whether the echo server at the other end answers."""
    connection.sendall(text)
    return connection.recv(100) == text


class World:
    """A host with an agent, and the outside."""

    def __init__(
        self, host: NamedNamespace, outside: NamedNamespace, agent: AgentUnderTest, point: Path
    ) -> None:
        self.host = host
        self.outside = outside
        self.agent = agent
        self._point = point

    def end(self) -> None:
        """Remove everything through the agent, and end it, while its namespace is there."""
        self.agent.end()

    def put(self, name: str, spec: dict[str, Any], *, check: bool = True) -> Any:
        """Declare a container."""
        return self.agent.api(
            "PUT", f"/mooring/v1/containers/{name}", spec, check=check, timeout=60 * PATIENCE
        )

    def view(self, name: str) -> dict[str, Any]:
        """A container as the agent shows it."""
        found: dict[str, Any] = self.agent.api("GET", f"/mooring/v1/containers/{name}")
        return found

    def names(self) -> list[str]:
        """The containers that there are."""
        return sorted(container["name"] for container in self.agent.api("GET", "/mooring/v1/containers"))

    def die_at(self, point: str) -> None:
        """Have the agent kill itself when it gets there."""
        self._point.write_text(point)

    def says(self, where: Namespace | None = None, address: str = HOST_OUTER, port: int = PORT) -> str:
        """Who answers a request, from outside unless told otherwise."""
        with (where or self.outside).connect(address, port) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        return answer.rpartition(b"\r\n\r\n")[2].decode().strip()

    def until_served(self, name: str, port: int = PORT) -> None:
        """Wait until a server answers that has just been started, with its echo server if it has one."""

        def served() -> bool:
            try:
                if port == PORT:
                    self.outside.connect(HOST_OUTER, 8081).close()
                return self.says(port=port) == name
            except OSError:
                return False

        eventually(served, what=f"{name} answers")


class Load:
    """wrk at full rate against the published port, from outside."""

    def __init__(self, where: Namespace, seconds: int = 60, port: int = PORT) -> None:
        self._process = subprocess.Popen(
            [
                *("nsenter", f"--net={where.path}", "wrk", "--threads", "1", "--connections", "16"),
                *("--duration", f"{seconds}s", "--timeout", f"{round(5 * PATIENCE)}s"),
                f"http://{HOST_OUTER}:{port}/",
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def finish(self) -> tuple[int, list[str]]:
        """Stop; how many requests were answered, and what went wrong."""
        self._process.send_signal(signal.SIGINT)
        said, _ = self._process.communicate(timeout=_PROGRAM_TIMEOUT)
        count = re.search(r"(\d+) requests in", said)
        assert count is not None, said
        return int(count[1]), re.findall(r"Socket errors.*|Non-2xx.*", said)


class Asker:
    """Asks without a pause, one request after the other, and keeps what was answered and what failed."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.answers: list[str] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> list[str]:
        """Stop, and return the answers; none may have failed."""
        self._stop.set()
        self._thread.join(_PROGRAM_TIMEOUT)
        assert not self._thread.is_alive()
        assert self.failures == []
        return self.answers

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.answers.append(self._world.says())
            except OSError as error:
                self.failures.append(f"{error} after {len(self.answers)} answers")
