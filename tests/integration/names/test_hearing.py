# SPDX-License-Identifier: Apache-2.0
"""One host hears another over a real connection, on loopback: what it says, how it says it, and when not."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import PATIENCE
from mooring_agent.linux.sockettables import receiving
from mooring_agent.network.naming import transfer
from mooring_agent.network.naming.files import NameFiles
from mooring_agent.network.naming.primary import Primary
from mooring_agent.network.naming.secondary import Secondary
from mooring_agent.network.naming.transfer import LONGEST_LINE, PORT, Pace, Record
from mooring_agent.network.overlay import Host, Overlay

PACE = Pace(
    heartbeat=0.1,
    silence=0.5 * PATIENCE,  # this process may be off the processor for a while
    forget=1.0 * PATIENCE,
    again_first=0.05,
    again_most=0.2,
    answer=0.5 * PATIENCE,
)
BRIDGE = "mr0000-0"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def host(number: int) -> Host:
    """A host whose slice is on loopback."""
    slice = ipaddress.IPv4Network(f"127.77.{number}.0/24")
    return Host(f"h{number}", ipaddress.IPv4Address(f"192.0.2.{number}"), slice)


def overlay(own: int, *numbers: int) -> Overlay:
    """An overlay on loopback."""
    return Overlay(ipaddress.IPv4Network("127.77.0.0/16"), 1, tuple(map(host, (own, *numbers))), f"h{own}")


def line(**said: Any) -> bytes:
    return json.dumps(said).encode() + b"\n"


def web(name: str = "web", last: int = 5, number: int = 2) -> dict[str, Any]:
    return {f"c{last}": {"addresses": [f"127.77.{number}.{last}"], "names": [name]}}


async def until(check: Callable[[], object], what: str) -> None:
    """Wait for what happens meanwhile."""
    deadline = time.monotonic() + 5 * PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.01)


class Listener:
    """Host 1, which listens to host 2."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dotted_changes = 0
        files = NameFiles(root, "nobody")
        self.secondary = Secondary(host(2), BRIDGE, "lo", files, PACE, self._dotted)

    def _dotted(self) -> None:
        self.dotted_changes += 1

    def known(self) -> str:
        """What is in the files."""
        directory = self.root / "networks" / BRIDGE / "hosts"
        return "".join(sorted(path.read_text() for path in directory.glob("slice-127.77.2.0-*")))

    @property
    def problem(self) -> str:
        """What it has to say."""
        return str(self.secondary.view()["problem"])

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self.secondary.run("127.77.1.1"))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task


def is_listening() -> bool:
    """Whether host 2 does, without asking it."""
    there = (ipaddress.IPv4Address("127.77.2.1"), PORT)
    return any(there == (address, port) for address, port, _ in receiving(Path("/proc/self/net"), "tcp"))


