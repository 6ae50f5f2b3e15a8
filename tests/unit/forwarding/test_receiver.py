# SPDX-License-Identifier: Apache-2.0
"""A receiver goes on whatever fails, and tells what will not be sent."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mooring_agent.engine.forwarding import receiver as receivers
from mooring_agent.engine.forwarding.backlog import Backlog
from mooring_agent.engine.forwarding.links import Datagrams, Link
from mooring_agent.engine.forwarding.origin import Encoder, Line
from mooring_agent.engine.forwarding.receiver import Receiver
from mooring_agent.engine.forwarding.shipment import Shipment
from mooring_agent.keeper.logs import Log, OpenFiles


class Told:
    """What a receiver has told."""

    def __init__(self) -> None:
        self.what: list[tuple[str, str]] = []

    def unreachable(self, receiver: str, error: str) -> None:
        self.what.append(("unreachable", error))

    def reachable(self, receiver: str) -> None:
        self.what.append(("reachable", receiver))

    def lost(self, shipment: Shipment, what: str) -> None:
        self.what.append(("lost", what))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receivers, "_BACKOFF", (0.01,))


@asynccontextmanager
async def receiving(
    failures: list[Exception],
) -> AsyncIterator[tuple[Receiver, Told, Callable[[], Awaitable[bytes]]]]:
    """A receiver to which no link can be had at first; what it has told, and the next message there."""
    there = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    there.bind("")  # an abstract name of the kernel's choice

    async def connect() -> Link:
        if failures:
            raise failures.pop(0)
        here = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        here.connect(there.getsockname())
        return Datagrams(here)

    async def heard() -> bytes:
        async with asyncio.timeout(5):
            return await asyncio.get_running_loop().sock_recv(there, 1 << 16)

    told = Told()
    receiver = Receiver("there", connect, told)
    try:
        yield receiver, told, heard
    finally:
        await receiver.close()
        there.close()


def shipment(base: Path, name: str, text: bytes, receiver: Receiver, encode: Encoder) -> Shipment:
    """What of a log with this content is to be sent."""
    log = Log(f"{base}/{name}", 0, 3, OpenFiles())
    log.append(text, 1)
    log.close()
    container: Any = SimpleNamespace(name=name, status="running", spec=None)
    return Shipment(container, Backlog(f"{base}/{name}", f"{base}/{name}.sent"), receiver, lambda: encode)


def plain(line: Line) -> bytes:
    return line.text


def test_no_failure_silences_a_receiver(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failures = [OSError(errno.ECONNREFUSED, "refused"), ValueError("a bug")]

    async def session() -> None:
        async with receiving(failures) as (receiver, told, heard):
            shipment(tmp_path, "one", b"hello\n", receiver, plain).set()
            assert await heard() == b"hello"
            assert told.what[0] == ("unreachable", "Connection refused")

    asyncio.run(session())
    assert "a bug" in caplog.text
    assert "refused" not in caplog.text


def test_a_log_that_cannot_be_read_holds_up_no_other(tmp_path: Path) -> None:
    failing = {b"bad"}

    def encode(line: Line) -> bytes:
        if line.text in failing:
            raise ValueError(line.text)
        return line.text

    async def session() -> None:
        async with receiving([]) as (receiver, _, heard):
            shipment(tmp_path, "bad", b"good\nbad\n", receiver, encode).set()
            shipment(tmp_path, "other", b"other\n", receiver, plain).set()
            assert await heard() == b"other"
            failing.clear()
            assert [await heard(), await heard()] == [b"good", b"bad"]

    asyncio.run(session())


def test_messages_that_are_too_long_for_a_datagram_are_told(tmp_path: Path) -> None:
    def encode(line: Line) -> bytes:
        return line.text * (1 << 20 if line.text == b"long" else 1)

    async def session() -> None:
        async with receiving([]) as (receiver, told, heard):
            sent = shipment(tmp_path, "one", b"long\nshort\n", receiver, encode)
            sent.set()
            assert await heard() == b"short"
            assert await receiver.finish(sent, 5)
            assert told.what == [("lost", "messages too long for a datagram: 1")]

    asyncio.run(session())
