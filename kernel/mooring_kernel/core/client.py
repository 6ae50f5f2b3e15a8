# SPDX-License-Identifier: Apache-2.0
"""The Mooring API of one agent, as far as a notebook needs it: typed calls over a transport."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from . import http
from .errors import ApiError, HostUnreachable
from .http import Deadline, Stream
from .transport import Transport

CALL_TIMEOUT = 15.0  # seconds, for calls that only look something up
_PREFIX = "/mooring/v1"
SHELL_PROTOCOL = "mooring-stream"


@dataclass(frozen=True)
class Container:
    """A container as the agent shows it; `view` is everything that it said (ContainerView)."""

    name: str
    image: str
    state: str
    exit_code: int | None
    started_at: str | None
    ports: tuple[str, ...]
    networks: Mapping[str, str]
    view: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, view: Mapping[str, Any]) -> Container:
        """Read a ContainerView."""
        return cls(
            name=str(view["name"]),
            image=str(view.get("image", "")),
            state=str(view.get("state", "")),
            exit_code=view.get("exit_code"),
            started_at=view.get("started_at"),
            ports=tuple(_port(port) for port in view.get("ports") or ()),
            networks={
                name: str(each.get("ipv4_address") or each.get("ipv6_address") or "")
                for name, each in (view.get("networks") or {}).items()
            },
            view=view,
        )


def _port(port: Mapping[str, Any]) -> str:
    address = port.get("host_ip") or ""
    host = f"{address}:{port['host']}" if address not in ("", "0.0.0.0") else str(port["host"])
    protocol = port.get("protocol") or "tcp"
    return f"{host}→{port['container']}" + ("" if protocol == "tcp" else f"/{protocol}")


@dataclass(frozen=True)
class Image:
    """An image as the agent shows it (ImageView)."""

    id: str
    references: tuple[str, ...]
    size: int
    created_at: str | None
    layers: int
    platform: str
    view: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, view: Mapping[str, Any]) -> Image:
        """Read an ImageView."""
        return cls(
            id=str(view["id"]),
            references=tuple(view.get("references") or ()),
            size=int(view.get("size") or 0),
            created_at=view.get("created_at"),
            layers=len(view.get("layers") or ()),
            platform=f"{view.get('os', 'linux')}/{view.get('architecture', '?')}",
            view=view,
        )


@dataclass(frozen=True)
class Host:
    """What an agent says about its host."""

    name: str
    version: str
    kernel: str
    cpus: int
    memory: int
    running: int
    containers: int
    images: int
    view: Mapping[str, Any] = field(repr=False)

    @classmethod
    def of(cls, view: Mapping[str, Any]) -> Host:
        """Read the answer of `GET /mooring/v1/host`."""
        containers = view.get("containers") or {}
        return cls(
            name=str(view.get("name", "")),
            version=str(view.get("version", "")),
            kernel=str(view.get("kernel", "")),
            cpus=int(view.get("cpus") or 0),
            memory=int(view.get("memory") or 0),
            running=int(containers.get("running") or 0),
            containers=int(containers.get("total") or 0),
            images=int(view.get("images") or 0),
            view=view,
        )


@dataclass(frozen=True)
class ExecResult:
    """What a captured command has given."""

    exit_code: int
    stdout: str
    stderr: str
    truncated: bool
    timed_out: bool


@dataclass(frozen=True)
class ExecState:
    """Whether the process of an exec still runs, and how it ended."""

    running: bool
    exit_code: int | None


@dataclass(frozen=True)
class Foreground:
    """What has the terminal of a shell now. `is_shell`: the shell itself, not a program it has started."""

    command: str
    is_shell: bool
    waiting_for_input: bool
    echo: bool
    canonical: bool

    @property
    def label(self) -> str:
        """What to call it in a message."""
        return (
            f"a builtin of the shell `{self.command}`, such as `read`,"
            if self.is_shell
            else f"`{self.command}`"
        )


@dataclass(frozen=True)
class LogLine:
    """A line of a container's log; `time` is RFC 3339."""

    time: str
    stream: str
    data: str


