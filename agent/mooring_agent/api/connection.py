# SPDX-License-Identifier: Apache-2.0
"""One client's connection: HTTP/1.1 through h11, with streaming both ways, and hijacking to a raw stream.

RFC 9112 governs the framing. Requests of one connection are answered one after the other; what is pipelined
behind a request waits, or belongs to the raw stream if that request hijacks the connection.
"""

from __future__ import annotations

import asyncio
import logging
import select
from email.utils import formatdate
from functools import cache, lru_cache
from http import HTTPStatus
from time import time
from typing import Protocol, cast

import h11

from ..errors import InvalidSpec, MooringError
from .access.peers import Peer, identified
from .inflow import Inflow
from .messages import ClientDisconnected, HeaderList, Hijack, Reply, Request, Response, Stream, encode
from .query import Query
from .takenover import TakenOver

log = logging.getLogger(__name__)

# Request line and headers together; dockerd (Go) allows 1 MiB, no client of ours comes near this.
MAX_HEADER_BYTES = 64 << 10

# Bytes taken in ahead of whoever reads them (a body, a raw stream, pipelined requests); the rest waits.
MAX_AHEAD_BYTES = 256 << 10

# How much may wait in the transport for a slow client before a writer is made to wait.
WRITE_HIGH_WATER = 256 << 10

# A stream that never has to wait for anything still gives way to others after so many pieces.
WRITES_A_TURN = 32

# After our last byte, how long a client may take to notice before the connection is cut.
LINGER_SECONDS = 5.0


class Handler(Protocol):
    """What answers requests: `Application`."""

    base_headers: HeaderList

    async def handle(self, request: Request) -> Reply:
        """Answer one request. Raises nothing but ClientDisconnected and CancelledError."""
        ...


