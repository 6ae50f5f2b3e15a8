# SPDX-License-Identifier: Apache-2.0
"""What passes between the HTTP connection and the calls: a request in, one of three kinds of reply out.

A call answers with a `Response` (whole), a `Stream` (headers at once, the body as it comes) or a `Hijack`
(the connection stops speaking HTTP and carries raw bytes both ways).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

from ..errors import InvalidSpec, MooringError
from .access.peers import Peer
from .jsontext import parsed
from .query import Query

# A JSON document of this API is small; what is large (an image) is streamed and never held whole.
MAX_JSON_BYTES = 8 << 20

JSON = "application/json"
NDJSON = "application/x-ndjson"
RAW_STREAM = "application/vnd.docker.raw-stream"
MULTIPLEXED_STREAM = "application/vnd.docker.multiplexed-stream"

HeaderList = list[tuple[str, str]]


class PayloadTooLarge(MooringError):
    """The request's body is larger than this call takes."""

    status = 413
    code = "too_large"


class ClientDisconnected(ConnectionError):
    """The client went away: there is nobody to answer."""


class BodySource(Protocol):
    """Where the bytes of a request's body come from; implemented by the connection."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class RawStream(Protocol):
    """The raw bytes of a hijacked connection; implemented by the connection."""

    @property
    def left(self) -> asyncio.Future[None]:
        """Done once the client has gone for good. What it had sent can be read even then."""
        ...

    async def read(self) -> bytes:
        """The next bytes from the client, b"" when it will send no more."""
        ...

    async def write(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow. Raises ClientDisconnected."""
        ...


@dataclass(slots=True)
class Request:
    """One HTTP request. `path` is as it was sent (percent-encoded), `params` are decoded.

    `abandon`: cancel the call when the client goes away. `peer` is who asks; with `looks_only` they may read
    and do nothing else.
    """

    method: str
    path: str
    query: Query
    headers: dict[str, str]
    source: BodySource
    params: dict[str, str] = field(default_factory=dict)
    version: tuple[int, int] | None = None
    declared_length: int | None = None
    abandon: bool = False
    peer: Peer | None = None
    looks_only: bool = False

    @property
    def body(self) -> AsyncIterator[bytes]:
        """The body, piece by piece, as it arrives. Raises ClientDisconnected if it ends too early."""
        return self.source.__aiter__()

    async def read(self, limit: int = MAX_JSON_BYTES) -> bytes:
        """The whole body, of at most `limit` bytes. Raises PayloadTooLarge."""
        pieces: list[bytes] = []
        size = self.declared_length or 0
        if size <= limit:
            size = 0
            async for piece in self.source:
                size += len(piece)
                if size > limit:
                    break
                pieces.append(piece)
        if size > limit:
            raise PayloadTooLarge(
                f"the body of {self.method} {self.path} is larger than {limit} bytes; send less"
            )
        return b"".join(pieces)

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object; an absent body is {}. Raises InvalidSpec, PayloadTooLarge."""
        text = await self.read()
        if not text.strip():
            return {}
        try:
            value = parsed(text)
        except ValueError as error:
            raise InvalidSpec(
                f"the body of {self.method} {self.path} is not JSON ({error}); send a JSON object"
            ) from None
        if not isinstance(value, dict):
            raise InvalidSpec(
                f"the body of {self.method} {self.path} is a JSON {_json_type(value)}: expected a JSON object"
            )
        return value

    async def keep(self, limit: int = MAX_JSON_BYTES) -> None:
        """Read the whole body now; it can then be read again and again. Raises PayloadTooLarge."""
        self.source = _Kept(await self.read(limit))

    def put(self, document: dict[str, Any]) -> None:
        """Have this JSON object as the body, in the place of what was sent and has been read."""
        self.declared_length, self.source = None, _Kept(encode(document))

    def is_before(self, version: tuple[int, int]) -> bool:
        """Whether the client speaks an older version of Docker's API; one that names none has the newest."""
        return self.version is not None and self.version < version

    def accepts(self, media_type: str) -> bool:
        """Whether the client named this media type in its Accept header."""
        return any(
            part.split(";")[0].strip() == media_type for part in self.headers.get("accept", "").split(",")
        )


class _Kept:
    """A body that is there as a whole."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data


@dataclass(slots=True)
class Response:
    """A whole answer."""

    status: int = 200
    body: bytes = b""
    content_type: str | None = None
    headers: HeaderList = field(default_factory=list)


@dataclass(slots=True)
class Stream:
    """An answer whose headers go out at once, and whose body is sent piece by piece as it is made."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    status: int = 200
    headers: HeaderList = field(default_factory=list)


@dataclass(slots=True)
class Hijack:
    """The connection becomes a raw stream: `101 UPGRADED` if the client asked to upgrade, else `200 OK`.

    `serve` owns the stream until it returns, which it does soon after the client has left; then the
    connection is closed after all that was written.
    `unserved` is called in its place if the client has gone by then, for what was made for it.
    """

    serve: Callable[[RawStream], Awaitable[None]]
    content_type: str | None = RAW_STREAM
    protocol: str = "tcp"
    headers: HeaderList = field(default_factory=list)
    unserved: Callable[[], None] | None = None


Reply = Response | Stream | Hijack


def encode(value: object) -> bytes:
    """One line of JSON. Plain ASCII, so that arguments that are no UTF-8 cannot break it."""
    return json.dumps(value, separators=(",", ":")).encode("ascii") + b"\n"


def json_response(value: object, status: int = 200, headers: HeaderList | None = None) -> Response:
    """A whole JSON answer."""
    return Response(status, encode(value), JSON, headers or [])


def no_content() -> Response:
    """204: done, nothing to say."""
    return Response(204)


def decoded(segment: str) -> str:
    """A path segment with its percent escapes resolved. Raises InvalidSpec if they are no UTF-8."""
    if "%" not in segment:
        return segment
    try:
        return unquote(segment, errors="strict")
    except UnicodeDecodeError:
        raise InvalidSpec(
            f"the path part {segment!r} is not UTF-8 when its percent escapes are resolved"
        ) from None


def _json_type(value: object) -> str:
    if value is None:
        return "null"
    return {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}[type(value)]
