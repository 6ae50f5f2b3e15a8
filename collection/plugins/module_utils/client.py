# SPDX-License-Identifier: GPL-3.0-or-later
"""A client of the Mooring API over a unix socket. Standard library only: it runs on the hosts, too."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

API = "/mooring/v1"
CONNECT_TIMEOUT = 10.0
JSON = "application/json"
NDJSON = "application/x-ndjson"


class AgentError(Exception):
    """What the agent, or the way to it, has to say: a sentence and a stable code."""

    def __init__(self, message: str, code: str, status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status


class AgentUnreachable(AgentError):
    """No agent answered; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(message, "unavailable")


class _SocketConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("mooring")
        self.path = path
        self.answer_timeout = timeout

    def connect(self) -> None:
        """Connect, and from then on wait for answers rather than for the connection."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self.sock.settimeout(CONNECT_TIMEOUT)
            self.sock.connect(self.path)
            self.sock.settimeout(self.answer_timeout)
        except OSError:
            self.close()
            raise

    def wait(self, seconds: float) -> None:
        """Let answers take so long from now on."""
        if self.sock is not None:
            self.sock.settimeout(seconds)

    def ended(self) -> bool:
        """Return whether the other side has closed a connection on which nothing is under way."""
        if self.sock is None:
            return False
        poll = select.poll()  # select.select knows no descriptor beyond 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class Client:
    """Calls of one agent, over one connection that is kept open.

    `path` is the socket to connect to. `name` is what messages call it, where `path` is only the local end of
    a forwarded one. `timeout` is in seconds and bounds the agent's silence, not the whole of an answer.
    """

    def __init__(self, path: str, timeout: float, name: str | None = None) -> None:
        self.name = name or path
        self.timeout = timeout
        self._connection = _SocketConnection(path, timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        self._connection.close()

    def ping(self) -> None:
        """Raise AgentUnreachable unless an agent answers, soon."""
        self._connection.answer_timeout = CONNECT_TIMEOUT
        try:
            answer = self._exchange("GET", "/_ping", None, JSON)
            answer.read()
        except AgentUnreachable:
            raise
        except AgentError as error:
            raise AgentUnreachable(error.message) from None
        except (OSError, http.client.HTTPException) as error:
            raise AgentUnreachable(self._cut_off(error).message) from None
        finally:
            self._connection.answer_timeout = self.timeout
        if answer.status != 200:
            raise AgentUnreachable(self._stranger(answer.status).message)
        self._connection.wait(self.timeout)

    def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the decoded answer to one call; raises AgentError where the agent answers with an error."""
        answer = self._exchange(method, _target(path, query), body, JSON)
        return self._decoded(answer)

    def follow(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
    ) -> Iterator[Any]:
        """Yield the decoded lines of an answer that tells its progress."""
        answer = self._exchange(method, _target(path, query), body, NDJSON)
        if answer.status >= 400 or NDJSON not in (answer.headers["Content-Type"] or ""):
            yield {"outcome": self._decoded(answer)}
            return
        try:
            for line in answer:
                if line.strip():
                    yield self._parsed(line, answer.status)
            answer.close()  # read to its end, whether or not that was told ahead: the connection serves again
        except TimeoutError:
            raise self._silent() from None
        except (OSError, http.client.HTTPException) as error:
            raise self._cut_off(error) from None

    def _exchange(self, method: str, target: str, body: Any, accept: str) -> http.client.HTTPResponse:
        payload = None if body is None else json.dumps(body).encode()
        headers = {"Accept": accept, **({"Content-Type": JSON} if payload is not None else {})}
        if self._connection.ended():
            self.close()
        if self._connection.sock is None:
            self._open()
        try:
            self._connection.request(method, target, payload, headers)
            return self._connection.getresponse()
        except TimeoutError:
            self.close()
            raise self._silent() from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise self._cut_off(error) from None

    def _open(self) -> None:
        try:
            self._connection.connect()
        except PermissionError:
            raise AgentUnreachable(
                f"the agent's socket {self.name} refuses this user, expected root or a member of the "
                "socket's group; use become: true or log in as such a user"
            ) from None
        except OSError as error:
            raise AgentUnreachable(
                f"no agent answers at {self.name} ({_reason(error)}), expected a running mooring agent; "
                "install and start it with the role mooring.fleet.agent, or name its socket with the "
                "option socket"
            ) from None

    def _decoded(self, answer: http.client.HTTPResponse) -> Any:
        try:
            content = answer.read()
        except TimeoutError:
            raise self._silent() from None
        except (OSError, http.client.HTTPException) as error:
            raise self._cut_off(error) from None
        if not content and answer.status < 400:
            return None
        data = self._parsed(content, answer.status)
        if answer.status < 400:
            return data
        if not isinstance(data, dict) or not isinstance(data.get("message"), str):
            raise self._stranger(answer.status)
        raise AgentError(data["message"], str(data.get("code", "unknown")), answer.status)

    def _parsed(self, content: bytes, status: int) -> Any:
        try:
            return json.loads(content)
        except ValueError:
            raise self._stranger(status) from None

    def _stranger(self, status: int) -> AgentError:
        return AgentError(
            f"what answers at {self.name} (HTTP status {status}, no JSON of the Mooring API) is no "
            "mooring agent; name the agent's socket with the option socket",
            "unavailable",
        )

    def _silent(self) -> AgentError:
        self.close()
        return AgentError(
            f"the agent at {self.name} has been silent for {self.timeout:g} s, expected an answer; what "
            "was asked for may still be going on: look at the agent's log, or give more time with the "
            "option timeout",
            "timeout",
        )

    def _cut_off(self, error: Exception) -> AgentError:
        self.close()
        return AgentError(
            f"the agent at {self.name} ended the connection without an answer ({_reason(error)}), "
            "expected one; what was asked for may have been done: run the task again, and see the "
            "agent's log if that does not help",
            "unavailable",
        )


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return type(error).__name__ if not str(error) else str(error)


def _target(path: str, query: Mapping[str, Any] | None) -> str:
    given = {
        key: _word(value) for key, value in (query or {}).items() if value is not None and value is not False
    }
    return API + path + (f"?{urlencode(given)}" if given else "")


def _word(value: Any) -> str:
    return "true" if value is True else str(value)


def segment(name: str) -> str:
    """Return a resource's name as one segment of a path; an image's reference keeps its slashes."""
    return quote(name, safe=":@")


def reference(name: str) -> str:
    """Return an image's reference as the rest of a path."""
    return quote(name, safe="/:@")
