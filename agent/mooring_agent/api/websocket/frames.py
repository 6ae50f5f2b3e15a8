# SPDX-License-Identifier: Apache-2.0
"""Frames of websockets (RFC 6455, 5): of a client to what they say, and what we say to frames. Pure.

A message's payload is told as it arrives, whatever frames and pieces it comes in, so nothing of it is held.
Only control frames are, of 125 bytes at most.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

MAX_CONTROL = 125
"""Bytes of a control frame's payload, RFC 6455, 5.5."""

_FIN, _RESERVED, _OPCODE, _MASKED, _LENGTH = 0x80, 0x70, 0x0F, 0x80, 0x7F
_LENGTH_16, _LENGTH_64 = 126, 127
_MASK_BYTES = 4
# Codes that a Close may have, RFC 6455, 7.4, and IANA's registry; the others are for use inside a program.
_CLOSE_CODES = frozenset({1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)})


class Opcode(IntEnum):
    """What a frame is, RFC 6455, 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """Why a connection ends, RFC 6455, 7.4.1."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007


class ProtocolError(Exception):
    """A client has broken the protocol; the connection ends with this code and these words."""

    def __init__(self, reason: str, code: CloseCode = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of a message, or of a part of one."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    """Wants a Pong with the same bytes."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The client says nothing more; `code` is None where it gives none."""

    code: int | None
    reason: str = ""


Event = Data | Ping | Close


class Decoder:
    """Frames of a client, fed piece by piece. After a Close, and after an error, nothing more is read."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._opcode = Opcode.CONTINUATION
        self._left = 0  # bytes of the frame's payload that have not come
        self._in_frame = False
        self._final = True
        self._mask = b""
        self._message: Opcode | None = None  # of the message that has begun
        self._text = codecs.getincrementaldecoder("utf-8")()
        self._over = False

    def feed(self, data: bytes) -> Iterator[Event]:
        """What further bytes say. Raises ProtocolError, after what was right before it."""
        if self._over:
            return
        self._buffer += data
        try:
            while not self._over and (self._in_frame or self._head()):
                event = self._payload()
                if event is None and self._in_frame:
                    return
                if event is not None:
                    self._over = isinstance(event, Close)
                    yield event
        except ProtocolError:
            self._over = True
            raise

    def _head(self) -> bool:
        """Take a frame's head out of the buffer; False while it is not whole."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        first, second = buffer[0], buffer[1]
        if first & _RESERVED:
            raise ProtocolError("a reserved bit is set, and no extension was agreed on")
        try:
            opcode = Opcode(first & _OPCODE)
        except ValueError:
            raise ProtocolError(f"opcode {first & _OPCODE} is reserved") from None
        if not second & _MASKED:
            raise ProtocolError("a client's frame must be masked")
        length, size = second & _LENGTH, 2
        if length >= _LENGTH_16:
            form = ">H" if length == _LENGTH_16 else ">Q"
            if len(buffer) < size + struct.calcsize(form):
                return False
            least = _LENGTH_16 if length == _LENGTH_16 else 1 << 16
            (length,) = struct.unpack_from(form, buffer, size)
            size += struct.calcsize(form)
            if not least <= length < 1 << 63:
                raise ProtocolError(f"length {length} is not in its shortest form, or too large")
        if len(buffer) < size + _MASK_BYTES:
            return False
        self._begin(opcode, bool(first & _FIN), length)
        self._mask = bytes(buffer[size : size + _MASK_BYTES])
        del buffer[: size + _MASK_BYTES]
        return True

    def _begin(self, opcode: Opcode, final: bool, length: int) -> None:
        if opcode >= Opcode.CLOSE:
            if not final or length > MAX_CONTROL:
                raise ProtocolError(f"a control frame must be whole, and have {MAX_CONTROL} bytes at most")
        elif (opcode is Opcode.CONTINUATION) != (self._message is not None):
            raise ProtocolError(
                "a message begins inside another"
                if self._message is not None
                else "nothing is there to be continued"
            )
        else:
            self._message = opcode if opcode is not Opcode.CONTINUATION else self._message
        self._opcode, self._final, self._left, self._in_frame = opcode, final, length, True

    def _payload(self) -> Event | None:
        """Take what is there of a frame's payload; a control frame's only when it is whole."""
        if self._opcode >= Opcode.CLOSE and len(self._buffer) < self._left:
            return None
        size = min(self._left, len(self._buffer))
        if size == 0 and self._left:
            return None
        data = masked(bytes(self._buffer[:size]), self._mask)
        del self._buffer[:size]
        self._left -= size
        self._mask = self._mask[size % _MASK_BYTES :] + self._mask[: size % _MASK_BYTES]
        self._in_frame = self._left > 0
        if self._opcode is Opcode.PING:
            return Ping(data)
        if self._opcode is Opcode.PONG:
            return None
        if self._opcode is Opcode.CLOSE:
            return _closing(data)
        ended = self._final and not self._in_frame
        if self._message is Opcode.TEXT:
            self._check_text(data, ended)
        if ended:
            self._message = None
        return Data(data) if data else None

    def _check_text(self, data: bytes, final: bool) -> None:
        try:
            self._text.decode(data, final)
        except UnicodeDecodeError:
            raise ProtocolError("a text is not UTF-8", CloseCode.INVALID_DATA) from None
        if final:
            self._text.reset()


def masked(data: bytes, mask: bytes) -> bytes:
    """Apply the mask of a client, which also takes it away (RFC 6455, 5.3)."""
    size = len(data)
    repeated = (mask * (size // _MASK_BYTES + 1))[:size]
    return (int.from_bytes(data) ^ int.from_bytes(repeated)).to_bytes(size)


def frame(opcode: Opcode, data: bytes = b"") -> bytes:
    """One whole frame of ours: final, and without a mask."""
    size = len(data)
    if size < _LENGTH_16:
        head = struct.pack(">BB", _FIN | opcode, size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", _FIN | opcode, _LENGTH_16, size)
    else:
        head = struct.pack(">BBQ", _FIN | opcode, _LENGTH_64, size)
    return head + data


def close_frame(code: int, reason: str = "") -> bytes:
    """A Close, its reason cut to what fits."""
    words = reason.encode()[: MAX_CONTROL - 2].decode(errors="ignore").encode()
    return frame(Opcode.CLOSE, struct.pack(">H", code) + words)


def _closing(data: bytes) -> Close:
    if not data:
        return Close(None)
    if len(data) == 1:
        raise ProtocolError("a Close has half of a code")
    (code,) = struct.unpack_from(">H", data)
    if code not in _CLOSE_CODES:
        raise ProtocolError(f"{code} is no code that a Close may have")
    try:
        return Close(code, data[2:].decode())
    except UnicodeDecodeError:
        raise ProtocolError("the reason of a Close is not UTF-8", CloseCode.INVALID_DATA) from None