class Connection(asyncio.Protocol):
    """The protocol object of one accepted connection."""

    def __init__(self, handler: Handler, connections: set[Connection]) -> None:
        self._handler = handler
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._transport: asyncio.Transport
        self._peer: Peer
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._request: Request | None = None
        self._inflow: Inflow | None = None
        self._raw: TakenOver | None = None
        self._last_request = False  # close after the answer that is being made
        self._deaf = False  # what still arrives is thrown away
        self._client_done = False  # the client has ended its side
        self._lost = False
        self._reading_paused = False
        self._writable: asyncio.Future[None] | None = None
        self._write_paused = False
        self._writes = 0
        self._hangup: select.epoll | None = None

    # -- called by the transport -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self._peer = identified(transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        if self._deaf:
            return
        if self._raw:
            if self._inflow is not None:
                self._inflow.feed(data)
            return
        self._http.receive_data(data)
        self._advance()

    def eof_received(self) -> bool:
        """The client will send no more. It may still be listening: then the answer is owed to it."""
        self._client_done = True
        if self._task is None:
            return False
        if self._raw:
            if self._inflow is not None:
                self._inflow.feed_eof()
        elif not self._deaf:
            self._http.receive_data(b"")
            self._advance()
        return self._watch_hangup()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone for good."""
        self._lost = self._client_done = True
        self._connections.discard(self)
        self.gone.set_result(None)
        self._unwatch_hangup()
        if self._raw is not None:
            self._raw.take_in_the_rest(MAX_AHEAD_BYTES)
        if self._inflow is not None:
            self._inflow.feed_lost()
        self.resume_writing()
        # Who serves a raw stream sees by itself that it has ended, and first passes on what was sent.
        if self._raw is None and self._task is not None and (self._request is None or self._request.abandon):
            self._task.cancel()

    def pause_writing(self) -> None:
        """The client is slow: writers wait."""
        self._write_paused = True

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._write_paused = False
        waited_for, self._writable = self._writable, None
        if waited_for is not None:
            waited_for.set_result(None)

    # -- the way in ------------------------------------------------------------------------------------------

    def _advance(self) -> None:
        """Take in what h11 has made of the bytes so far."""
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                self._refuse(error)
                return
            if type(event) is h11.Request:
                self._begin(event)
            elif type(event) is h11.Data:
                if self._inflow is not None:
                    self._inflow.feed(bytes(event.data))
            elif type(event) is h11.EndOfMessage:
                if self._inflow is not None:
                    self._inflow.feed_eof()
            elif event is h11.NEED_DATA:
                return
            elif event is h11.PAUSED:
                # A further request, or bytes for the raw stream, behind the one that is being answered.
                if len(self._http.trailing_data[0]) > MAX_AHEAD_BYTES:
                    self._pause_reading()
                return
            else:  # h11.ConnectionClosed: all that the client has asked for is answered
                if self._task is None:
                    self._finish_and_linger()
                return

    def _begin(self, event: h11.Request) -> None:
        headers: dict[str, str] = {}
        for name, value in event.headers:
            key = name.decode("ascii")
            text = value.decode("latin-1")
            headers[key] = f"{headers[key]}, {text}" if key in headers else text
        path, _, query = event.target.decode("ascii").partition("?")
        self._inflow = inflow = Inflow(
            self._pause_reading, self._resume_reading, self._ask_for_body, MAX_AHEAD_BYTES
        )
        parsed, failure = Query(), None
        try:
            parsed = Query(query)
        except InvalidSpec as error:
            failure = error
        length = headers.get("content-length")
        self._request = request = Request(
            event.method.decode("ascii"),
            path,
            parsed,
            headers,
            inflow,
            declared_length=int(length) if length else None,
            peer=self._peer,
        )
        self._task = self._loop.create_task(self._serve(request, failure))

    def _ask_for_body(self) -> None:
        """Somebody reads the body: tell a client that waits for our leave to send it (RFC 9110, 10.1.1)."""
        if self._http.they_are_waiting_for_100_continue and not self._lost:
            self._transport.write(
                self._http.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
            )

    def _refuse(self, error: h11.RemoteProtocolError) -> None:
        """What arrived is not HTTP. Say so if nothing was said yet, and end the connection."""
        self._deaf = True
        if self._task is not None:
            if self._inflow is not None:
                self._inflow.feed_lost()
            return
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = encode({"message": f"this is not a valid HTTP/1.1 request: {error}"})
            self._send_whole(
                Response(error.error_status_hint or 400, body, "application/json"), head=False, close=True
            )
        self._finish_and_linger()

    # -- the way out -----------------------------------------------------------------------------------------

    async def _serve(self, request: Request, failure: MooringError | None) -> None:
        try:
            if failure is not None:
                reply: Reply = Response(
                    failure.status, encode({"message": failure.message}), "application/json"
                )
            else:
                reply = await self._handler.handle(request)
            if self._lost:
                await _discard(reply)
                return
            if type(reply) is Response:
                self._send_whole(reply, head=request.method == "HEAD", close=not self._body_is_read())
            elif type(reply) is Stream:
                await self._send_stream(request, reply)
            else:
                await self._hijack(request, cast(Hijack, reply))
            if self._http.our_state is h11.DONE:  # after the last answer it has as long as a close takes
                await self._drain()  # a client that asks on and reads nothing is not answered on
        except ClientDisconnected:
            log.debug("client_gone path=%s", request.path)
        except asyncio.CancelledError:
            if not self._lost:
                self._transport.abort()
        except Exception:
            log.exception("answer_broken method=%s path=%s", request.method, request.path)
            self._transport.abort()
        finally:
            self._task = None
        if not self._lost:
            self._next()

    def _body_is_read(self) -> bool:
        return self._http.their_state is not h11.SEND_BODY

    def _headers(self, extra: HeaderList, content_type: str | None) -> HeaderList:
        headers = [*self._handler.base_headers, ("Date", _http_date(int(time())))]
        if content_type is not None:
            headers.append(("Content-Type", content_type))
        return headers + extra

    def _send_whole(self, reply: Response, *, head: bool, close: bool) -> None:
        headers = self._headers(reply.headers, reply.content_type)
        bodiless = reply.status in (204, 304)
        if not bodiless:
            headers.append(("Content-Length", str(len(reply.body))))
        if close:
            headers.append(("Connection", "close"))
        send = self._http.send
        out = (
            send(h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status))) or b""
        )
        if reply.body and not head and not bodiless:
            out += send(h11.Data(data=reply.body)) or b""
        out += send(h11.EndOfMessage()) or b""
        self._transport.write(out)

    async def _send_stream(self, request: Request, reply: Stream) -> None:
        headers = self._headers(reply.headers, reply.content_type)
        if not self._body_is_read():
            headers.append(("Connection", "close"))
        send = self._http.send
        try:
            self._write(
                send(h11.Response(status_code=reply.status, headers=headers, reason=_reason(reply.status)))
            )
            if request.method != "HEAD":
                async for chunk in reply.chunks:
                    if chunk:
                        self._write(send(h11.Data(data=chunk)))
                        await self._drain()
            self._write(send(h11.EndOfMessage()))
        finally:
            await _discard(reply)

    async def _hijack(self, request: Request, reply: Hijack) -> None:
        try:
            raw = await self._take_over(request, reply)
        except BaseException:
            await _discard(reply)
            raise
        await reply.serve(raw)

    async def _take_over(self, request: Request, reply: Hijack) -> TakenOver:
        wants_upgrade = (
            "upgrade" in request.headers.get("connection", "").lower() and "upgrade" in request.headers
        )
        if wants_upgrade:
            lines = ["HTTP/1.1 101 UPGRADED", "Connection: Upgrade", f"Upgrade: {reply.protocol}"]
        else:
            lines = ["HTTP/1.1 200 OK"]
        lines += [f"{name}: {value}" for name, value in self._headers(reply.headers, reply.content_type)]
        async for _ in request.body:
            continue  # what belongs to the request is no part of the raw stream
        trailing, ended = self._http.trailing_data
        self._inflow = Inflow(self._pause_reading, self._resume_reading, None, MAX_AHEAD_BYTES)
        self._raw = raw = TakenOver(self._inflow, self._send_raw, self._transport, self.gone)
        self._resume_reading()
        if trailing:
            self._inflow.feed(bytes(trailing))
        if ended:
            self._inflow.feed_eof()
        self._write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        return raw

    async def _send_raw(self, data: bytes) -> None:
        self._write(data)
        await self._drain()

    def _write(self, data: bytes | None) -> None:
        if self._lost or self._transport.is_closing():
            raise ClientDisconnected("the client went away")
        if data:
            self._transport.write(data)

    async def _drain(self) -> None:
        """Wait while the client is slow, and give others a turn. Raises ClientDisconnected."""
        self._writes += 1
        if self._writes % WRITES_A_TURN == 0:
            await asyncio.sleep(0)
        if self._write_paused and not self._lost:
            self._writable = self._writable or self._loop.create_future()
            await asyncio.shield(self._writable)  # which others may wait for too
        if self._lost:
            raise ClientDisconnected("the client went away")

    # -- between requests, and the end -----------------------------------------------------------------------

    def _next(self) -> None:
        """The answer is out: take the next request, or end the connection."""
        self._request = None
        self._inflow = None
        states = (self._http.our_state, self._http.their_state)
        if self._raw or self._last_request or states != (h11.DONE, h11.DONE):
            self._finish_and_linger()
            return
        self._http.start_next_cycle()
        self._resume_reading()
        self._advance()

    @property
    def answering(self) -> asyncio.Task[None] | None:
        """The task that answers a request, if one is being answered."""
        return self._task

    def close_when_idle(self) -> None:
        """Take no further request; close now if nothing is being answered."""
        self._last_request = True
        if self._task is None:
            self._transport.close()

    def abandon(self) -> None:
        """Stop answering: for a stream that would go on for ever."""
        if self._task is not None and (self._raw or self._request is None or self._request.abandon):
            self._task.cancel()

    def close(self) -> None:
        """Cancel what is being answered, and close when what was written is sent."""
        if self._task is not None:
            self._task.cancel()
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection."""
        self._transport.abort()

    def _finish_and_linger(self) -> None:
        """End our side, and wait for the client's end.

        Closing a unix socket with unread bytes in it makes the peer's next read fail with ECONNRESET instead
        of telling it the end, so what still arrives is read and thrown away for a short while.
        """
        self._deaf = True
        if self._lost or self._transport.is_closing():
            return
        self._resume_reading()
        if self._client_done:
            self._transport.close()
            return
        self._transport.write_eof()
        self._loop.call_later(LINGER_SECONDS, self._transport.close)

    def _pause_reading(self) -> None:
        if not self._reading_paused and not self._client_done and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()

    def _resume_reading(self) -> None:
        if self._reading_paused and not self._client_done and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()

    def _watch_hangup(self) -> bool:
        """After the client's end-of-file: keep the connection as long as the client listens.

        asyncio stops polling a socket that gave EOF, so a client that then goes away for good would never
        be noticed. An epoll set without events reports hang-ups alone (epoll_ctl(2)). False if it is gone.
        """
        descriptor = self._transport.get_extra_info("socket").fileno()
        watch = select.epoll(1)
        watch.register(descriptor, 0)
        if watch.poll(0):
            watch.close()
            return False
        self._hangup = watch
        self._loop.add_reader(watch.fileno(), self._hung_up)
        return True

    def _hung_up(self) -> None:
        self._unwatch_hangup()
        self._transport.abort()

    def _unwatch_hangup(self) -> None:
        if self._hangup is not None:
            self._loop.remove_reader(self._hangup.fileno())
            self._hangup.close()
            self._hangup = None


async def _discard(reply: Reply) -> None:
    """Let the maker of a stream clean up, whether or not it was read to its end, or served at all."""
    if isinstance(reply, Stream):
        if (close := getattr(reply.chunks, "aclose", None)) is not None:
            await close()
    elif isinstance(reply, Hijack) and reply.unserved is not None:
        reply.unserved()


@cache
def _reason(status: int) -> bytes:
    return HTTPStatus(status).phrase.encode("ascii")


@lru_cache(maxsize=1)
def _http_date(second: int) -> str:
    return formatdate(second, usegmt=True)
