# SPDX-License-Identifier: Apache-2.0
"""Bytes between a hijacked connection and a process: who ends what, and what is delivered then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from mooring_agent.api import duplex
from mooring_agent.api.messages import ClientDisconnected


class Client:
    """A raw stream with `sent` in it; a client that has gone takes no output."""

    def __init__(self, *sent: bytes, gone: bool) -> None:
        self._sent = list(sent)
        self.left: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._gone = gone
        self.got = b""

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self._sent:
            return self._sent.pop(0)
        if self._gone:
            raise ClientDisconnected("it has gone")
        return b""

    async def write(self, data: bytes) -> None:
        if self._gone:
            raise ClientDisconnected("it has gone")
        self.got += data


class Process:
    """Says `says` and ends, or goes on for ever; takes its input at once, or never."""

    tty = False

    def __init__(self, *says: bytes, ends: bool = False, reads: bool = True) -> None:
        self._says = says
        self._ends = ends
        self._reads = reads
        self.heard: list[bytes] = []
        self.closed = False

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        for said in self._says:
            yield 1, said
        if not self._ends:
            await asyncio.Event().wait()

    async def write(self, data: bytes) -> None:
        if not self._reads:
            await asyncio.Event().wait()
        self.heard.append(data)

    async def close_stdin(self) -> None:
        self.heard.append(b"")

    def close(self) -> None:
        self.closed = True


def carried(client: Client, process: Process) -> asyncio.Task[bool]:
    return asyncio.create_task(duplex.carry(client, process, framed=False, stdin=True))


@pytest.mark.parametrize("says", [(), (b"output",)])
def test_what_was_sent_before_the_client_left_is_delivered(says: tuple[bytes, ...]) -> None:
    async def work() -> None:
        client, process = Client(b"one", b"two", gone=True), Process(*says)
        client.left.set_result(None)
        assert await asyncio.wait_for(carried(client, process), 5) is False
        assert process.heard == [b"one", b"two"]
        assert process.closed

    asyncio.run(work())


def test_a_process_that_does_not_read_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplex, "_REST_SECONDS", 0.05)

    async def work() -> None:
        client, process = Client(b"one", gone=True), Process(reads=False)
        client.left.set_result(None)
        assert await asyncio.wait_for(carried(client, process), 5) is False
        assert process.closed

    asyncio.run(work())


def test_a_client_that_has_ended_its_input_is_served_until_it_leaves() -> None:
    async def work() -> None:
        client, process = Client(b"one", gone=False), Process(b"output")
        carrying = carried(client, process)
        for _ in range(100):  # turns of the loop, however long they take
            await asyncio.sleep(0)
        assert not carrying.done()
        assert (client.got, process.heard) == (b"output", [b"one", b""])
        client.left.set_result(None)
        assert await asyncio.wait_for(carrying, 5) is False

    asyncio.run(work())


def test_a_process_that_has_said_everything_is_known_to_have() -> None:
    async def work() -> None:
        client, process = Client(gone=False), Process(b"output", ends=True)
        assert await asyncio.wait_for(carried(client, process), 5) is True
        assert client.got == b"output"

    asyncio.run(work())
