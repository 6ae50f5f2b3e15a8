# SPDX-License-Identifier: Apache-2.0
"""The few calls of the Docker Engine API that a measurement makes, alike for every engine that speaks it."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

_PATIENCE = 120.0  # seconds, for each wait on the socket


class EngineFailed(Exception):
    """An engine answered with an error."""


class _Connection:
    """As little of HTTP/1.1 as both engines speak: what the client takes is part of every sample."""

    def __init__(self, path: Path) -> None:
        self.over = False  # the engine has closed it after its last answer
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(_PATIENCE)
        self.socket.connect(str(path))
        self._file = self.socket.makefile("rb")

    def ask(self, method: str, target: str, content: bytes, headers: str) -> tuple[int, bytes]:
        """Send a request; status and body of the answer. Raises EngineFailed when there is none."""
        self.send(method, target, content, headers)
        status, head = self._head()
        self.over = head.get(b"connection", b"").lower() == b"close"
        length = head.get(b"content-length")
        if length is not None:
            return status, self._file.read(int(length))
        if head.get(b"transfer-encoding") != b"chunked":
            return status, b""
        body = b""
        while size := int(self._file.readline(), 16):
            body += self._file.read(size)
            self._file.readline()
        self._file.readline()
        return status, body

    def send(self, method: str, target: str, content: bytes, headers: str) -> None:
        """Send a request whose answer is somebody else's to read."""
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: engine\r\n{headers}Content-Length: {len(content)}\r\n\r\n"
        )
        self.socket.sendall(head.encode() + content)

    def read_to_end(self) -> None:
        """Read until the engine closes."""
        while self._file.read1(1 << 16):
            pass

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self.socket.close()

    def _head(self) -> tuple[int, dict[bytes, bytes]]:
        first = self._file.readline()
        if not first:
            raise EngineFailed("the engine closed the connection without an answer")
        head = {}
        while (line := self._file.readline()) not in (b"\r\n", b""):
            name, _, value = line.partition(b":")
            head[name.lower()] = value.strip()
        return int(first.split()[1]), head


class EngineApi:
    """One keep-alive connection to an engine; not for several threads."""

    def __init__(self, path: Path, version: str = "v1.41") -> None:
        self._path = path
        self._prefix = f"/{version}"
        self._connection = _Connection(path)

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """Send a request; the JSON of its answer, None for an empty one. Raises EngineFailed."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        kind = "application/x-tar" if raw is not None else "application/json"
        if self._connection.over:
            self._connection.close()
            self._connection = _Connection(self._path)
        status, data = self._connection.ask(method, self._prefix + path, content, f"Content-Type: {kind}\r\n")
        if status >= 400:
            raise EngineFailed(f"{method} {path}: {status} {data.decode(errors='replace')}")
        try:
            return json.loads(data)
        except ValueError:
            return None

    def import_image(self, archive: Path, repository: str) -> None:
        """Make an image of a root file system."""
        self.call("POST", f"/images/create?fromSrc=-&repo={repository}&tag=latest", raw=archive.read_bytes())

    def create(self, name: str, image: str, command: list[str], network: str) -> str:
        """Create a container; its id."""
        body = {"Image": image, "Cmd": command, "HostConfig": {"NetworkMode": network}, "StopTimeout": 0}
        identifier: str = self.call("POST", f"/containers/create?name={name}", body)["Id"]
        return identifier

    def start(self, identifier: str) -> None:
        """Start a container."""
        self.call("POST", f"/containers/{identifier}/start")

    def remove(self, identifier: str) -> None:
        """Remove a container, running or not."""
        self.call("DELETE", f"/containers/{identifier}?force=true")

    def execute(self, identifier: str, command: list[str]) -> None:
        """Run a command in a container to its end, its output attached as `docker exec` does.

        Raises EngineFailed.
        """
        body = {"AttachStdout": True, "AttachStderr": True, "Cmd": command}
        process = self.call("POST", f"/containers/{identifier}/exec", body)["Id"]
        # The stream takes the connection over, so this one call has one of its own, as the client does it.
        stream = _Connection(self._path)
        stream.send(
            "POST",
            f"{self._prefix}/exec/{process}/start",
            b'{"Detach": false, "Tty": false}',
            "Content-Type: application/json\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n",
        )
        stream.read_to_end()
        stream.close()
        code = self.call("GET", f"/exec/{process}/json")["ExitCode"]
        if code != 0:
            raise EngineFailed(f"exec of {command} ended with {code}")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()
