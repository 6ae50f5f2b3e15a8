# SPDX-License-Identifier: Apache-2.0
"""A server of routes on a socket of its own, in a thread, and a client that sees its bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import waiting
from mooring_agent.api.access.owned import OwnedCalls
from mooring_agent.api.access.policy import Policy
from mooring_agent.api.application import Application
from mooring_agent.api.router import Route
from mooring_agent.api.server import Server
from mooring_agent.api.tls.settings import TlsSettings

PATIENCE = 5.0 * waiting.PATIENCE


@dataclass
class Answer:
    """One answer as it stood on the wire."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Wire:
    """A client that writes and reads raw bytes."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self._buffer = b""

    def recv(self) -> bytes:
        return self.sock.recv(65536)

    def end_input(self) -> None:
        self.sock.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *exc: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def ask(self, method: str, target: str, body: bytes = b"", **headers: str) -> None:
        lines = [f"{method} {target} HTTP/1.1", "Host: docker"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + body)

    def until(self, mark: bytes) -> bytes:
        while mark not in self._buffer:
            data = self.recv()
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        taken, _, self._buffer = self._buffer.partition(mark)
        return taken + mark

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.recv()
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def rest(self) -> bytes:
        while data := self.recv():
            self._buffer += data
        taken, self._buffer = self._buffer, b""
        return taken

    def head(self) -> Answer:
        first, *lines = self.until(b"\r\n\r\n").decode().strip().split("\r\n")
        _, status, reason = (first + " ").split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        return Answer(int(status), reason.strip(), headers, b"")

    def chunk(self) -> bytes:
        size = int(self.until(b"\r\n"), 16)
        data = self.exactly(size)
        self.exactly(2)
        return data

    def answer(self) -> Answer:
        answer = self.head()
        if answer.headers.get("transfer-encoding") == "chunked":
            while data := self.chunk():
                answer.body += data
        else:
            answer.body = self.exactly(int(answer.headers.get("content-length", "0")))
        return answer

    def call(self, method: str, target: str, body: bytes = b"", **headers: str) -> Answer:
        self.ask(method, target, body, **headers)
        return self.answer()


class TlsWire(Wire):
    """A client over TLS that ends its side by close_notify alone, as Go's clients do."""

    def __init__(self, address: tuple[str, int], context: ssl.SSLContext, receive_buffer: int = 0) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self._buffer = b""
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_hostname="127.0.0.1")
        self._until_done(self.tls.do_handshake)

    def _until_done(self, step: Callable[[], Any]) -> Any:
        while True:
            try:
                found = step()
            except ssl.SSLWantReadError:
                self._flush()
                data = self.sock.recv(65536)
                if not data:
                    raise EOFError("the server has ended the TCP stream") from None
                self._in.write(data)
            else:
                self._flush()
                return found

    def _flush(self) -> None:
        if data := self._out.read():
            self.sock.sendall(data)

    def send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self.tls.write(left) :]
        self._flush()

    def recv(self) -> bytes:
        try:
            data: bytes = self._until_done(lambda: self.tls.read(65536))
        except ssl.SSLZeroReturnError:
            return b""
        return data

    def end_input(self) -> None:
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        self._flush()


@dataclass
class Served:
    """A running server."""

    path: Path
    loop: asyncio.AbstractEventLoop
    server: Server

    def wire(self) -> Wire:
        return Wire(self.path)

    def call(self, method: str, target: str, body: object = None, **headers: str) -> Answer:
        data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        with self.wire() as wire:
            return wire.call(method, target, data, **headers)


@contextmanager
def served(
    path: Path,
    routes: list[Route],
    tls: TlsSettings | None = None,
    policy: Policy | None = None,
    owned: OwnedCalls | None = None,
) -> Iterator[Served]:
    """Serve while the block runs."""
    server = Server(path, tls=tls)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stopping = asyncio.Event()

    async def main() -> None:
        await server.start(Application(routes, policy, owned))
        ready.set()
        await stopping.wait()
        await server.stop(grace=1.0)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(main())
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(PATIENCE)
    try:
        yield Served(path, loop, server)
    finally:
        loop.call_soon_threadsafe(stopping.set)
        thread.join(PATIENCE)
        assert not thread.is_alive()
