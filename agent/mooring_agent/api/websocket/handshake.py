# SPDX-License-Identifier: Apache-2.0
"""The opening handshake (RFC 6455, 4.2): what a request must say, and what is answered. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
from urllib.parse import urlsplit

from ...errors import Denied, InvalidSpec
from ..messages import HeaderList, Request

VERSION = "13"
PROTOCOL = "websocket"

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
_KEY_BYTES = 16


def accepted(request: Request) -> HeaderList:
    """The headers that agree to a client's handshake. Raises InvalidSpec, Denied.

    A browser tells by `Origin` whose page it acts for (RFC 6455, 10.2), and would use its user's certificate
    for any page: what is not of this address is turned away.
    """
    headers = request.headers
    upgrades = PROTOCOL in _tokens(headers.get("upgrade", ""))
    if request.method != "GET" or not upgrades or "upgrade" not in _tokens(headers.get("connection", "")):
        raise InvalidSpec(
            f"{request.method} {request.path} is for websockets: expected GET with Connection: Upgrade and "
            "Upgrade: websocket; attach without one by POST"
        )
    version = headers.get("sec-websocket-version", "")
    if version != VERSION:
        raise InvalidSpec(f"Sec-WebSocket-Version is {version!r}: expected {VERSION}")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise InvalidSpec(f"Sec-WebSocket-Key is {key!r}: expected 16 bytes in base64")
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise Denied(f"a page of {origin} may not open a websocket to {host}: only one of this address may")
    digest = hashlib.sha1((key + _GUID).encode("ascii"), usedforsecurity=False).digest()
    return [("Sec-WebSocket-Accept", base64.b64encode(digest).decode("ascii"))]


def _tokens(header: str) -> list[str]:
    return [token.strip().lower() for token in header.split(",")]


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text.encode("ascii"), validate=True)) == _KEY_BYTES
    except (binascii.Error, UnicodeEncodeError):
        return False
