# SPDX-License-Identifier: Apache-2.0
"""A keeper that replaces itself by execve, in the middle of its work: nobody notices."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import mooring_agent
from harness.waiting import PATIENCE
from mooring_agent.errors import Unavailable
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient, KeeperLost, KeeperRefused

from .keepers import KeeperUnderTest, Session, descriptors, has_ended, kill_and_wait, launchers, slots, until

pytestmark = pytest.mark.root

ROUNDS = 4
# Numbered lines, as fast as they come, until it is told to end.
FLOOD = "trap e=1 TERM; i=0; while [ ! $e ]; do echo $i; i=$((i+1)); done; echo $i lines; exit 9"


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Return two directories with the agent's package, of version 1.1.1 and of version 2.2.2."""
    found = []
    for version in ("1.1.1", "2.2.2"):
        directory = tmp_path_factory.mktemp("code") / version
        shutil.copytree(
            Path(mooring_agent.__file__).parent,
            directory / "mooring_agent",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        init = directory / "mooring_agent/__init__.py"
        init.write_text(init.read_text().replace(f'"{mooring_agent.__version__}"', f'"{version}"'))
        found.append(directory)
    return found


async def upgraded(session: Session, directory: Path) -> None:
    """Let the keeper replace itself by the code in `directory`; see that it is the same process."""
    before = session.client.identity
    await session.client.renew(directory, code=directory.name)
    after = session.client.identity
    assert (after.version, after.code) == (directory.name, directory.name)
    assert (after.pid, after.guardian) == (before.pid, before.guardian)


def test_nothing_is_lost_by_upgrades_under_a_flood(shared: KeeperUnderTest, versions: list[Path]) -> None:
    """A log flood, a terminal, a container that reads and an exec live through one upgrade after another."""

    async def work(session: Session) -> None:
        flood = await session.launch("sh", "-c", FLOOD, log_size=1 << 16, log_files=100_000)
        terminal = await session.launch("sh", "-c", "while read x; do echo =$x; done", terminal=True)
        reader = await session.launch("sh", "-c", "cat; exit 3", stdin=True)
        talk, _, streams = await session.execute(reader, "sh", "-c", "cat; exit 5", stdin=True)
        await session.client.request(messages.Configure(vars(shared.shape), 2))
        await until(lambda: len(launchers(session.client.identity.pid)) >= 2)
        counts = []
        for number in range(ROUNDS):
            await upgraded(session, versions[number % 2])
            os.write(streams[0], b"%d\n" % number)
            _, (master,) = await session.client.request(messages.Streams(terminal))
            os.write(master, b"%d\n" % number)
            os.close(master)
            _, (stdin,) = await session.client.request(messages.Streams(reader))
            os.write(stdin, b"%d\n" % number)
            os.close(stdin)
            counts.append(len(descriptors(session.client.identity.pid)))
        # At first some of the logs are not open yet, and the pipe for looking ahead is not made. At last some
        # launchers of the old code may still be about to go.
        await until(lambda: len(descriptors(session.client.identity.pid)) <= counts[1] + 5)

        await session.client.request(messages.Signal(flood, signal.SIGTERM))
        assert (await session.ended(flood)).exit_code == 9
        lines = shared.output(flood).splitlines()
        count = len(lines) - 1
        assert lines == [*(b"%d" % number for number in range(count)), b"%d lines" % count]

        os.close(streams[0])
        await session.client.request(messages.CloseStdin(talk))
        assert (await session.ended(talk)).exit_code == 5
        assert os.read(streams[1], 100) == b"".join(b"%d\n" % number for number in range(ROUNDS))
        await session.client.request(messages.CloseStdin(reader))
        assert (await session.ended(reader)).exit_code == 3
        assert shared.output(reader) == b"".join(b"%d\n" % number for number in range(ROUNDS))

        def answers() -> list[bytes]:
            return [line for line in shared.output(terminal).splitlines() if line.startswith(b"=")]

        await until(lambda: len(answers()) >= ROUNDS)
        assert answers() == [b"=%d" % number for number in range(ROUNDS)]
        for descriptor in streams[1:]:
            os.close(descriptor)
        later = await session.launch("sh", "-c", "exit 4")
        assert (await session.ended(later)).exit_code == 4

    shared.run(work)
    assert "Traceback" not in shared.log()


def test_launchers_of_the_old_code_go_and_their_groups_too(
    shared: KeeperUnderTest, versions: list[Path]
) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        await session.client.request(messages.Configure(vars(shared.shape), 3))
        pid = session.client.identity.pid
        await until(lambda: len(launchers(pid)) == 3)
        old = launchers(pid)
        await upgraded(session, versions[0])
        await until(lambda: all(map(has_ended, old)))
        await session.client.request(messages.Configure(vars(shared.shape), 1))
        await until(lambda: len(launchers(pid)) == 1 and len(slots(shared)) == 1)
        await session.client.request(messages.Configure(vars(shared.shape), 0))
        await until(lambda: slots(shared) == set())

    shared.run(work)


def test_others_stay_connected_and_hear_of_ends(shared: KeeperUnderTest, versions: list[Path]) -> None:
    async def work(session: Session) -> None:
        other = Session(shared, KeeperClient(shared.run_root))
        await other.client.connect()
        id = await session.launch("sh", "-c", "read x; exit 7", stdin=True)
        _, (stdin,) = await session.client.request(messages.Streams(id))
        await upgraded(session, versions[0])
        await other.records()
        os.write(stdin, b"go\n")
        os.close(stdin)
        assert (await other.ended(id)).exit_code == 7
        other.client.close()

    shared.run(work)


def test_an_end_in_the_middle_of_an_upgrade_is_known(shared: KeeperUnderTest, versions: list[Path]) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        for code, directory in enumerate((*versions, *versions), start=1):
            ids = [await session.launch("sh", "-c", f"read x; exit {code}", stdin=True) for _ in range(3)]
            stdins = []
            for id in ids:
                _, (stdin,) = await session.client.request(messages.Streams(id))
                stdins.append(stdin)
            upgrade = asyncio.ensure_future(upgraded(session, directory))
            for stdin in stdins:
                await asyncio.sleep(0.01)
                os.write(stdin, b"go\n")
                os.close(stdin)
            await upgrade
            for id in ids:
                assert (await session.ended(id)).exit_code == code

    shared.run(work)


def test_a_program_that_cannot_be_executed_changes_nothing(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "read x; echo $x; exit 2", stdin=True)
        _, (stdin,) = await session.client.request(messages.Streams(id))
        identity = session.client.identity
        no_program = messages.memory_file(b"this is no program")
        with pytest.raises(KeeperRefused, match="is not replaced: it cannot be executed"):
            await session.client.request(messages.Upgrade(["x"], [messages.STATE]), [no_program])
        os.close(no_program)
        with pytest.raises(KeeperRefused, match=f"in form {messages.STATE}, and the program .* knows \\[99"):
            await session.client.request(messages.Upgrade(["x"], [99]))
        assert session.client.identity == identity
        os.write(stdin, b"still here\n")
        os.close(stdin)
        assert (await session.ended(id)).exit_code == 2
        assert shared.output(id) == b"still here\n"

    shared.run(work)


def test_a_program_that_fails_is_followed_by_the_old_one(shared: KeeperUnderTest, tmp_path: Path) -> None:
    """The guardian's next keeper is of the code that the guardian was started with."""
    (tmp_path / "mooring_agent/keeper").mkdir(parents=True)
    (tmp_path / "mooring_agent/__init__.py").write_text("")
    (tmp_path / "mooring_agent/keeper/__init__.py").write_text("")
    (tmp_path / "mooring_agent/keeper/main.py").write_text("raise SystemExit(3)")

    async def before(session: Session) -> str:
        id = await session.launch("sh", "-c", "read x; echo $x; exit 2", stdin=True)
        with pytest.raises(KeeperLost):
            await session.client.renew(tmp_path, code="broken")
        return id

    id = shared.run(before, clear=False)

    async def after(session: Session) -> None:
        _, (stdin,) = await session.client.request(messages.Streams(id))
        os.write(stdin, b"still here\n")
        os.close(stdin)
        assert (await session.ended(id)).exit_code == 2
        assert shared.output(id) == b"still here\n"

    shared.run(after)


def test_a_kill_after_an_upgrade_is_as_any_other(shared: KeeperUnderTest, versions: list[Path]) -> None:
    async def before(session: Session) -> str:
        id = await session.launch("sh", "-c", "read x; exit 6", stdin=True)
        await upgraded(session, versions[0])
        kill_and_wait(session.client.identity.pid)
        return id

    id = shared.run(before, clear=False)

    async def after(session: Session) -> None:
        _, (stdin,) = await session.client.request(messages.Streams(id))
        os.write(stdin, b"go\n")
        os.close(stdin)
        assert (await session.ended(id)).exit_code == 6

    shared.run(after)


def test_one_without_processes_is_replaced_with_its_guardian(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        before = session.client.identity
        await session.client.renew()
        after = session.client.identity
        shared.pids |= {after.pid, after.guardian}
        assert {before.pid, before.guardian}.isdisjoint({after.pid, after.guardian})

    shared.run(work)


def test_its_program_stays_out_of_reach(shared: KeeperUnderTest, versions: list[Path]) -> None:
    """The interpreter of one that has replaced itself is on a read-only mount, too (CVE-2019-5736)."""

    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        await upgraded(session, versions[0])
        program = os.open(f"/proc/{session.client.identity.pid}/exe", os.O_PATH)
        assert os.statvfs(program).f_flag & os.ST_RDONLY
        os.close(program)

    shared.run(work)


def test_an_upgrade_waits_for_a_start_that_is_under_way(
    shared: KeeperUnderTest, versions: list[Path]
) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        other = Session(shared, KeeperClient(shared.run_root))
        await other.client.connect()
        slot = await other.acquire()
        upgrade = asyncio.ensure_future(upgraded(session, versions[0]))
        await session.records()
        os.kill(slot.pid, 0)
        assert not upgrade.done()
        await other.client.request(messages.Release(slot.slot))
        await upgrade
        other.client.close()

    shared.run(work)


def test_the_guardian_stays_a_guardian(shared: KeeperUnderTest, versions: list[Path]) -> None:
    """What an upgraded keeper gives to its guardian is there for the next one."""

    async def before(session: Session) -> str:
        await session.launch("sleep", "60")
        await upgraded(session, versions[0])
        id = await session.launch("sh", "-c", "read x; stty size; exit 4", terminal=True, stdin=True)
        kill_and_wait(session.client.identity.pid)
        return id

    id = shared.run(before, clear=False)

    async def after(session: Session) -> None:
        _, (master,) = await session.client.request(messages.Streams(id))
        os.write(master, b"go\n")
        os.close(master)
        assert (await session.ended(id)).exit_code == 4

    shared.run(after)


def test_a_stopped_keeper_is_given_up_in_time_and_comes_back(
    shared: KeeperUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "read x; exit 6", stdin=True)
        _, (stdin,) = await session.client.request(messages.Streams(id))
        pid = session.client.identity.pid
        lost = asyncio.Event()
        session.client.on_lost = lost.set
        monkeypatch.setattr("mooring_agent.keeper.client._REQUEST_TIMEOUT", 0.5)
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(Unavailable, match=f"process {pid}, has not answered Signal within"):
                await session.client.request(messages.Signal(id, 0))
            await asyncio.wait_for(lost.wait(), PATIENCE)
            with pytest.raises(Unavailable, match="has not answered Hello within"):
                await session.client.connect()
        finally:
            os.kill(pid, signal.SIGCONT)
            monkeypatch.undo()  # it may take longer to come back
        await session.client.connect()
        os.write(stdin, b"go\n")
        os.close(stdin)
        assert (await session.ended(id)).exit_code == 6

    shared.run(work)
