# SPDX-License-Identifier: Apache-2.0
"""The transport between a client's TLS and a protocol, with a TCP transport in memory."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring_agent.api.tls.certificates import Certificates
from mooring_agent.api.tls.settings import TlsSettings
from mooring_agent.api.tls.transport import Handshake, TlsTransport

from .conftest import Certified

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


class Tcp(asyncio.Transport):
    """Keeps what is written; delivers only while it may."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.paused = self.ended = self.closed = self.aborted = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("192.0.2.1", 40000) if name == "peername" else default

    def write(self, data: Any) -> None:
        assert not self.ended
        assert not self.closed
        self.written += bytes(data)

    def write_eof(self) -> None:
        self.ended = True

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Above(asyncio.Protocol):
    """A protocol that takes at most so many bytes at a time, and keeps all."""

    def __init__(self, appetite: int = 1 << 30) -> None:
        self.appetite = appetite
        self.got = b""
        self.ended = self.lost = False
        self.keep = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, TlsTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        assert not self.ended
        self.got += data
        if len(self.got) >= self.appetite:
            self.transport.pause_reading()

    def eat(self, more: int) -> None:
        self.appetite = len(self.got) + more
        self.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        return self.keep

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True


class Link:
    """A client and a server that are joined byte by byte, as a test says."""

    def __init__(self, certified: Certified, context: ssl.SSLContext, appetite: int = 1 << 30) -> None:
        spec = TlsSettings(
            "127.0.0.1",
            0,
            certified.authority.ca_file,
            certified.server.certificate,
            certified.server.key,
        )
        self.above = Above(appetite)
        self.reasons: list[str | None] = []
        self.tcp = Tcp()
        self.side = Handshake(
            Certificates(spec).context(), lambda: self.above, lambda _, reason: self.reasons.append(reason)
        )
        self.side.connection_made(self.tcp)
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        self.unsent = b""

    def shake(self, size: int = 1 << 16) -> None:
        """The handshake, and whatever the two sides say after it of themselves."""
        while True:
            try:
                self.client.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.deliver(size)
                self.collect()
        self.deliver(size)
        self.collect()

    def deliver(self, size: int = 1 << 16) -> None:
        """The client's bytes to the server in pieces, as long as it takes them."""
        self.unsent += self._out.read()
        while self.unsent and not self.tcp.paused:
            piece, self.unsent = self.unsent[:size], self.unsent[size:]
            self.side.data_received(piece)

    def collect(self) -> None:
        """The server's bytes to the client."""
        self._in.write(self.tcp.written)
        self.tcp.written = b""

    def say(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self.client.write(left) :]

    def end_input(self) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.client.unwrap()

    def read(self) -> bytes:
        """All that the client can read; ends with b"" or by what it waits for."""
        self.collect()
        found = b""
        while True:
            try:
                data = self.client.read(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                return found
            if not data:
                return found
            found += data


def run(scene: Callable[[], Any]) -> None:
    async def main() -> None:
        await scene()

    asyncio.run(main())


@pytest.mark.parametrize("version", VERSIONS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40_000), max_size=6),
    answers=st.lists(st.binary(min_size=1, max_size=40_000), max_size=6),
    size=st.integers(1, 70_000),
    appetite=st.integers(1, 50_000),
)
def test_every_byte_arrives_once_in_order_however_it_is_cut(
    certified: Certified,
    version: ssl.TLSVersion,
    pieces: list[bytes],
    answers: list[bytes],
    size: int,
    appetite: int,
) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client, version), appetite)
        link.shake(max(size, 200))
        assert link.reasons == [None]
        for piece in pieces:
            link.say(piece)
        link.end_input()
        for _ in range(1000):
            link.deliver(size)
            if link.above.ended:
                break
            link.above.eat(appetite)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        assert link.above.got == b"".join(pieces)
        assert link.above.ended
        # The client has ended its side, and only its side.
        for answer in answers:
            link.above.transport.write(answer)
        assert link.read() == b"".join(answers)
        link.above.transport.write_eof()
        link.collect()
        assert link.client.unwrap() is None
        assert link.tcp.ended
        assert not link.tcp.closed

    run(scene)


