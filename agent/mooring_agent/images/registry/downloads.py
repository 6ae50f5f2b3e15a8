# SPDX-License-Identifier: Apache-2.0
"""Reading a blob: taken up where it broke off (range requests, RFC 9110, 14), of the size it should have."""

from __future__ import annotations

import re
import time
from collections.abc import Generator

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.content import Descriptor
from mooring_agent.images.registry.connections import Broken, Response
from mooring_agent.images.registry.session import Session

_PROGRESS = 1 << 20  # bytes after which a broken connection counts as the first again
_WINDOW = 60.0  # seconds in which at least so many bytes have to come:
_WINDOW_BYTES = 16 << 10
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


def read_blob(
    session: Session, url: str, descriptor: Descriptor, offset: int, what: str, scopes: frozenset[str]
) -> Generator[bytes, None, None]:
    """Yield a blob's bytes from `offset` on; exactly as many as the descriptor says, or an error.

    Connections that break, stall or end early are replaced, as often as the session's policy allows without
    progress. Raises Unavailable after that, InvalidSpec when the registry has another size of it.
    """
    retrying, mark = session.retrying(), offset
    while offset < descriptor.size:
        try:
            for data in _read_once(session, url, descriptor, offset, what, scopes):
                offset += len(data)
                yield data
        except Broken as broken:
            if offset - mark >= _PROGRESS:
                retrying, mark = session.retrying(), offset
            if not retrying.again():
                raise session.failed(
                    f"{what} (at byte {offset} of {descriptor.size})", broken, retrying.attempts
                ) from broken


def _read_once(
    session: Session, url: str, descriptor: Descriptor, offset: int, what: str, scopes: frozenset[str]
) -> Generator[bytes, None, None]:
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    # Compressed a second time on its way it would not be what its digest says.
    headers["Accept-Encoding"] = "identity"
    expect = (200, 206) if offset else (200,)
    with session.request("GET", url, what, scopes=scopes, headers=headers, expect=expect) as response:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding.lower() != "identity":
            raise InvalidSpec(
                f"{what}: {session.where} sends it encoded as {encoding[:40]!r}, which was "
                "not asked for: take that out of the proxy ahead of it"
            )
        skip = _skip(session, response, descriptor, offset, what)
        left = descriptor.size - offset
        if response.length is not None and response.length != skip + left:
            raise _wrong_size(session, descriptor, offset - skip + response.length, what)
        began, came = time.monotonic(), 0
        while left:
            data = response.read()
            if not data:
                raise Broken(f"the connection ended {left} bytes too early")
            came += len(data)
            now = time.monotonic()
            if now - began > _WINDOW:
                if came < _WINDOW_BYTES:
                    raise Broken(f"only {came} bytes came within {_WINDOW:g} s")
                began, came = now, 0
            if skip:
                dropped = min(skip, len(data))
                skip -= dropped
                data = data[dropped:]
            if len(data) > left:
                raise _wrong_size(session, descriptor, None, what)
            left -= len(data)
            if data:
                yield data
        # The end is read too, so that the connection can be used again; more than the blob is an error.
        if response.read():
            raise _wrong_size(session, descriptor, None, what)


def _skip(session: Session, response: Response, descriptor: Descriptor, offset: int, what: str) -> int:
    """Bytes ahead of `offset` in the answer: all of them from a server that does not know ranges."""
    if response.status == 200:
        return offset
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    if found is None or int(found[1]) != offset:
        raise Broken("it answered with another range than the one asked for")
    if found[3] != "*" and int(found[3]) != descriptor.size:
        raise _wrong_size(session, descriptor, int(found[3]), what)
    return 0


def _wrong_size(session: Session, descriptor: Descriptor, size: int | None, what: str) -> InvalidSpec:
    has = f"{size} bytes" if size is not None else f"more than {descriptor.size} bytes"
    return InvalidSpec(
        f"{what}: {session.where} has {has} of it, expected {descriptor.size}: what it has is damaged, or is "
        "not what the manifest names; push the image again"
    )
