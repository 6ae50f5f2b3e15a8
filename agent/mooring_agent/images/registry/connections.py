# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 connections to registries, kept open between requests and shared by threads.

On the standard library's client. One exchange here is one request on one connection: redirects, repetition
and authentication are above. Each read and write has a stall limit, each answer a time to begin.
"""

from __future__ import annotations

import collections
import http.client
import io
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images.registry.proxies import choose_proxy
from mooring_agent.images.registry.settings import Tls, TlsSettings

_IDLE_TIME = 60.0  # seconds that an unused connection is kept; many servers end theirs after 75
_IDLE_CONNECTIONS = 8  # a server
_PORTS = {"http": 80, "https": 443}
_READ = 1 << 18  # bytes


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds: to connect, between two pieces of data, and until an answer begins."""

    connect: float = 10.0
    stall: float = 30.0
    answer: float = 60.0


class Broken(Exception):
    """A connection failed, or ended ahead of its time; the message says how, without naming the peer."""


class Unreachable(Broken):
    """No connection came about."""


class Mismatch(Broken):
    """The two sides do not come together, which no repetition changes, but perhaps another `setting`."""

    def __init__(self, message: str, setting: str = "") -> None:
        super().__init__(message)
        self.setting = setting


class Response:
    """An answer. Its body is read by `read` or `document`; close it, or use it as a context manager."""

    def __init__(self, pool: ConnectionPool, key: _Key, connection: _Connection, url: str) -> None:
        self._pool, self._key, self._connection = pool, key, connection
        self._raw = connection.getresponse()
        self._finished = False
        self.url = url
        self.status = self._raw.status
        self.headers = self._raw.headers

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come, None when the server did not say."""
        return self._raw.length

    def read(self, amount: int = _READ) -> bytes:
        """Return what has come, at most `amount` bytes; empty at the end. Raises Broken if cut off."""
        if self._finished:
            return b""
        self._connection.watch.deadline = None
        try:
            data = self._raw.read1(amount)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise _broken(error) from error
        if not data or self._raw.length == 0:
            cut_off = not data and bool(self._raw.length)
            self._finish(reusable=not cut_off)
            if cut_off:
                raise Broken(f"the connection ended {self._raw.length} bytes too early")
        return data

    def document(self, limit: int) -> bytes | None:
        """Return the whole body, or None when it has more than `limit` bytes. Raises Broken."""
        parts, size = [], 0
        deadline = time.monotonic() + self._pool.limits.answer
        while data := self.read():
            parts.append(data)
            size += len(data)
            if size > limit:
                self.close()
                return None
            if time.monotonic() > deadline:
                self.close()
                raise Broken(f"a document did not come to its end within {self._pool.limits.answer:g} s")
        return b"".join(parts)

    def close(self) -> None:
        """Give the connection up if the body was not read to its end."""
        if not self._finished:
            self._finish(reusable=self._raw.length == 0)

    def _finish(self, *, reusable: bool) -> None:
        self._finished = True
        reusable = reusable and not self._raw.will_close
        self._raw.close()
        self._pool.release(self._key, self._connection, reusable=reusable)


@dataclass(frozen=True, slots=True)
class _Key:
    scheme: str
    host: str
    port: int
    tls: TlsSettings


@dataclass(slots=True)
class _Watch:
    """The time until which an answer must have begun (monotonic), None while there is no such limit."""

    stall: float
    deadline: float | None = None

    def next_wait(self) -> float:
        if self.deadline is None:
            return self.stall
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _Incoming(io.RawIOBase):
    """What comes from a socket, each read with its limit: a body's pieces each, an answer's head in all."""

    def __init__(self, connection: socket.socket, watch: _Watch) -> None:
        self._socket, self._watch = connection, watch
        # A socket is closed once nothing made of it is open any more.
        self._raw = connection.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(self._watch.next_wait())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Watched:
    """Stands for the socket where HTTPResponse makes its file of it."""

    def __init__(self, connection: socket.socket, watch: _Watch) -> None:
        self._socket, self._watch = connection, watch

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._socket, self._watch), _READ)


class _Connection(http.client.HTTPConnection):
    """A connection that may be encrypted and go through a proxy's tunnel."""

    def __init__(
        self, host: str, port: int, server_name: str, context: ssl.SSLContext | None, limits: Limits
    ):
        super().__init__(host, port, timeout=limits.connect)
        self._server_name, self._context, self._limits = server_name, context, limits
        self.watch = _Watch(limits.stall)
        self.via_proxy = False
        self.proxy_authorization = ""
        self.idle_since = 0.0
        self.is_spoiled = False
        self.response_class = self._make_response  # type: ignore[assignment]

    def _make_response(
        self, connection: socket.socket, debuglevel: int = 0, method: str | None = None
    ) -> http.client.HTTPResponse:
        return http.client.HTTPResponse(_Watched(connection, self.watch), debuglevel, method)  # type: ignore[arg-type]

    def connect(self) -> None:
        """Connect, shake hands and set the stall limit."""
        self.watch.deadline = time.monotonic() + self._limits.connect
        super().connect()
        assert self.sock is not None
        if self._context is not None:
            self.sock = self._context.wrap_socket(self.sock, server_hostname=self._server_name)
        self.sock.settimeout(self._limits.stall)
        self.watch.deadline = None

    def is_stale(self, now: float) -> bool:
        """Whether the server has ended it, or said something unasked, or it was unused for too long."""
        if self.sock is None or now - self.idle_since > _IDLE_TIME:
            return True
        poll = select.poll()  # select.select knows no descriptor beyond 1023
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


