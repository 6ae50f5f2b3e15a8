# SPDX-License-Identifier: Apache-2.0
"""TLS below a protocol that half-closes: an asyncio transport over an `SSLObject` in memory.

asyncio's own TLS transport ends both ways when one ends. Here each way ends by itself, by its close_notify
(RFC 8446, 6.1): a client that has sent all of its input still gets all of the output. What is told to the
protocol is what a TCP connection would tell; how much may wait on the way out is the TCP transport's
business, and what waits on the way in is one piece of it.

The end of the TCP stream is the end of the client. Without a close_notify before it the data may be cut
short, so nothing that was sent counts as whole; after one it is how clients go for good.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import deque
from collections.abc import Callable
from time import time
from typing import Any, cast

log = logging.getLogger(__name__)

HANDSHAKE_SECONDS = 10.0
# After an alert, how long the client may take to read it before the connection is cut. To close at once
# would reset the connection under it where the client is still sending.
ALERT_SECONDS = 2.0
# After `close`, how long the client may take to read what was written.
FLUSH_SECONDS = 60.0
# Of the same size as asyncio's pieces of a TCP stream.
_PIECE = 256 << 10

_PLAIN_HTTP = (
    b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this is a TLS address: ask it by HTTPS, with a client's certificate\n"
)


def _end(tcp: asyncio.Transport) -> None:
    """End our side of a stream whose other end may be gone already."""
    try:
        tcp.write_eof()
    except OSError:
        tcp.abort()


class Handshake(asyncio.Protocol):
    """The TCP side of one connection: the handshake, then the bytes for a `TlsTransport`.

    `accepted` makes the protocol above once the client has shown its certificate. `ended` is called, once:
    with None when the handshake is done, or when the connection is gone with the reason why it was not.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        accepted: Callable[[], asyncio.Protocol],
        ended: Callable[[Handshake, str | None], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepted = accepted
        self._ended: Callable[[Handshake, str | None], None] | None = ended
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=True)
        self._tcp: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None  # from `connection_made` on
        self._above: TlsTransport | None = None
        self._reason: str | None = None
        self.client = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there; nothing is known of it."""
        self._tcp = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        if peer:
            self.client = str(peer[0])
        if self._reason is not None:
            self._tcp.abort()
            return
        self._timer = self._loop.call_later(
            HANDSHAKE_SECONDS, self._fail, f"no handshake within {HANDSHAKE_SECONDS:g} s"
        )

    def data_received(self, data: bytes) -> None:
        """Bytes of the handshake, or of the stream."""
        if self._above is not None:
            self._above.feed(data)
        elif self._reason is None:
            self._in.write(data)
            self._step()

    def eof_received(self) -> bool:
        """The client has ended the TCP stream."""
        if self._above is not None:
            self._above.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone for good."""
        self._done(self._reason or "it went away during the handshake")
        if self._timer is not None:
            self._timer.cancel()
        if self._above is not None:
            self._above.lost(exc)

    def pause_writing(self) -> None:
        """The client is slow."""
        if self._above is not None:
            self._above.protocol.pause_writing()

    def resume_writing(self) -> None:
        """The client has caught up."""
        if self._above is not None:
            self._above.protocol.resume_writing()

    def abort(self) -> None:
        """Give the handshake up."""
        self._reason = self._reason or "it was given up for others that came"
        if self._timer is not None:
            self._tcp.abort()

    def _step(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._tcp.write(self._out.read())
            return
        except ssl.SSLError as error:
            plain = error.reason == "HTTP_REQUEST"
            self._fail(_reason(error), _PLAIN_HTTP if plain else self._out.read())
            return
        if self._tls.session_reused and _has_expired(self._tls):
            # Without a close_notify OpenSSL forgets the session, and the next handshake is a whole one.
            self._fail("its certificate has expired since its session began")
            return
        self._tcp.write(self._out.read())
        assert self._timer is not None
        self._timer.cancel()
        protocol = self._accepted()
        self._above = TlsTransport(self._tls, self._in, self._out, self._tcp, protocol)
        self._done(None)
        protocol.connection_made(self._above)
        self._above.take_in()

    def _fail(self, reason: str, last_words: bytes = b"") -> None:
        self._reason = reason
        assert self._timer is not None
        self._timer.cancel()
        if last_words:
            self._tcp.write(last_words)
            _end(self._tcp)
            self._timer = self._loop.call_later(ALERT_SECONDS, self._tcp.abort)
        else:
            self._tcp.abort()

    def _done(self, reason: str | None) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(self, reason)


class TlsTransport(asyncio.Transport):
    """What the protocol above reads from and writes to once the handshake is done."""

    def __init__(
        self,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        tcp: asyncio.Transport,
        protocol: asyncio.Protocol,
    ) -> None:
        super().__init__()
        self.protocol = protocol
        self._loop = asyncio.get_running_loop()
        self._tls, self._in, self._out, self._tcp = tls, incoming, outgoing, tcp
        self._held: deque[bytes] = deque()  # decrypted and not taken, b"" for the client's close_notify
        self._paused = False
        self._client_done = False
        self._our_end_sent = False
        self._tcp_ended = False
        self._closing = False
        self._lost = False
        self._deadline: asyncio.TimerHandle | None = None

    # -- called by the TCP side ------------------------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Bytes of the stream; those after the client's close_notify are nothing (RFC 8446, 6.1)."""
        if not self._client_done:
            self._in.write(data)
            self.take_in()

    def take_in(self) -> None:
        """Decrypt what is there, as far as the protocol wants it."""
        while not (self._paused or self._client_done or self._lost):
            data = self._held.popleft() if self._held else self._decrypted()
            if data is None:
                break
            if data:
                if not self._closing:
                    self.protocol.data_received(data)
            else:
                self._client_done = True
                if not self._closing and not self.protocol.eof_received():
                    self.close()
        # Such as the answer to a request for new keys (RFC 8446, 4.6.3).
        self._flush()
        if not self._paused and not self._tcp.is_closing():
            self._tcp.resume_reading()

    def lost(self, exc: Exception | None) -> None:
        """The TCP connection is gone."""
        self._lost = self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self.protocol.connection_lost(exc)

    # -- called by the protocol ------------------------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """What asyncio tells of TLS connections, and of the socket below."""
        if name == "peercert":
            return self._tls.getpeercert()
        if name == "ssl_object":
            return self._tls
        return self._tcp.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the stream to another protocol."""
        self.protocol = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol above."""
        return self.protocol

    def is_closing(self) -> bool:
        """Whether the connection is closed, or is being closed."""
        return self._closing or self._tcp.is_closing()

    def is_reading(self) -> bool:
        """Whether data is taken from the client."""
        return not self._paused and not self.is_closing()

    def pause_reading(self) -> None:
        """Take nothing more from the client for now."""
        self._paused = True
        if not self._tcp.is_closing():
            self._tcp.pause_reading()

    def resume_reading(self) -> None:
        """Go on where reading was paused."""
        if self._paused:
            self._paused = False
            # Some may be here already; the socket's turn is after that.
            self._loop.call_soon(self.take_in)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """How much may wait for the client, in bytes as they are sent."""
        self._tcp.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """How much waits for the client, in bytes as they are sent."""
        return self._tcp.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """Low and high."""
        return self._tcp.get_write_buffer_limits()

    def can_write_eof(self) -> bool:
        """Our side ends by itself."""
        return True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Send data; what is written after the end of our side goes nowhere."""
        if self._our_end_sent or self.is_closing():
            return
        left = memoryview(data)
        try:
            while left:
                left = left[self._tls.write(left) :]  # a record at a time
        except ssl.SSLError as error:
            self._break(error)
            return
        self._flush()

    def write_eof(self) -> None:
        """End our side, by close_notify and by the end of the TCP stream; the client may go on."""
        if self._our_end_sent or self.is_closing():
            return
        self._end_our_side()
        self._tcp_ended = True
        _end(self._tcp)

    def close(self) -> None:
        """End our side, and the connection once all that was written is sent."""
        if self._closing:
            return
        if not self._our_end_sent and not self._tcp.is_closing():
            self._end_our_side()
        self._closing = True
        if not self._lost:
            self._deadline = self._loop.call_later(FLUSH_SECONDS, self._tcp.abort)
        self._tcp.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._closing = True
        self._tcp.abort()

    def _decrypted(self) -> bytes | None:
        """The next piece, b"" at the client's close_notify, None if there is nothing more now."""
        try:
            return self._tls.read(_PIECE)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLZeroReturnError:
            return b""
        except ssl.SSLError as error:
            self._break(error)
            return None

    def _end_our_side(self) -> None:
        self._our_end_sent = True
        # OpenSSL looks for the client's close_notify as well, and data in its place would be lost.
        while not self._client_done and (data := self._decrypted()) is not None:
            self._held.append(data)
            if not data:
                break
        try:
            self._tls.unwrap()
        except ssl.SSLError:
            pass  # ours is on its way; this says that the client's has not come yet
        self._flush()

    def _flush(self) -> None:
        data = self._out.read()
        if data and not self._tcp_ended and not self._tcp.is_closing():
            self._tcp.write(data)

    def _break(self, error: ssl.SSLError) -> None:
        """The client has broken the protocol: say so by the alert, and end the connection."""
        log.debug("tls_broken client=%s reason=%s", self._tcp.get_extra_info("peername"), _reason(error))
        self._flush()
        self._closing = True
        self._deadline = self._loop.call_later(ALERT_SECONDS, self._tcp.abort)
        self._tcp.close()


def _has_expired(tls: ssl.SSLObject) -> bool:
    certificate = tls.getpeercert()
    return not certificate or ssl.cert_time_to_seconds(str(certificate["notAfter"])) < time()


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not accepted: {error.verify_message}"
    return (error.reason or str(error)).lower().replace("_", " ")
