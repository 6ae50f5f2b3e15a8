# SPDX-License-Identifier: Apache-2.0
"""The command line's HTTP client: one agent, behind a unix socket."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from ..config import DEFAULT_RUN_ROOT
from ..errors import MooringError, Unavailable

SOCKET_VARIABLE = "MOORING_SOCKET"
DEFAULT_SOCKET = DEFAULT_RUN_ROOT / "mooring.sock"
# The version of the Docker Engine API that is spoken where the Mooring API has no call.
DOCKER = "/v1.47"
FLEET = "/mooring/v1"

Parameters = Mapping[str, object]


class ApiFailure(MooringError):
    """The agent refused; the message is its own."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message, code=code or None)
        self.status = status


def segment(text: str, *, slashes: bool = False) -> str:
    """A name as one part of a path; with `slashes`, as in image references, it may be several."""
    return quote(text, safe=":@/" if slashes else ":")


class Client:
    """Calls of one agent's APIs. Every failure is a MooringError with a message for the user."""

    def __init__(self, path: Path | str | None = None) -> None:
        """Without `path` the environment decides, and else the agent's default."""
        self.path = Path(path or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET)

    def connect(self) -> socket.socket:
        """A fresh connection. Raises Unavailable."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(self.path))
        except OSError as error:
            connection.close()
            raise Unavailable(
                f"no agent answers on {self.path} ({error.strerror or error}); "
                f"start one with 'mooring agent', or name its socket with --socket or {SOCKET_VARIABLE}"
            ) from None
        return connection

    def call(self, method: str, path: str, body: object = None, query: Parameters | None = None) -> Any:
        """One call; returns the answer's JSON, None if it has none."""
        answer = self._request(method, path, body, query)
        with answer:
            content = answer.read()
        if answer.headers.get_content_type() in ("application/json", "application/x-ndjson"):
            return json.loads(content) if content.strip() else None
        return content.decode("utf-8", "replace") or None

    def lines(
        self, method: str, path: str, body: object = None, query: Parameters | None = None
    ) -> Iterator[Any]:
        """The JSON values of a streamed answer, one a line, as they come."""
        answer = self._request(method, path, body, query, {"Accept": "application/x-ndjson"})
        with answer:
            while line := _survive(answer.readline):
                if line.strip():
                    yield json.loads(line)

    def outcome(
        self,
        method: str,
        path: str,
        body: object,
        query: Parameters | None,
        tell: Callable[[Mapping[str, Any]], object],
    ) -> dict[str, Any]:
        """The outcome of a call that tells on its way how far it is, by {step, current, total, detail}.

        Raises MooringError with the agent's message when it fails.
        """
        outcome: dict[str, Any] | None = None
        for message in self.lines(method, path, body, query):
            if "error" in message:
                raise MooringError(str(message["error"]["message"]))
            if "progress" in message:
                tell(message["progress"])
            else:
                outcome = message["outcome"]
        if outcome is None:
            raise MooringError(f"the agent ended its answer to {path} without an outcome; see its log")
        return outcome

    def stream(
        self, method: str, path: str, query: Parameters | None = None, body: object = None
    ) -> http.client.HTTPResponse:
        """A streamed answer as bytes; its headers are here already."""
        return self._request(method, path, body, query)

    def take_over(
        self, method: str, path: str, body: object = None, query: Parameters | None = None
    ) -> tuple[socket.socket, bytes, http.client.HTTPResponse]:
        """Upgrade a connection: its socket, the bytes that came along with the answer, and that answer."""
        connection = _Connection(self)
        answer = self._request(
            method, path, body, query, {"Connection": "Upgrade", "Upgrade": "tcp"}, connection=connection
        )
        raw = connection.sock
        raw.setblocking(False)
        early = answer.fp.peek()
        raw.setblocking(True)
        return raw, early, answer

    def _request(
        self,
        method: str,
        path: str,
        body: object,
        query: Parameters | None,
        headers: Mapping[str, str] | None = None,
        connection: _Connection | None = None,
    ) -> http.client.HTTPResponse:
        connection = connection or _Connection(self)
        sent = dict(headers or {})
        data: Any = body
        if isinstance(body, (dict, list)):
            data = json.dumps(body).encode()
            sent["Content-Type"] = "application/json"
        target = f"{path}?{_encoded(query)}" if query else path
        streamed = data is not None and not isinstance(data, bytes)
        try:
            connection.request(method, target, data, sent, encode_chunked=streamed)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            reason = str(error) or type(error).__name__
            raise Unavailable(f"the agent on {self.path} did not answer ({reason})") from None
        if answer.status >= 400:
            raise _failure(answer)
        return answer


class _Connection(http.client.HTTPConnection):
    """An http.client connection over the unix socket."""

    def __init__(self, client: Client) -> None:
        super().__init__("mooring")
        self._client = client

    def connect(self) -> None:
        """Called by http.client."""
        self.sock = self._client.connect()


def _encoded(query: Parameters) -> str:
    pairs: list[tuple[str, object]] = []
    for name, value in query.items():
        for item in value if isinstance(value, list | tuple) else (value,):
            if item is not None and item is not False:
                pairs.append((name, "true" if item is True else item))
    return urlencode(pairs)


def _failure(answer: http.client.HTTPResponse) -> ApiFailure:
    content = answer.read()
    try:
        document = json.loads(content)
        return ApiFailure(answer.status, str(document["message"]), str(document.get("code", "")))
    except (ValueError, KeyError, TypeError):
        text = content.decode("utf-8", "replace").strip()
        return ApiFailure(answer.status, f"the agent answered {answer.status} {answer.reason}: {text[:200]}")


def _survive(read: Any) -> bytes:
    """Read on; a cut connection is an error with a message."""
    try:
        return bytes(read())
    except (OSError, http.client.HTTPException):
        raise Unavailable("the agent ended the connection; see its log") from None