class ConnectionPool:
    """Connections by server and TLS settings. Safe for threads; `close` ends also those in use."""

    def __init__(self, limits: Limits | None = None, environment: Mapping[str, str] = os.environ) -> None:
        self.limits = limits or Limits()
        self._environment = environment
        self._lock = threading.Lock()
        self._idle: dict[_Key, collections.deque[_Connection]] = {}
        self._used: set[_Connection] = set()
        self._contexts: dict[TlsSettings, ssl.SSLContext] = {}
        self._plain: dict[tuple[str, TlsSettings], bool] = {}  # what was found out where tls is `any`
        self._reaper: threading.Timer | None = None  # while there are connections that nobody uses
        self._closed = False

    def exchange(
        self,
        method: str,
        url: str,
        tls: TlsSettings,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None = None,
        answer: float | None = None,
    ) -> Response:
        """Send one request and return its answer once its head is there.

        `answer` replaces the limit of that name. A body that is no bytes needs a Content-Length among the
        headers. Raises Broken for what may be tried again, Unavailable for a certificate that is not trusted,
        InvalidSpec for files that hold none.
        """
        parts = urlsplit(url)
        key = _key(parts, tls)
        repeatable = body is None or isinstance(body, bytes)
        while True:
            connection, fresh = self._acquire(key)
            try:
                return self._send(key, connection, method, parts, headers, body, answer)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.release(key, connection, reusable=False)
                if isinstance(error, ssl.SSLCertVerificationError):
                    raise _untrusted(key, error) from error
                # A kept connection that the server ended in this moment says nothing about the server.
                if fresh or not repeatable or isinstance(error, TimeoutError):
                    raise _broken(error) from error
            except BaseException:
                self.release(key, connection, reusable=False)
                raise

    def scheme(self, address: str, tls: TlsSettings) -> str:
        """`https` or `http`: by the settings, or with `any` by trying once. Raises Broken."""
        try:
            key = _key(urlsplit(f"https://{address}"), tls)
        except ValueError as error:
            raise Mismatch(f"{address} is no address ({error})") from None
        if tls.mode is not Tls.ANY:
            return "http" if tls.mode is Tls.OFF else "https"
        plain = self._plain.get((address, tls))
        if plain is None:
            connection, _ = self._acquire(key)
            try:
                if connection.sock is None:
                    connection.connect()
                plain = False
            except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                plain = True
            except OSError as error:
                raise _unreachable(error) from error
            finally:
                self.release(key, connection, reusable=plain is False)
            self._plain[address, tls] = plain
        return "http" if plain else "https"

    def release(self, key: _Key, connection: _Connection, *, reusable: bool) -> None:
        """Take a connection back."""
        with self._lock:
            self._used.discard(connection)
            if reusable and not connection.is_spoiled and not self._closed:
                idle = self._idle.setdefault(key, collections.deque())
                if len(idle) < _IDLE_CONNECTIONS:
                    connection.idle_since = time.monotonic()
                    idle.append(connection)
                    self._reap_later()
                    return
        connection.close()

    def close(self) -> None:
        """End all connections; threads that wait for one get Broken."""
        with self._lock:
            self._closed = True
            idle = [connection for queue in self._idle.values() for connection in queue]
            self._idle.clear()
            if self._reaper is not None:
                self._reaper.cancel()
            used = [connection.sock for connection in self._used if connection.sock is not None]
        for connection in idle:
            connection.close()
        for sock in used:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended by itself

    def _reap_later(self) -> None:
        if self._reaper is None:
            self._reaper = threading.Timer(_IDLE_TIME, self._reap)
            self._reaper.daemon = True
            self._reaper.start()

    def _reap(self) -> None:
        """End what was unused for too long: its descriptor would stay until that server is asked again."""
        ended = []
        with self._lock:
            now = time.monotonic()
            for key, idle in tuple(self._idle.items()):
                while idle and now - idle[0].idle_since >= _IDLE_TIME:
                    ended.append(idle.popleft())
                if not idle:
                    del self._idle[key]
            self._reaper = None
            if self._idle:
                self._reap_later()
        for connection in ended:
            connection.close()

    def _acquire(self, key: _Key) -> tuple[_Connection, bool]:
        """A connection of one's own, and whether it is a new one."""
        stale = []
        try:
            with self._lock:
                if self._closed:
                    raise Unavailable("the agent is stopping: registries are not asked any more")
                idle = self._idle.get(key)
                now = time.monotonic()
                while idle:
                    connection = idle.pop()
                    if not connection.is_stale(now):
                        self._used.add(connection)
                        return connection, False
                    stale.append(connection)
        finally:
            for connection in stale:
                connection.close()
        connection = self._open(key)
        with self._lock:
            self._used.add(connection)
        return connection, True

    def _open(self, key: _Key) -> _Connection:
        context = self._context(key.tls) if key.scheme == "https" else None
        proxy = choose_proxy(self._environment, key.scheme, key.host, key.port)
        if proxy is None:
            return _Connection(key.host, key.port, key.host, context, self.limits)
        connection = _Connection(proxy.host, proxy.port, key.host, context, self.limits)
        if context is not None:
            headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
            connection.set_tunnel(key.host, key.port, headers)
        else:
            connection.via_proxy = True
            connection.proxy_authorization = proxy.authorization
        return connection

    def _send(
        self,
        key: _Key,
        connection: _Connection,
        method: str,
        parts: SplitResult,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] | None,
        answer: float | None,
    ) -> Response:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        sent = dict(headers)
        # Named here: http.client would name the proxy.
        sent["Host"] = parts.netloc
        if connection.via_proxy:
            target = f"http://{parts.netloc}{target}"
            if connection.proxy_authorization:
                sent["Proxy-Authorization"] = connection.proxy_authorization
        if connection.sock is None:
            try:
                connection.connect()
            except ssl.SSLError:
                raise
            except OSError as error:
                raise _unreachable(error) from error
        sock = connection.sock
        assert sock is not None
        sock.settimeout(self.limits.stall)
        try:
            connection.request(method, target, body, sent)
        except (BrokenPipeError, ConnectionResetError, ssl.SSLEOFError):
            # A server may refuse a body ahead of its end; what it says then is worth more than the failure.
            if body is None:
                raise
            connection.is_spoiled = True
        connection.watch.deadline = time.monotonic() + (answer or self.limits.answer)
        return Response(self, key, connection, parts.geturl())

    def _context(self, tls: TlsSettings) -> ssl.SSLContext:
        with self._lock:
            context = self._contexts.get(tls)
        if context is None:
            context = _make_context(tls)
            with self._lock:
                self._contexts[tls] = context
        return context


