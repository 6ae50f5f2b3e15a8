# SPDX-License-Identifier: Apache-2.0
"""The read side of the distribution API (OCI distribution-spec 1.1, "Pull"), for the hosts of the fleet.

A thread a connection: reading files and encrypting block, and must not hold up the agent's event loop.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import ssl
import threading
import time
from typing import BinaryIO, cast

import h11

from mooring_agent.errors import MooringError, NotFound
from mooring_agent.images.peering.election import Holds
from mooring_agent.images.peering.requests import Call, parse_range, parse_target, parse_wait
from mooring_agent.images.peering.settings import PeerSettings
from mooring_agent.images.peering.shelf import Shelf
from mooring_agent.serving import listen, server_context

_log = logging.getLogger(__name__)

_CONNECTIONS = 512  # threads at most
_IDLE = 75.0  # seconds that a connection may be silent; the peers' clients end theirs after 60
_STALL = 15.0  # seconds in which a client must take some of what is sent, or finish the handshake
_MAX_HEAD = 16 << 10  # bytes of a request
_PIECE = 1 << 18  # bytes sent at a time
_LOOK = 0.1  # seconds between two looks at whether a blob is here
_BACKLOG = 128

_Headers = list[tuple[str, str]]


class PeerServer:
    """Serves a shelf to whoever has a certificate of the fleet's CA, or on loopback to everybody."""

    def __init__(self, shelf: Shelf, settings: PeerSettings) -> None:
        """Listen. Raises Conflict for an address in use, InvalidSpec for one, or files, that are no use."""
        self._shelf = shelf
        self._slots = _Slots(settings.uploads)
        tls = settings.tls
        self._context = (
            None if tls is None else server_context(tls.ca_file, tls.certificate, tls.key, "peers.tls")
        )
        self._listener = listen(settings.listen, _BACKLOG, "peers.listen")
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closing = threading.Event()
        self.port: int = self._listener.getsockname()[1]
        """Where it listens, also if port 0 was asked for."""
        self._acceptor = threading.Thread(target=self._accept, name="mooring-peers", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """End everything; what is being sent is cut off, and taken from elsewhere by who wants it."""
        with self._lock:
            self._closing.set()
            for each in (self._listener, *self._open):
                _shut(each)
        self._listener.close()
        self._acceptor.join(_STALL)

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError as error:
                if not self._closing.is_set():
                    _log.warning("a peer's connection was not accepted: %s", error)
                    time.sleep(_LOOK)  # out of descriptors: without it this would turn as fast as it can
                continue
            with self._lock:
                if self._closing.is_set() or len(self._open) >= _CONNECTIONS:
                    client.close()
                    continue
                self._open.add(client)
            try:
                threading.Thread(target=self._serve, args=(client,), name="mooring-peer", daemon=True).start()
            except RuntimeError as error:  # no more threads for now: this one is turned away, others come
                _log.warning("a peer's connection was not served: %s", error)
                with self._lock:
                    self._open.discard(client)
                client.close()

    def _serve(self, accepted: socket.socket) -> None:
        client = accepted
        try:
            client.settimeout(_STALL)
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._context is not None:
                client = self._context.wrap_socket(accepted, server_side=True)
                with self._lock:
                    self._open.discard(accepted)
                    self._open.add(client)
                    if self._closing.is_set():
                        return
            _Conversation(client, self._shelf, self._slots).run()
        except (OSError, ValueError, h11.ProtocolError) as error:
            _log.debug("a peer's connection ended: %s", error)
        except Exception:  # noqa: BLE001 - a request must not end the server, whatever it met with
            _log.exception("a peer's request failed")
        finally:
            with self._lock:
                self._open -= {accepted, client}
            client.close()


class _Slots:
    """How many blobs are sent at a time."""

    def __init__(self, count: int) -> None:
        self._free = count
        self._changed = threading.Condition()

    def has_free(self) -> bool:
        with self._changed:
            return self._free > 0

    def take(self, seconds: float) -> bool:
        with self._changed:
            taken = self._changed.wait_for(lambda: self._free > 0, seconds)
            self._free -= taken
            return taken

    def give_back(self) -> None:
        with self._changed:
            self._free += 1
            self._changed.notify()


class _Conversation:
    """One connection: requests one after the other."""

    def __init__(self, client: socket.socket, shelf: Shelf, slots: _Slots) -> None:
        self._client, self._shelf, self._slots = client, shelf, slots
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_HEAD)

    def run(self) -> None:
        """Answer until the client, or the protocol, ends it."""
        while True:
            self._client.settimeout(_IDLE)
            try:
                request = self._next()
            except h11.RemoteProtocolError as error:
                self._refuse(error.error_status_hint or 400, "UNSUPPORTED", str(error), close=True)
                return
            if request is None:
                return
            self._client.settimeout(_STALL)
            self._answer(request)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    def _next(self) -> h11.Request | None:
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                return event
            if event is h11.NEED_DATA:
                self._http.receive_data(self._client.recv(_MAX_HEAD))
            elif isinstance(event, h11.ConnectionClosed):
                return None

    def _answer(self, request: h11.Request) -> None:
        # A body, which no call has, would be the next request: the end of the connection is simpler.
        has_body = any(name in (b"content-length", b"transfer-encoding") for name, _ in request.headers)
        if not has_body:
            self._http.next_event()  # the end of the message
        if request.method not in (b"GET", b"HEAD"):
            self._refuse(
                405, "UNSUPPORTED", "nothing can be written here", [("Allow", "GET, HEAD")], close=True
            )
            return
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        self._head_only = request.method == b"HEAD"
        call = parse_target(request.target.decode("ascii"))
        if call is None:
            self._refuse(404, "UNSUPPORTED", "no such call", close=has_body)
        elif call.digest:
            self._blob(call.digest, headers)
        elif call.reference:
            self._manifest(call)
        else:
            self._send(200, b"{}", [("Content-Type", "application/json")])

    def _manifest(self, call: Call) -> None:
        try:
            descriptor, body = self._shelf.manifest(call.name, call.registry, call.reference)
        except NotFound as error:
            self._refuse(404, "MANIFEST_UNKNOWN", error.message)
        except MooringError as error:
            self._refuse(503, "UNAVAILABLE", error.message)
        else:
            self._send(
                200,
                body,
                [("Content-Type", descriptor.media_type), ("Docker-Content-Digest", descriptor.digest)],
            )

    def _blob(self, digest: str, headers: dict[str, str]) -> None:
        deadline = time.monotonic() + parse_wait(headers.get("prefer"))
        file = self._await(digest, deadline)
        if file is None:
            holds = self._shelf.flights.of(digest)
            if holds is Holds.ABSENT:
                self._refuse(404, "BLOB_UNKNOWN", f"no blob {digest} is held here", _told(Holds.ABSENT))
            else:
                received = ("Mooring-Received", str(self._shelf.received(digest)))
                self._refuse(
                    503, "UNAVAILABLE", f"blob {digest} is on its way here", [*_told(holds), received, _LATER]
                )
            return
        with file:
            if self._head_only:
                told = _told(Holds.HELD if self._slots.has_free() else Holds.BUSY)
                self._send_head(200, os.fstat(file.fileno()).st_size, _blob_headers(digest) + told)
            elif not self._slots.take(max(0.0, deadline - time.monotonic())):
                self._refuse(
                    429, "TOOMANYREQUESTS", "as much is being sent as may be", [*_told(Holds.BUSY), _LATER]
                )
            else:
                try:
                    self._send_blob(digest, file, headers.get("range"))
                finally:
                    self._slots.give_back()

    def _await(self, digest: str, deadline: float) -> BinaryIO | None:
        """Wait for a blob that is on its way, as long as nothing changes about that."""
        before = self._shelf.flights.of(digest)
        while True:
            file = self._shelf.open_blob(digest)
            left = deadline - time.monotonic()
            if file is not None or before is Holds.ABSENT or left <= 0:
                return file
            self._shelf.flights.wait(min(left, _LOOK))
            if self._shelf.flights.of(digest) is not before:
                return self._shelf.open_blob(digest)

    def _send_blob(self, digest: str, file: BinaryIO, asked: str | None) -> None:
        size = os.fstat(file.fileno()).st_size
        span = parse_range(asked, size)
        headers = _blob_headers(digest) + _told(Holds.HELD)
        if span is None:
            self._refuse(416, "SIZE_INVALID", f"it has {size} bytes", [("Content-Range", f"bytes */{size}")])
            return
        if len(span) != size:
            headers.append(("Content-Range", f"bytes {span.start}-{span.stop - 1}/{size}"))
        self._send_head(206 if len(span) != size else 200, len(span), headers, end=False)
        if span:
            whole = h11.Data(data=cast(bytes, _Span(len(span))))
            for part in self._http.send_with_data_passthrough(whole) or ():
                if part is whole.data:
                    self._send_file(file, span)
                else:
                    self._client.sendall(part)
        self._client.sendall(self._http.send(h11.EndOfMessage()) or b"")

    def _send_file(self, file: BinaryIO, span: range) -> None:
        if not isinstance(self._client, ssl.SSLSocket):
            sent = self._client.sendfile(file, span.start, len(span))
            if sent != len(span):
                raise OSError(errno.EIO, "the blob was cut short")
            return
        file.seek(span.start)
        left = len(span)
        while left:
            data = file.read(min(left, _PIECE))
            if not data:
                raise OSError(errno.EIO, "the blob was cut short")
            self._client.sendall(data)
            left -= len(data)

    def _refuse(
        self, status: int, code: str, message: str, headers: _Headers | None = None, *, close: bool = False
    ) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        extra = [("Content-Type", "application/json"), *(headers or [])]
        self._send(status, body, [*extra, ("Connection", "close")] if close else extra)

    def _send(self, status: int, body: bytes, headers: _Headers) -> None:
        self._send_head(status, len(body), headers, end=False)
        out = b"" if self._head_only else self._http.send(h11.Data(data=body)) or b""
        self._client.sendall(out + (self._http.send(h11.EndOfMessage()) or b""))

    def _send_head(self, status: int, length: int, headers: _Headers, *, end: bool = True) -> None:
        fields = [("Docker-Distribution-Api-Version", "registry/2.0"), ("Content-Length", str(length))]
        head = self._http.send(h11.Response(status_code=status, headers=[*fields, *headers])) or b""
        if end:
            head += self._http.send(h11.EndOfMessage()) or b""
        self._client.sendall(head)

    _head_only = False


class _Span:
    """Stands for the bytes of a file where h11 counts what is sent."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length


_LATER = ("Retry-After", "1")


def _told(holds: Holds) -> _Headers:
    return [("Mooring-Blob", holds.value)]


def _blob_headers(digest: str) -> _Headers:
    return [
        ("Content-Type", "application/octet-stream"),
        ("Docker-Content-Digest", digest),
        ("Accept-Ranges", "bytes"),
    ]


def _shut(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it has ended by itself
