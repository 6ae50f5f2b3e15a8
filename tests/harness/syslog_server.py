# SPDX-License-Identifier: Apache-2.0
"""A syslog server for tests, over datagrams, streams and TLS, with strict readers of RFC 3164 and 5424."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

from harness.waiting import PATIENCE

_CHUNK = 1 << 16
# RFC 3164, 4.1; dockerd's form for sockets of the host has no HOSTNAME.
_LEGACY = re.compile(
    rb"<(?P<pri>[1-9]?[0-9]{1,2})>"
    rb"(?P<time>(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ 123][0-9] "
    rb"[012][0-9]:[0-5][0-9]:[0-5][0-9])"
    rb"(?: (?P<host>[^ :\[\]]+))? (?P<tag>[^ :\[\]]+)\[(?P<pid>[0-9]+)\]: (?P<message>.*)",
    re.DOTALL,
)
# RFC 5424, 6, without structured data.
_MODERN = re.compile(
    rb"<(?P<pri>[1-9]?[0-9]{1,2})>1 "
    rb"(?P<time>[0-9]{4}-[01][0-9]-[0-3][0-9]T[012][0-9]:[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?"
    rb"(?:Z|[+-][012][0-9]:[0-5][0-9])) "
    rb"(?P<host>[!-~]{1,255}) (?P<tag>[!-~]{1,48}) (?P<pid>[!-~]{1,128}) (?P<id>[!-~]{1,32}) -"
    rb"(?: (?P<message>.*))?",
    re.DOTALL,
)


@dataclass(frozen=True)
class SyslogMessage:
    """A message that was well formed."""

    facility: int
    severity: int
    time: str
    host: str
    tag: str
    pid: str
    text: str


def parse(message: bytes, *, modern: bool) -> SyslogMessage:
    """Read a message, of RFC 5424 if `modern`. Raises AssertionError for what is not well formed."""
    found = (_MODERN if modern else _LEGACY).fullmatch(message)
    assert found is not None, f"no message of {'RFC 5424' if modern else 'RFC 3164'}: {message!r}"
    priority = int(found["pri"])
    assert priority <= 191, message
    words = {name: (found[name] or b"").decode() for name in ("time", "host", "tag", "pid", "message")}
    return SyslogMessage(
        priority // 8, priority % 8, *(words[name] for name in ("time", "host", "tag", "pid", "message"))
    )


class SyslogServer:
    """Takes messages until `close`. `kind` is udp, tcp, tls, unix or unixgram; a server at the same `port` or
    `path` can follow one that was closed. With `counted` messages are framed as RFC 5425 has it.
    """

    def __init__(
        self,
        kind: str,
        *,
        port: int = 0,
        path: Path | None = None,
        tls: ssl.SSLContext | None = None,
        counted: bool = False,
    ) -> None:
        self.kind, self._tls, self._counted = kind, tls, counted
        self._messages: list[bytes] = []
        self._changed = threading.Condition()
        self._stopped, self._stop = socket.socketpair()
        stream = kind in ("tcp", "tls", "unix")
        family = socket.AF_UNIX if path is not None else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        if path is not None:
            path.unlink(missing_ok=True)
            self._socket.bind(str(path))
            self.address = f"{kind}://{path}"
        else:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
            self._socket.bind(("127.0.0.1", port))
            self.port = self._socket.getsockname()[1]
            self.address = f"{'tcp+tls' if kind == 'tls' else kind}://127.0.0.1:{self.port}"
        if stream:
            self._socket.listen()
        self.connections = 0
        self._thread = threading.Thread(target=self._serve_streams if stream else self._serve_datagrams)
        self._thread.start()

    def messages(self) -> list[bytes]:
        """Return what has come so far, without framing."""
        with self._changed:
            return list(self._messages)

    def wait_for(self, count: int, timeout: float = 30.0) -> list[bytes]:
        """Return the messages as soon as there are so many."""
        with self._changed:
            enough = self._changed.wait_for(lambda: len(self._messages) >= count, timeout * PATIENCE)
            assert enough, f"{len(self._messages)} messages of {count} within {timeout:g} s"
            return list(self._messages)

    def close(self) -> None:
        """Leave, with all connections."""
        self._stop.send(b"x")
        self._thread.join(10)
        self._socket.close()
        self._stop.close()
        self._stopped.close()

    def __enter__(self) -> SyslogServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(self, messages: list[bytes]) -> None:
        with self._changed:
            self._messages += messages
            self._changed.notify_all()

    def _serve_datagrams(self) -> None:
        while self._stopped not in (ready := wait([self._socket, self._stopped])):
            if ready:
                self._add([self._socket.recv(_CHUNK)])

    def _serve_streams(self) -> None:
        begun: dict[socket.socket, bytes] = {}
        while True:
            everybody = [self._socket, self._stopped, *begun]
            ready = wait(everybody)
            if self._stopped in ready:
                break
            for each in filter(ready.__contains__, everybody):
                if each is self._socket:
                    connection, _ = self._socket.accept()
                    if self._tls is not None:
                        try:
                            connection = self._tls.wrap_socket(connection, server_side=True)
                        except (ssl.SSLError, OSError):
                            connection.close()
                            continue
                    self.connections += 1
                    begun[connection] = b""
                    continue
                data = self._received(each)
                if not data:
                    del begun[each]
                    each.close()
                    continue
                messages, begun[each] = self._cut(begun[each] + data)
                self._add(messages)
        for each in begun:
            each.close()

    @staticmethod
    def _received(connection: socket.socket) -> bytes:
        try:
            data = connection.recv(_CHUNK)
            while isinstance(connection, ssl.SSLSocket) and connection.pending():
                data += connection.recv(_CHUNK)
            return data
        except OSError:
            return b""

    def _cut(self, data: bytes) -> tuple[list[bytes], bytes]:
        if not self._counted:
            *messages, rest = data.split(b"\n")
            return messages, rest
        messages = list(self._counted_ones(data))
        return messages, data[sum(len(f"{len(each)} ") + len(each) for each in messages) :]

    @staticmethod
    def _counted_ones(data: bytes) -> Iterator[bytes]:
        while found := re.match(rb"([1-9][0-9]*) ", data):
            length = int(found[1])
            if len(data) < found.end() + length:
                return
            yield data[found.end() : found.end() + length]
            data = data[found.end() + length :]
