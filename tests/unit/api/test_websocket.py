# SPDX-License-Identifier: Apache-2.0
"""Websockets: frames by properties, the handshake, and what a channel says to what it is told."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.messages import ClientDisconnected, Request
from mooring_agent.api.query import Query
from mooring_agent.api.websocket import handshake
from mooring_agent.api.websocket.channel import Channel
from mooring_agent.api.websocket.frames import (
    Close,
    Data,
    Decoder,
    Event,
    Opcode,
    Ping,
    ProtocolError,
    close_frame,
    frame,
    masked,
)
from mooring_agent.errors import Denied, InvalidSpec

masks = st.binary(min_size=4, max_size=4)


def sent(opcode: int, data: bytes = b"", *, final: bool = True, mask: bytes = b"\1\2\3\4") -> bytes:
    """A frame of a client, made of one of ours."""
    ours = frame(Opcode(0), data)
    head = bytes([(0x80 if final else 0) | opcode, ours[1] | 0x80]) + ours[2 : len(ours) - len(data)]
    return head + mask + masked(data, mask)


def heard(stream: bytes, cuts: list[int] | None = None) -> list[Event]:
    decoder = Decoder()
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts or ())})
    return [event for a, b in pairwise(edges) for event in decoder.feed(stream[a:b])]


def said(events: list[Event]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Data))


@given(st.binary(max_size=300), masks)
def test_a_mask_takes_itself_away(data: bytes, mask: bytes) -> None:
    assert masked(masked(data, mask), mask) == data
    assert masked(data, mask) == bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """The bytes of messages in fragments with Pings in between; what they say, and the Pings."""
    stream, whole, pings = b"", b"", []
    for parts in draw(st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), max_size=5)):
        for place, part in enumerate(parts):
            opcode = Opcode.BINARY if place == 0 else Opcode.CONTINUATION
            stream += sent(opcode, part, final=place == len(parts) - 1, mask=draw(masks))
            whole += part
            if draw(st.booleans()):
                pings.append(draw(st.binary(max_size=125)))
                stream += sent(Opcode.PING, pings[-1], mask=draw(masks)) + sent(Opcode.PONG, b"unasked")
    return stream, whole, pings


@given(conversations(), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_messages_are_heard_whole_however_they_are_cut(
    conversation: tuple[bytes, bytes, list[bytes]], cuts: list[int]
) -> None:
    stream, whole, pings = conversation
    events = heard(stream + sent(Opcode.CLOSE), cuts)
    assert said(events) == whole
    assert [event.data for event in events if isinstance(event, Ping)] == pings
    assert events[-1] == Close(None)


@given(st.binary(max_size=2000), st.lists(st.integers(0, 2000), max_size=8))
def test_any_bytes_are_heard_or_refused(stream: bytes, cuts: list[int]) -> None:
    try:
        heard(stream, cuts)
    except ProtocolError:
        pass


@given(st.text(max_size=100), st.lists(st.integers(0, 1000), max_size=8))
def test_texts_pass_when_they_are_utf8_wherever_they_are_cut(text: str, cuts: list[int]) -> None:
    data = text.encode()
    half = len(data) // 2
    stream = sent(Opcode.TEXT, data[:half], final=False) + sent(Opcode.CONTINUATION, data[half:])
    assert said(heard(stream, cuts)) == data


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 1 << 20])
def test_every_form_of_length(size: int) -> None:
    data = os.urandom(size)
    assert said(heard(sent(Opcode.BINARY, data), [1, 2, 3, 5, 9, 11])) == data


def test_a_payload_is_passed_on_before_its_frame_is_whole() -> None:
    decoder = Decoder()
    endless = struct.pack(">BBQ", 0x82, 0xFF, (1 << 63) - 1) + bytes(4)
    assert list(decoder.feed(endless + b"begun")) == [Data(b"begun")]
    assert list(decoder.feed(b"and on")) == [Data(b"and on")]


@pytest.mark.parametrize(
    ("stream", "code", "reason"),
    [
        (b"\x82\x01x", 1002, "masked"),
        (b"\xc2\x80\0\0\0\0", 1002, "reserved bit"),
        (b"\x83\x80\0\0\0\0", 1002, "opcode 3"),
        (b"\x82\xfe\0\x05\0\0\0\0", 1002, "shortest"),
        (b"\x82\xff" + b"\xff" * 8 + bytes(4), 1002, "too large"),
        (b"\x09\x80\0\0\0\0", 1002, "whole"),
        (b"\x89\xfe\0\x7e\0\0\0\0", 1002, "125 bytes"),
        (sent(Opcode.CONTINUATION, b"x"), 1002, "continued"),
        (sent(Opcode.BINARY, final=False) + sent(Opcode.BINARY), 1002, "inside another"),
        (sent(Opcode.TEXT, b"\xff"), 1007, "UTF-8"),
        (sent(Opcode.TEXT, b"\xc3"), 1007, "UTF-8"),
        (sent(Opcode.CLOSE, b"x"), 1002, "half of a code"),
        (sent(Opcode.CLOSE, b"\x03\xed"), 1002, "1005"),
        (sent(Opcode.CLOSE, b"\x03\xe8\xff"), 1007, "UTF-8"),
    ],
)
def test_what_breaks_the_protocol_ends_it(stream: bytes, code: int, reason: str) -> None:
    decoder = Decoder()
    with pytest.raises(ProtocolError, match=reason) as caught:
        list(decoder.feed(stream))
    assert caught.value.code == code
    assert list(decoder.feed(sent(Opcode.BINARY, b"late"))) == []


def test_a_close_has_a_code_and_a_reason_that_fits() -> None:
    assert heard(sent(Opcode.CLOSE, b"\x03\xe9bye") + sent(Opcode.BINARY, b"late")) == [Close(1001, "bye")]
    made = close_frame(1002, "é" * 100)
    assert len(made) == 2 + 124
    assert made[4:].decode() == "é" * 61


# -- the handshake -------------------------------------------------------------------------------------------

GOOD = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "keep-alive, Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


class Nothing:
    async def __aiter__(self) -> AsyncIterator[bytes]:
        return
        yield b""


def request(**changes: str) -> Request:
    headers = GOOD | {name.replace("_", "-"): value for name, value in changes.items()}
    return Request("GET", "/containers/x/attach/ws", Query(), headers, Nothing())


def test_the_example_of_the_rfc() -> None:
    expected = [("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]  # RFC 6455, 1.3
    assert handshake.accepted(request()) == expected
    assert handshake.accepted(request(origin="https://SERVER.example.com")) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("upgrade", "tcp"),
        ("connection", "close"),
        ("sec_websocket_version", "8"),
        ("sec_websocket_key", ""),
        ("sec_websocket_key", "dGhlIHNhbXBsZSBub25jZQ"),
        ("sec_websocket_key", "é"),
    ],
)
def test_a_request_that_asks_for_no_websocket_is_told_what_is_missing(name: str, value: str) -> None:
    with pytest.raises(InvalidSpec, match="expected"):
        handshake.accepted(request(**{name: value}))


def test_a_websocket_is_asked_for_by_get() -> None:
    asked = request()
    asked.method = "HEAD"
    with pytest.raises(InvalidSpec, match="expected GET"):
        handshake.accepted(asked)


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://server.example.com:99"])
def test_pages_of_others_are_turned_away(origin: str) -> None:
    with pytest.raises(Denied, match=r"server\.example\.com"):
        handshake.accepted(request(origin=origin))


# -- the channel ---------------------------------------------------------------------------------------------


class Raw:
    """A connection whose client has sent `pieces`; `out` is what it got."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = list(pieces)
        self.out = b""

    async def read(self) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    async def write(self, data: bytes) -> None:
        await asyncio.sleep(0)
        self.out += data