@pytest.mark.parametrize("version", VERSIONS)
def test_our_side_ends_alone(certified: Certified, version: ssl.TLSVersion) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client, version))
        link.shake()
        link.above.transport.write(b"all")
        link.above.transport.write_eof()
        assert link.read() == b"all"
        assert link.tcp.ended
        if version is ssl.TLSVersion.TLSv1_3:  # OpenSSL's own client ends both sides of 1.2 at once
            link.say(b"more")
            link.deliver()
            assert link.above.got == b"more"
        assert not link.above.ended

    run(scene)


def test_unread_data_does_not_keep_our_end_from_being_told(certified: Certified) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client), appetite=1)
        link.shake()
        link.say(b"one")
        link.say(b"two" * 20_000)
        link.say(b"three")
        link.deliver()
        assert link.tcp.paused
        link.above.transport.write(b"bye")
        link.above.transport.write_eof()
        assert link.read() == b"bye"
        link.above.eat(1 << 20)
        await asyncio.sleep(0)
        link.deliver()
        assert link.above.got == b"one" + b"two" * 20_000 + b"three"

    run(scene)


@pytest.mark.parametrize("appetite", [1, 5000])
def test_a_protocol_that_takes_no_more_stops_the_client(certified: Certified, appetite: int) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client), appetite)
        link.shake()
        link.say(b"x" * 1_000_000)
        link.deliver()
        await asyncio.sleep(0)
        assert link.tcp.paused
        assert len(link.above.got) < appetite + (64 << 10)
        assert len(link.unsent) > 900_000

    run(scene)


def test_a_protocol_that_wants_no_half_is_closed(certified: Certified) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client))
        link.shake()
        link.above.keep = False
        link.end_input()
        link.deliver()
        assert link.above.ended
        assert link.tcp.closed
        assert not link.tcp.aborted
        link.collect()
        link.client.unwrap()

    run(scene)


def test_the_end_of_tcp_alone_is_no_end_of_the_data(certified: Certified) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client))
        link.shake()
        link.say(b"half of it")
        link.deliver()
        assert link.side.eof_received() is False
        assert link.tcp.aborted
        link.side.connection_lost(None)
        assert (link.above.ended, link.above.lost) == (False, True)

    run(scene)


def test_what_comes_after_the_clients_end_is_nothing(certified: Certified) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client))
        link.shake()
        link.end_input()
        link.deliver()
        for _ in range(10):
            link.side.data_received(b"\x17\x03\x03\x40\x00" + b"y" * 0x4000)
        assert link.above.got == b""
        link.above.transport.write(b"still here")
        assert link.read() == b"still here"

    run(scene)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=1, max_size=4000), size=st.integers(1, 5000))
def test_noise_in_place_of_a_handshake_ends_it(certified: Certified, noise: bytes, size: int) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(None))
        for start in range(0, len(noise), size):
            link.side.data_received(noise[start : start + size])
        link.side.eof_received()
        link.side.connection_lost(None)
        assert len(link.reasons) == 1
        assert link.reasons[0]

    run(scene)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(min_size=1, max_size=4000), at=st.integers(0, 200))
def test_noise_in_the_stream_ends_it(certified: Certified, noise: bytes, at: int) -> None:
    async def scene() -> None:
        link = Link(certified, certified.context(certified.client))
        link.shake()
        link.say(b"honest" * 100)
        data = link._out.read()
        link.side.data_received(data[:at] + noise + data[at:])
        for _ in range(5):
            link.side.data_received(b"\xff" * 20_000)
        assert link.tcp.closed
        assert link.above.got in (b"", b"honest" * 100)
        link.side.connection_lost(None)
        assert link.above.lost

    run(scene)
