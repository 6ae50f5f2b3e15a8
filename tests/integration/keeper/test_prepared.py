# SPDX-License-Identifier: Apache-2.0
"""A launcher that has become all that its process shall be, and waits for a word, which comes or does not."""

from __future__ import annotations

import os
import secrets
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from mooring_agent.errors import Unavailable
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient, KeeperRefused

from .keepers import KeeperUnderTest, Session, kill_and_wait, until

pytestmark = pytest.mark.root


async def prepare(session: Session, *argv: str) -> tuple[messages.Launch, int]:
    """What has to be sent to have it go, and its process."""
    slot = await session.acquire()
    id = secrets.token_hex(32)
    session.keeper.note_group(id, slot)
    order = messages.Launch(slot.slot, id, False, False, session.keeper.log_directory(id), 0, 3)
    await session.client.prepare(order, replace(session.keeper.plan(id, *argv), ahead=True).encode())
    return order, slot.pid


def left_of(keeper: KeeperUnderTest, order: messages.Launch) -> set[str]:
    """Its groups and pipes."""
    return {
        *(name for name in keeper.groups() if name in (order.id, order.slot)),
        *(name for name in os.listdir(keeper.run_root / "keeper/pipes") if name.startswith(order.id)),
    }


def test_it_goes_when_it_is_told_to(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        order, _ = await prepare(session, "sh", "-c", "echo out; exit 6")
        assert order.id not in await session.records()

        await session.client.launch(order, None)

        assert (await session.ended(order.id)).exit_code == 6
        assert shared.output(order.id) == b"out\n"

    shared.run(work)


def anonymous_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def test_it_waits_without_python_s_memory(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        order, pid = await prepare(session, "sleep", "60")

        await until(lambda: anonymous_kib(pid) < 512)

        await session.client.launch(order, None)
        # An execve(2) closes what tells of it before the new command line is there.
        await until(lambda: Path(f"/proc/{pid}/cmdline").read_bytes() == b"sleep\x0060\0")
        await session.client.request(messages.Signal(order.id, signal.SIGKILL))
        await session.ended(order.id)

    shared.run(work)


def test_one_that_cannot_be_executed_after_all_is_gone(shared: KeeperUnderTest) -> None:
    script = shared.rootfs / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)

    async def work(session: Session) -> None:
        order, pid = await prepare(session, "/script")
        await until(lambda: anonymous_kib(pid) < 512)

        with pytest.raises(Unavailable, match="cannot be executed"):
            await session.client.launch(order, None)

        # Its group has the container's name, and goes with what the engine has of the container.
        await until(lambda: left_of(shared, order) <= {order.id})

    shared.run(work)


def test_nothing_is_left_of_it_when_its_release_is_answered(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        order, _ = await prepare(session, "sleep", "60")

        await session.client.request(messages.Release(order.slot))

        assert left_of(shared, order) == set()
        with pytest.raises(Unavailable):
            await session.client.launch(order, None)

    shared.run(work)


def test_one_that_cannot_be_prepared_is_gone_when_it_is_asked_for(shared: KeeperUnderTest) -> None:
    """The next one, with a plan of its own, says what is wrong."""

    async def work(session: Session) -> None:
        order, _ = await prepare(session, "no-such-program")

        await until(lambda: left_of(shared, order) == set())

        with pytest.raises(Unavailable, match="is not there"):
            await session.client.launch(order, None)

    shared.run(work)


def test_a_container_is_prepared_once(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        order, _ = await prepare(session, "sleep", "60")
        other = await session.acquire()
        again = replace(order, slot=other.slot)
        with pytest.raises(KeeperRefused, match="is being prepared already"):
            await session.client.prepare(again, b"{}")
        with pytest.raises(KeeperRefused, match="is prepared for container"):
            await session.client.request(replace(order, id="f" * 64))
        await session.client.request(messages.Release(other.slot))
        await session.client.request(messages.Release(order.slot))

    shared.run(work)


def test_it_goes_with_the_connection_that_has_prepared_it(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        other = Session(shared, KeeperClient(shared.run_root))
        await other.client.connect()
        order, _ = await prepare(other, "sleep", "60")
        other.client.close()
        await until(lambda: left_of(shared, order) == set())

    shared.run(work)


def test_a_killed_keeper_s_successor_clears_its_pipes_away(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        await prepare(session, "sleep", "60")
        kill_and_wait(session.client.identity.pid)

    keeper.run(work, clear=False)

    async def after(session: Session) -> None:
        await until(lambda: os.listdir(keeper.run_root / "keeper/pipes") == [])

    keeper.run(after)


def test_one_that_was_killed_is_gone_when_it_is_asked_for(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        order, pid = await prepare(session, "sleep", "60")
        os.kill(pid, signal.SIGKILL)
        await until(lambda: left_of(shared, order) == set())
        with pytest.raises(Unavailable, match="is not there"):
            await session.client.launch(order, None)

    shared.run(work)
