# SPDX-License-Identifier: Apache-2.0
"""A server of routes on a socket of its own, in a thread, and a client that sees its bytes."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring_agent.api.application import Application
from mooring_agent.api.router import Route
from mooring_agent.api.server import Server

PATIENCE = 5.0


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
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        taken, _, self._buffer = self._buffer.partition(mark)
        return taken + mark

    def exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError(self._buffer)
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def rest(self) -> bytes:
        while data := self.sock.recv(65536):
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
def served(path: Path, routes: list[Route]) -> Iterator[Served]:
    """Serve while the block runs."""
    server = Server(path)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    stopping = asyncio.Event()

    async def main() -> None:
        await server.start(Application(routes))
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
