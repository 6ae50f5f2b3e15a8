# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP client over a unix socket, made of the standard library alone.

It shares no code with the agent, so that a mistake in the agent's own HTTP is not made twice.
"""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.waiting import PATIENCE

DEFAULT_TIMEOUT = 30.0 * PATIENCE  # seconds, for each wait on the socket


class ApiError(Exception):
    """The agent answered with a status of 400 or more."""

    def __init__(self, method: str, path: str, response: Response) -> None:
        self.status = response.status
        self.response = response
        try:
            answer = response.json()
        except ValueError:
            answer = None
        answer = answer if isinstance(answer, dict) else {}
        self.code: str | None = answer.get("code")
        self.message: str = answer.get("message", response.body.decode(errors="replace"))
        super().__init__(f"{method} {path}: {self.status} {self.code or ''} {self.message}")


@dataclass(frozen=True)
class Response:
    """A whole answer; the names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON data, None for an empty one. Raises ValueError."""
        return json.loads(self.body) if self.body else None

    def lines(self) -> list[Any]:
        """Return the values of a body of one JSON value a line."""
        return [json.loads(line) for line in self.body.splitlines() if line]


class UnixConnection(http.client.HTTPConnection):
    """An http.client connection to a unix socket."""

    def __init__(self, path: Path, timeout: float = DEFAULT_TIMEOUT) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket; called by http.client."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.sock.close()
            raise


def _encoded(body: object, headers: Mapping[str, str] | None) -> tuple[Any, dict[str, str]]:
    """Return what http.client sends: JSON for data, bytes and files as they are."""
    sent = dict(headers or {})
    if isinstance(body, (dict, list)):
        sent.setdefault("Content-Type", "application/json")
        return json.dumps(body).encode(), sent
    return body, sent


def request(
    path: Path,
    method: str,
    target: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Response:
    """Send one request and read the whole answer, whatever its status.

    A `body` of dict or list is sent as JSON; bytes, a file or an iterable of bytes as they are.
    """
    data, sent = _encoded(body, headers)
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target, data, sent, encode_chunked=_is_stream(data))
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        return Response(answer.status, found, answer.read())
    finally:
        connection.close()


def stream(
    path: Path,
    method: str,
    target: str,
    body: object = None,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = DEFAULT_TIMEOUT,
) -> Iterator[Any]:
    """Yield the JSON values of an answer of one value a line, each as soon as it comes. Raises ApiError."""
    data, sent = _encoded(body, headers)
    connection = UnixConnection(path, timeout)
    try:
        connection.request(method, target, data, sent, encode_chunked=_is_stream(data))
        answer = connection.getresponse()
        if answer.status >= 400:
            found = {name.lower(): value for name, value in answer.getheaders()}
            raise ApiError(method, target, Response(answer.status, found, answer.read()))
        while line := answer.readline():
            if line.strip():
                yield json.loads(line)
    finally:
        connection.close()


def _is_stream(data: object) -> bool:
    return data is not None and not isinstance(data, (bytes, str))