def test_pings_are_answered_between_messages() -> None:
    async def conversation() -> None:
        raw = Raw(sent(Opcode.PING, b"?"), sent(Opcode.BINARY, b"a") + sent(Opcode.TEXT, b"b"))
        channel = Channel(raw)
        assert await channel.read() == b"ab"
        await channel.write(b"out")
        assert raw.out == frame(Opcode.PONG, b"?") + frame(Opcode.BINARY, b"out")
        assert await channel.read() == b""
        assert channel.listens()  # only its side of the connection has ended

    asyncio.run(conversation())


def test_a_close_is_answered_after_what_was_said_before_it() -> None:
    async def conversation() -> None:
        raw = Raw(sent(Opcode.BINARY, b"last") + sent(Opcode.CLOSE, b"\x03\xe9"))
        channel = Channel(raw)
        assert await channel.read() == b"last"
        assert await channel.read() == b""
        assert not channel.listens()
        with pytest.raises(ClientDisconnected):
            await channel.write(b"late")
        await channel.close()
        assert raw.out == close_frame(1001)

    asyncio.run(conversation())


def test_who_breaks_the_protocol_is_told_so() -> None:
    async def conversation() -> None:
        raw = Raw(b"\x82\x01x")
        channel = Channel(raw)
        with pytest.raises(ClientDisconnected, match="masked"):
            await channel.read()
        assert not channel.listens()
        assert raw.out == close_frame(1002, "a client's frame must be masked")

    asyncio.run(conversation())


def test_texts_are_utf8_wherever_output_is_cut() -> None:
    async def conversation() -> None:
        raw = Raw()
        channel = Channel(raw, text=True)
        euro = "€".encode()
        for piece in (b"a" + euro[:1], euro[1:2], euro[2:] + b"\xff", euro[:2]):
            await channel.write(piece)
        await channel.close()
        said = [b"a", "€\ufffd".encode(), "\ufffd".encode()]
        assert raw.out == b"".join(frame(Opcode.TEXT, each) for each in said) + close_frame(1000)

    asyncio.run(conversation())
