# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 (RFC 9112) as a client, over any stream: a unix socket of this machine or a channel through SSH.

The standard library's client reads ahead, and so loses the first bytes of a stream after `101 Switching
Protocols`; and its timeouts are for one read each, while a call of a fleet has one deadline for all of it.
"""

from __future__ import annotations

import http.client
import io
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

_CHUNK = 65536
_MAX_HEAD = 65536
_AGENT = "mooring-kernel"


class Stream(Protocol):
    """What sockets and SSH channels have in common. A read beyond the timeout raises TimeoutError."""

    def sendall(self, data: bytes, /) -> None:
        """Write all of it."""

    def recv(self, size: int, /) -> bytes:
        """Return some bytes, none at the end of the stream."""

    def settimeout(self, timeout: float | None, /) -> None:
        """Set how long `recv` and `sendall` may take; None is for ever."""

    def close(self) -> None:
        """End the stream; a `recv` in another thread comes back."""


class BadAnswer(Exception):
    """What came back is not HTTP, or ended too early. The message tells what it was."""


@dataclass(frozen=True)
class Response:
    """An answer with its whole body. Names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Deadline:
    """A moment until which something must be done; `seconds` from now."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left. Raises TimeoutError if there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no answer within {self.seconds:g} s")
        return left


class Silence:
    """How long another side may say nothing, in seconds, however long the whole takes."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def left(self) -> float:
        """Return all of the seconds: each wait has them anew."""
        return self.seconds


Patience = Deadline | Silence


def request(
    stream: Stream,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
    deadline: Deadline,
) -> Response:
    """Send one request and return the whole answer. Raises BadAnswer, OSError, TimeoutError."""
    _send(stream, method, target, body, {**headers, "Connection": "close"}, deadline)
    reader = _Reader(stream, deadline)
    status, answered = reader.head()
    return Response(status, answered, b"".join(reader.body(status, answered)))


def follow(
    stream: Stream,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
    patience: Patience,
) -> tuple[Response, Iterator[bytes]]:
    """Send one request; return the head of the answer, and its body line by line, as it comes.

    An error (a status from 400 on) comes with its whole body, and without lines.
    Raises BadAnswer, OSError, TimeoutError, and so do the lines.
    """
    _send(stream, method, target, body, {**headers, "Connection": "close"}, patience)
    reader = _Reader(stream, patience)
    status, answered = reader.head()
    if status >= 400:
        return Response(status, answered, b"".join(reader.body(status, answered))), iter(())
    return Response(status, answered, b""), _lines(reader.body(status, answered))


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    pending = b""
    for piece in pieces:
        *whole, pending = (pending + piece).split(b"\n")
        yield from filter(None, whole)
    if pending:
        yield pending


def upgrade(
    stream: Stream, target: str, body: bytes, protocol: str, headers: Mapping[str, str], deadline: Deadline
) -> tuple[Response, bytes]:
    """Ask with POST to go on with another protocol; return the answer and what came right after it.

    If the status is not 101 the answer has its body, and the stream is of no more use.
    Raises BadAnswer, OSError, TimeoutError.
    """
    _send(stream, "POST", target, body, {**headers, "Connection": "Upgrade", "Upgrade": protocol}, deadline)
    reader = _Reader(stream, deadline)
    status, answered = reader.head()
    if status != http.client.SWITCHING_PROTOCOLS:
        return Response(status, answered, b"".join(reader.body(status, answered))), b""
    return Response(status, answered, b""), reader.rest()


def _send(
    stream: Stream,
    method: str,
    target: str,
    body: bytes | None,
    headers: Mapping[str, str],
    deadline: Patience,
) -> None:
    lines = [f"{method} {target} HTTP/1.1", "Host: mooring", f"User-Agent: {_AGENT}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    stream.settimeout(deadline.left())
    stream.sendall(head + (body or b""))


class _Reader:
    """Reads one answer from a stream, no byte further than it must to understand it."""

    def __init__(self, stream: Stream, deadline: Patience) -> None:
        self._stream = stream
        self._deadline = deadline
        self._buffer = b""

    def head(self) -> tuple[int, dict[str, str]]:
        """Read the status line and the headers of the answer (interim answers are passed over)."""
        while True:
            status, headers = self._one_head()
            if status >= 200 or status == http.client.SWITCHING_PROTOCOLS:
                return status, headers

    def _one_head(self) -> tuple[int, dict[str, str]]:
        while b"\r\n\r\n" not in self._buffer:
            if len(self._buffer) > _MAX_HEAD:
                raise BadAnswer(f"its head is longer than {_MAX_HEAD} bytes")
            if not self._more():
                raise BadAnswer(
                    "the connection ended before the answer" if not self._buffer else self._not_http()
                )
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        version, _, rest = line.partition(b" ")
        code = rest.split(b" ", 1)[0]
        if not version.startswith(b"HTTP/1.") or not code.isdigit():
            raise BadAnswer(self._not_http(line))
        message = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        return int(code), {name.lower(): value for name, value in message.items()}

    def body(self, status: int, headers: Mapping[str, str]) -> Iterator[bytes]:
        """Yield the body in pieces (RFC 9112, section 6.3)."""
        if status in (http.client.NO_CONTENT, http.client.NOT_MODIFIED):
            return
        if "chunked" in headers.get("transfer-encoding", "").lower():
            yield from self._chunks()
        elif "content-length" in headers:
            yield self._exactly(int(headers["content-length"]))
        else:
            yield self.rest()
            while piece := self._receive():
                yield piece

    def rest(self) -> bytes:
        """Return what has been read beyond what was asked for."""
        rest, self._buffer = self._buffer, b""
        return rest

    def _chunks(self) -> Iterator[bytes]:
        while True:
            size = self._line().split(b";", 1)[0].strip()
            try:
                length = int(size, 16)
            except ValueError:
                raise BadAnswer(f"a chunk has the size {size!r}") from None
            if length == 0:
                while self._line():
                    pass
                return
            yield self._exactly(length)
            self._line()

    def _line(self) -> bytes:
        while b"\r\n" not in self._buffer:
            if len(self._buffer) > _MAX_HEAD or not self._more():
                raise BadAnswer("it ended in the middle")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        return line

    def _exactly(self, length: int) -> bytes:
        pieces = [self.rest()]
        missing = length - len(pieces[0])
        while missing > 0:
            piece = self._receive()
            if not piece:
                raise BadAnswer("it ended in the middle")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._buffer = data[length:]
        return data[:length]

    def _more(self) -> bool:
        piece = self._receive()
        self._buffer += piece
        return bool(piece)

    def _receive(self) -> bytes:
        self._stream.settimeout(self._deadline.left())
        return self._stream.recv(_CHUNK)

    def _not_http(self, line: bytes | None = None) -> str:
        shown = (self._buffer if line is None else line)[:80].decode(errors="replace")
        return f"it begins with {shown!r}, expected HTTP/1.1"
