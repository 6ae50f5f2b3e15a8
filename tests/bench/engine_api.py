# SPDX-License-Identifier: Apache-2.0
"""The few calls of the Docker Engine API that a measurement makes, alike for every engine that speaks it."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any

from harness.unix_http import UnixConnection


class EngineFailed(Exception):
    """An engine answered with an error."""


class EngineApi:
    """One keep-alive connection to an engine; not for several threads."""

    def __init__(self, path: Path, version: str = "v1.41") -> None:
        self._path = path
        self._prefix = f"/{version}"
        self._connection = UnixConnection(path, timeout=120)

    def call(self, method: str, path: str, body: Any = None, *, raw: bytes | None = None) -> Any:
        """Send a request; the JSON of its answer, None for an empty one. Raises EngineFailed."""
        content = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        kind = "application/x-tar" if raw is not None else "application/json"
        self._connection.request(method, self._prefix + path, content, {"Content-Type": kind})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 400:
            raise EngineFailed(f"{method} {path}: {answer.status} {data.decode(errors='replace')}")
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
        stream = UnixConnection(self._path, timeout=120)
        stream.request(
            "POST",
            f"{self._prefix}/exec/{process}/start",
            json.dumps({"Detach": False, "Tty": False}),
            {"Content-Type": "application/json", "Connection": "Upgrade", "Upgrade": "tcp"},
        )
        _read_to_end(stream)
        stream.close()
        code = self.call("GET", f"/exec/{process}/json")["ExitCode"]
        if code != 0:
            raise EngineFailed(f"exec of {command} ended with {code}")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()


def _read_to_end(connection: http.client.HTTPConnection) -> None:
    raw: socket.socket = connection.sock
    while raw.recv(65536):
        pass