async def serve(talk: Talk) -> asyncio.Server:
    """Host 2, which says what `talk` says, and then nothing until it is left."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError):
                await talk(reader, writer)
                await reader.read()
        finally:
            writer.close()

    return await asyncio.start_server(answer, "127.77.2.1", PORT)


def say(*lines: bytes) -> Talk:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.writelines(lines)
        await writer.drain()

    return talk


@pytest.fixture
def listener(tmp_path: Path) -> Listener:
    """Return a host that does not listen yet."""
    return Listener(tmp_path / "names")


def test_what_a_host_tells_is_known_and_stays_while_it_refuses(listener: Listener) -> None:
    async def scenario() -> None:
        primary = Primary(overlay(2, 1), PACE, lambda _: None, _no_obstacles)
        primary.tell("c5", Record(("127.77.2.5",), ("web", "www.example.com")))
        telling = asyncio.create_task(primary.run())
        async with listener:
            await until(lambda: listener.known() == "127.77.2.5\tweb www.example.com\n", "web")
            assert listener.secondary.dotted == {"www.example.com"}
            primary.tell("c6", Record(("127.77.2.6",), ("db",)))
            primary.tell("c5", None)
            await until(lambda: listener.known() == "127.77.2.6\tdb\n", "db")
            assert (listener.dotted_changes, listener.secondary.dotted) == (2, frozenset())
            for _ in range(20):
                assert listener.secondary.state == "connected"  # there is a heartbeat
                await asyncio.sleep(0.05)

            telling.cancel()
            await until(lambda: listener.secondary.state == "away", "away")
            await asyncio.sleep(2 * PACE.forget)
            assert listener.secondary.state == "away"
            assert listener.known() == "127.77.2.6\tdb\n"

        again = Listener(listener.root)
        assert list(again.secondary.take_up().values()) == ["127.77.2.6\tdb\n"]
        async with again:
            primary.tell("c7", Record(("127.77.2.7",), ("late",)))
            telling = asyncio.create_task(primary.run())
            await until(lambda: again.known() == "127.77.2.6\tdb\n127.77.2.7\tlate\n", "late")
            telling.cancel()

    asyncio.run(scenario())


def test_files_of_a_former_agent_are_not_believed_either(listener: Listener) -> None:
    directory = listener.root / "networks" / BRIDGE / "hosts"
    directory.mkdir(parents=True)
    for bucket, text in enumerate(
        ("10.0.0.1\tbank\n", "127.77.2.9\tweb\nserver=/#/\n", "\xff", "127.77.2.9\tok\n")
    ):
        (directory / f"slice-127.77.2.0-{bucket}").write_text(text, encoding="latin-1")
    assert listener.secondary.take_up() == {"slice-127.77.2.0-3": "127.77.2.9\tok\n"}


def test_a_host_that_calls_is_asked_at_once(listener: Listener) -> None:
    async def scenario() -> None:
        async with listener:
            await until(lambda: "takes no connection" in listener.problem, "a refusal")
            listener.secondary._pace = Pace(again_first=60.0, again_most=60.0)
            await asyncio.sleep(0.5)
            server = await serve(say(transfer.greeting(), line(set=web(), complete=True)))
            listener.secondary.call()
            await until(lambda: listener.known() == "127.77.2.5\tweb\n", "web")
            server.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "no object of JSON"),
        (line(mooring="names", version=9), "version 9, expected 1"),
        (transfer.greeting() + b"{" + b" " * LONGEST_LINE + b"}\n", "a line is longer than 65536 bytes"),
        (transfer.greeting() + b"x" * 10 * LONGEST_LINE, "a line is longer than 65536 bytes"),
        (transfer.greeting() + line(set=web("later"), complete=True) + line(set=[]), "expected a dict"),
    ],
)
def test_what_is_not_understood_is_said_and_in_the_end_not_held(
    listener: Listener, said: bytes, why: str
) -> None:
    async def scenario() -> None:
        good = await serve(say(transfer.greeting(), line(set=web(), complete=True)))
        async with listener:
            await until(lambda: listener.known() == "127.77.2.5\tweb\n", "web")
            good.close()
            bad = await serve(say(said))
            await until(lambda: why in listener.problem, why)
            if b"later" not in said:
                assert listener.known() == "127.77.2.5\tweb\n"
                await until(lambda: listener.secondary.state == "gone", "gone")
                assert listener.known() == ""
            bad.close()

    asyncio.run(scenario())


def test_a_host_that_is_stopped_lives(listener: Listener) -> None:
    async def scenario() -> None:
        server = await serve(say(transfer.greeting(), line(set=web(), complete=True)))
        async with listener:
            await until(lambda: listener.known() == "127.77.2.5\tweb\n", "web")
            server.close()
            stopped = socket.create_server(("127.77.2.1", PORT), backlog=100)  # and accepts nobody
            await until(lambda: "does not answer" in listener.problem, "silence")
            await asyncio.sleep(2 * PACE.forget)
            assert listener.known() == "127.77.2.5\tweb\n"
            stopped.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("complete", [True, False])
def test_a_flood_does_not_carry_the_loop_away(listener: Listener, *, complete: bool) -> None:
    async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(transfer.greeting() + line(complete=complete))
        for number in range(10**6):
            writer.write(line(set=web(f"n{number}")) if number % 2 else transfer.NOTHING * 100)
            await writer.drain()

    async def scenario() -> None:
        server = await serve(flood)
        loop = asyncio.get_running_loop()
        async with listener:
            if complete:
                await until(lambda: "\tn" in listener.known(), "a name")
            waited = []
            for _ in range(100):
                began = loop.time()
                await asyncio.sleep(0.01)
                waited.append(loop.time() - began)
            assert sorted(waited)[50] < 0.05
            assert (listener.secondary.state == "connected") == complete
            server.close()

    asyncio.run(scenario())


def test_only_gateways_of_hosts_are_told_anything() -> None:
    async def scenario() -> None:
        called: list[str] = []
        primary = Primary(overlay(2, 1), PACE, called.append, _no_obstacles)
        task = asyncio.create_task(primary.run())
        await until(is_listening, "a listener")

        async def told(source: str) -> bytes:
            async with asyncio.timeout(0.5 * PATIENCE):
                reader, writer = await asyncio.open_connection("127.77.2.1", PORT, local_addr=(source, 0))
            try:
                return await reader.readline()
            except ConnectionError:
                return b""
            finally:
                writer.close()

        assert await told("127.77.1.1") == transfer.greeting()
        assert called == ["127.77.1.1"]
        assert await told("127.77.3.1") == b""  # a gateway, but none of a host
        for source in ("127.77.1.2", "127.77.2.5", "127.0.0.1", "127.78.1.1"):
            with pytest.raises(TimeoutError):
                await told(source)
        primary.admit(overlay(2, 3))
        assert await told("127.77.1.1") == b""
        assert await told("127.77.3.1") == transfer.greeting()
        task.cancel()

    asyncio.run(scenario())


def test_who_does_not_read_is_let_go_and_who_speaks_too() -> None:
    async def scenario() -> None:
        primary = Primary(overlay(2, 1), PACE, lambda _: None, _no_obstacles)
        task = asyncio.create_task(primary.run())
        await until(is_listening, "a listener")
        reader, writer = await asyncio.open_connection("127.77.2.1", PORT, local_addr=("127.77.1.1", 0))
        await reader.readline()
        writer.write(b"x")
        with suppress(ConnectionError):
            said = await reader.read()
            # There may have been a heartbeat before it was heard.
            assert said.replace(transfer.NOTHING, b"") in (b"", transfer.complete())
        writer.close()

        deaf = socket.create_connection(("127.77.2.1", PORT), 1.0, ("127.77.1.1", 0))
        await until(lambda: primary._subscribers, "a subscriber")
        names = tuple(f"{'x' * 60}.{'y' * 60}.{number}" for number in range(128))
        for number in range(400):
            primary.tell(f"c{number}", Record(("127.77.2.5",), names))
        await until(lambda: not primary._subscribers, "one less")
        deaf.close()
        task.cancel()

    asyncio.run(scenario())


def test_a_port_that_is_taken_is_said_and_had_when_it_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mooring_agent.network.naming.primary._TRY_AGAIN", 0.1)

    async def scenario() -> None:
        # Not at all addresses: agents of other tests may have it at theirs.
        other = socket.create_server(("127.77.2.1", PORT))
        primary = Primary(overlay(2, 1), PACE, lambda _: None, _no_obstacles)
        task = asyncio.create_task(primary.run())
        await until(lambda: f"port {PORT}/tcp of 127.77.2.1 cannot be had" in primary.problem, "a problem")
        assert "process" in primary.problem
        other.close()
        await until(lambda: not primary.problem, "no problem")
        task.cancel()

    asyncio.run(scenario())


async def _no_obstacles(_version: int) -> list[str]:
    return []