def _key(parts: SplitResult, tls: TlsSettings) -> _Key:
    return _Key(parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme], tls)


def _make_context(tls: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if tls.private else ssl.create_default_context()
    # Python 3.13 is stricter with CAs than 3.11 and other clients: many private ones state no key usage.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if tls.mode is not Tls.VERIFY:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    for path in tls.ca_files:
        try:
            context.load_verify_locations(path)
        except OSError as error:
            raise InvalidSpec(
                f"CA file {path} is not usable ({error.strerror or error}): expected certificates in PEM form"
            ) from error
    if tls.client_certificate is not None:
        try:
            # A key that is encrypted must not ask on the terminal.
            context.load_cert_chain(tls.client_certificate, tls.client_key, password="")
        except (OSError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            raise InvalidSpec(
                f"client certificate {tls.client_certificate} with key {tls.client_key} is not usable "
                f"({reason}): expected both in PEM form, belonging together, the key not encrypted"
            ) from error
    return context


def _untrusted(key: _Key, error: ssl.SSLCertVerificationError) -> Unavailable:
    port = "" if key.port == _PORTS["https"] else f":{key.port}"
    host = f"[{key.host}]{port}" if ":" in key.host else f"{key.host}{port}"
    return Unavailable(
        f"the certificate of registry {host} is not trusted ({error.verify_message}): expected one that "
        f"a CA of this host signed for that name; give its CA with registries.{host}.ca_file, or put it at "
        f"/etc/docker/certs.d/{host}/ca.crt",
        code="untrusted_certificate",
    )


def _unreachable(error: OSError) -> Broken:
    broken = _broken(error)
    return broken if isinstance(broken, Mismatch) else Unreachable(str(broken))


def _broken(error: Exception) -> Broken:
    if isinstance(error, TimeoutError):
        return Broken("nothing came within the time limit")
    if isinstance(error, http.client.IncompleteRead):
        return Broken("the connection ended too early")
    if isinstance(error, http.client.RemoteDisconnected):
        return Broken("it ended the connection without an answer")
    if isinstance(error, ssl.SSLError):
        if error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"):
            return Mismatch("it does not speak TLS; if plain HTTP is meant, say off", "tls")
        if "ALERT" in (error.reason or "") and ("CERT" in error.reason or "HANDSHAKE" in error.reason):
            reason = error.reason.rpartition("ALERT_")[2].replace("_", " ").lower()
            return Mismatch(
                f"it ends the TLS handshake ({reason}); it may want a client's certificate",
                "client_certificate",
            )
        return Broken(f"TLS failed: {error.reason or error}")
    if isinstance(error, socket.gaierror):
        reason = f"its name is not known here ({error.strerror})"
        return Mismatch(reason) if error.errno == socket.EAI_NONAME else Broken(reason)
    if isinstance(error, OSError):
        return Broken(error.strerror or str(error))
    return Broken(f"its answer is no HTTP ({type(error).__name__})")