class Client:
    """Calls of one agent. Safe to use from several threads; each call has a stream of its own.

    Every call raises HostUnreachable if the agent does not answer in time, and ApiError if it refuses.
    """

    def __init__(self, host: str, transport: Transport) -> None:
        self.host = host
        self.transport = transport

    def close(self) -> None:
        """Give up the connection to the host."""
        self.transport.close()

    def get_host(self, *, timeout: float = CALL_TIMEOUT) -> Host:
        """Return what the agent says about its host."""
        return Host.of(self._json("GET", "/host", timeout=timeout))

    def containers(self, *, timeout: float = CALL_TIMEOUT) -> list[Container]:
        """Return all containers of the host."""
        return [Container.of(view) for view in self._json("GET", "/containers", timeout=timeout)]

    def container(self, name: str, *, timeout: float = CALL_TIMEOUT) -> Container:
        """Return one container."""
        return Container.of(self._json("GET", f"/containers/{quote(name, safe='')}", timeout=timeout))

    def images(self, *, timeout: float = CALL_TIMEOUT) -> list[Image]:
        """Return all images of the host."""
        return [Image.of(view) for view in self._json("GET", "/images", timeout=timeout)]

    def logs(self, container: str, tail: int, *, timeout: float = CALL_TIMEOUT) -> list[LogLine]:
        """Return the last `tail` lines of a container's log."""
        query = urlencode({"tail": tail, "timestamps": "true"})
        target = f"/containers/{quote(container, safe='')}/logs?{query}"
        response = self._request("GET", target, None, timeout, accept="application/x-ndjson")
        lines = [self._parsed(line) for line in response.body.splitlines() if line.strip()]
        return [
            LogLine(str(each.get("time", "")), str(each.get("stream", "")), str(each.get("data", "")))
            for each in lines
        ]

    def exec(
        self,
        container: str,
        argv: Sequence[str],
        *,
        workdir: str | None = None,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
        timeout: float = 5.0,
        max_output: int = 1 << 20,
    ) -> ExecResult:
        """Run a command in a container to its end, at most `timeout` seconds, and return what it gave."""
        body: dict[str, Any] = {"argv": list(argv), "timeout": timeout, "max_output": max_output}
        body |= _given(workdir=workdir, user=user, env=dict(env) if env else None, stdin=stdin)
        answer = self._json(
            "POST", f"/containers/{quote(container, safe='')}/exec", body, timeout=timeout + 5.0
        )
        exit_code = answer.get("exit_code")
        return ExecResult(
            exit_code=-1 if exit_code is None else int(exit_code),
            stdout=str(answer.get("stdout") or ""),
            stderr=str(answer.get("stderr") or ""),
            truncated=bool(answer.get("truncated")),
            timed_out=bool(answer.get("timed_out")),
        )

    def shell(
        self,
        container: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        rows: int,
        cols: int,
        user: str | None = None,
        workdir: str | None = None,
        timeout: float = CALL_TIMEOUT,
    ) -> tuple[str, Stream, bytes]:
        """Start a command on a pty; return the exec's id, its stream and what has come of it already."""
        body: dict[str, Any] = {"argv": list(argv), "env": dict(env), "rows": rows, "cols": cols}
        body |= _given(user=user, workdir=workdir)
        target = f"{_PREFIX}/containers/{quote(container, safe='')}/shell"
        deadline = Deadline(timeout)
        stream = self._open(deadline)
        try:
            response, first = http.upgrade(
                stream, target, json.dumps(body).encode(), SHELL_PROTOCOL, {}, deadline
            )
            if response.status != 101:
                self._raise_refusal("POST", target, response)
                raise self._unreachable(f"its agent answered {response.status} instead of opening a shell")
            exec_id = response.headers.get("mooring-exec-id")
            if not exec_id:
                raise self._unreachable("its agent opened a shell and did not say which (no Mooring-Exec-Id)")
            stream.settimeout(None)
        except (http.BadAnswer, OSError) as error:
            stream.close()
            raise self._unreachable(_reason(error, timeout)) from None
        except BaseException:
            stream.close()
            raise
        return exec_id, stream, first

    def exec_state(self, exec_id: str, *, timeout: float = CALL_TIMEOUT) -> ExecState:
        """Return whether an exec runs and how it ended."""
        answer = self._json("GET", f"/execs/{quote(exec_id, safe='')}", timeout=timeout)
        return ExecState(bool(answer.get("running")), answer.get("exit_code"))

    def foreground(self, exec_id: str, *, timeout: float = CALL_TIMEOUT) -> Foreground:
        """Return what has the terminal of an exec."""
        answer = self._json("GET", f"/execs/{quote(exec_id, safe='')}/foreground", timeout=timeout)
        return Foreground(
            command=str(answer.get("command") or ""),
            is_shell=bool(answer.get("is_shell")),
            waiting_for_input=bool(answer.get("waiting_for_input")),
            echo=bool(answer.get("echo")),
            canonical=bool(answer.get("canonical")),
        )

    def signal(
        self, exec_id: str, signal: str, target: str = "foreground", *, timeout: float = CALL_TIMEOUT
    ) -> None:
        """Send INT, TERM or KILL to an exec's `foreground` group or to its `leader`."""
        self._json(
            "POST",
            f"/execs/{quote(exec_id, safe='')}/signal",
            {"signal": signal, "target": target},
            timeout=timeout,
        )

    # --- the way there and back

    def _json(self, method: str, path: str, body: Any = None, *, timeout: float) -> Any:
        return self._parsed(self._request(method, path, body, timeout).body or b"null")

    def _request(
        self, method: str, path: str, body: Any, timeout: float, accept: str = "application/json"
    ) -> http.Response:
        target = _PREFIX + path
        data = None if body is None else json.dumps(body).encode()
        deadline = Deadline(timeout)
        stream = self._open(deadline)
        try:
            response = http.request(stream, method, target, data, {"Accept": accept}, deadline)
        except (http.BadAnswer, OSError) as error:
            raise self._unreachable(_reason(error, timeout)) from None
        except HostUnreachable as error:
            raise self._unreachable(error.message) from None
        finally:
            stream.close()
        self._raise_refusal(method, target, response)
        return response

    def _open(self, deadline: Deadline) -> Stream:
        try:
            return self.transport.open(deadline)
        except HostUnreachable as error:
            raise self._unreachable(error.message) from None
        except TimeoutError as error:
            raise self._unreachable(_reason(error, deadline.seconds)) from None

    def _raise_refusal(self, method: str, target: str, response: http.Response) -> None:
        if response.status < 400:
            return
        try:
            answer = json.loads(response.body)
            message, code = str(answer["message"]), str(answer.get("code", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            said = response.body[:200].decode(errors="replace").strip()
            message, code = f"{method} {target} was answered with {response.status} {said}".rstrip(), ""
        raise ApiError(f"{self.host}: {message}", status=response.status, code=code)

    def _parsed(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            raise self._unreachable(f"its agent's answer is not JSON: {data[:80]!r}") from None

    def _unreachable(self, reason: str) -> HostUnreachable:
        return HostUnreachable(f"host {self.host}: {reason}")


def _given(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _reason(error: Exception, timeout: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {timeout:g} s"
    if isinstance(error, http.BadAnswer):
        return f"its agent's answer cannot be read: {error}"
    return f"the connection to its agent broke: {getattr(error, 'strerror', None) or error}"
