# SPDX-License-Identifier: Apache-2.0
"""A keeper's own life: how it comes, when it goes, and what becomes of its processes when it is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from harness.waiting import PATIENCE, eventually
from mooring_agent.errors import Unavailable
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient, KeeperLost, KeeperRefused
from mooring_agent.linux import syscalls

from .keepers import (
    KeeperUnderTest,
    Session,
    descriptors,
    has_ended,
    kill_and_wait,
    launchers,
    slots,
    until,
)

pytestmark = pytest.mark.root

IDLE = 5.0  # seconds after which a keeper without work leaves


def test_it_is_started_by_the_first_connection_and_serves_many(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        others = [KeeperClient(keeper.run_root) for _ in range(8)]
        await asyncio.gather(*(other.connect() for other in others))
        assert {other.identity for other in others} == {session.client.identity}
        id = await session.launch("sleep", "60")
        for other in others:
            await other.request(messages.Signal(id, 0))
            other.close()

    keeper.run(work)


def test_many_that_connect_at_once_start_one(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        others = [KeeperClient(keeper.run_root) for _ in range(4)]
        await asyncio.gather(*(other.connect() for other in others))
        keeper.pids |= {other.identity.pid for other in others} | {one.identity.guardian for one in others}
        assert len({other.identity.pid for other in others}) == 1
        for other in others:
            other.close()

    keeper.run(work, connect=False)


def test_every_client_hears_of_every_end(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        other = KeeperClient(keeper.run_root)
        heard: list[messages.Exited] = []
        other.on_exit = heard.append
        await other.connect()
        id = await session.launch("sh", "-c", "exit 9")
        event = await session.ended(id)
        await until(lambda: heard == [event])
        other.close()

    keeper.run(work)


@pytest.mark.slow
def test_it_leaves_when_nobody_needs_it(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> float:
        await session.client.request(messages.Configure(vars(keeper.shape), 2))
        await until(lambda: len(launchers(session.client.identity.pid)) == 2)
        return time.monotonic()

    begun = keeper.run(work)
    pid = next(iter(keeper.pids))
    eventually(lambda: all(map(has_ended, keeper.pids)), IDLE + 5, "the keeper's end")
    assert time.monotonic() - begun > IDLE - 1
    assert not (keeper.run_root / "keeper/socket").exists()
    assert slots(keeper) == set()

    async def again(session: Session) -> None:
        assert session.client.identity.pid != pid
        await session.launch("true")

    keeper.run(again)


@pytest.mark.slow
def test_it_stays_for_a_container_without_any_client(keeper: KeeperUnderTest) -> None:
    async def start(session: Session) -> str:
        return await session.launch("sh", "-c", "sleep 7; exit 4")

    id = keeper.run(start, clear=False)
    time.sleep(IDLE + 1)
    assert not any(map(has_ended, keeper.pids))

    async def finish(session: Session) -> None:
        records = await session.records()
        if records[id]["exit_code"] is None:
            await session.ended(id)
        assert (await session.records())[id]["exit_code"] == 4

    keeper.run(finish)


def test_a_connection_to_one_that_is_leaving_gets_the_next(keeper: KeeperUnderTest) -> None:
    """The stand-in accepts and goes, as a keeper does that has decided to leave."""
    place = keeper.run_root / "keeper/socket"
    place.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(place))
    listener.listen(1)
    lost: list[str] = []

    async def work(session: Session) -> None:
        session.client.on_lost = lambda: lost.append("lost")
        connecting = asyncio.ensure_future(session.client.connect())
        accepted, _ = await asyncio.get_running_loop().run_in_executor(None, listener.accept)
        place.unlink()
        listener.close()
        accepted.close()
        await connecting
        keeper.pids |= {session.client.identity.pid, session.client.identity.guardian}
        assert session.client.identity.pid > 0

    keeper.run(work, connect=False)
    assert lost == []  # it was never there


def test_a_stale_socket_is_replaced(keeper: KeeperUnderTest) -> None:
    place = keeper.run_root / "keeper/socket"
    place.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as old:
        old.bind(str(place))
        old.listen(1)
    keeper.run(lambda session: session.launch("true"))


def test_another_protocol_is_refused_by_name(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        with pytest.raises(KeeperRefused) as refused:
            await session.client.request(messages.Hello(protocol=99, version="9.9"))
        for word in ("9.9", "99", f"protocol {messages.PROTOCOL}", "upgrade"):
            assert word in refused.value.message

    keeper.run(work)


def test_a_client_that_is_refused_leaves_no_connection(
    keeper: KeeperUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(session: Session) -> None:
        pid = session.client.identity.pid
        await session.warm_up()
        before, own = len(descriptors(pid)), len(descriptors(os.getpid()))
        monkeypatch.setattr(messages.Hello.__init__, "__defaults__", (99, "9.9", 0, 0, ""))
        other = KeeperClient(keeper.run_root)
        for _ in range(5):
            with pytest.raises(KeeperRefused):
                await other.connect()
        monkeypatch.undo()
        await until(lambda: len(descriptors(pid)) <= before)
        assert len(descriptors(os.getpid())) <= own  # what other tests have left may be collected meanwhile

    keeper.run(work)


def test_bytes_that_are_no_message_are_refused_and_harm_nobody(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(str(keeper.run_root / "keeper/socket"))
            stranger.settimeout(10)
            for packet in (b"nonsense", b"[" * 50_000, b'["Hello", 1, {"protocol": []}]', b"\0"):
                stranger.send(packet)
                assert b"Failed" in stranger.recv(1 << 16)
        await session.records()
        assert not has_ended(session.client.identity.pid)

    keeper.run(work)


def test_a_client_that_does_not_read_keeps_nobody_waiting(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as lazy:
            lazy.setblocking(False)
            lazy.connect(str(keeper.run_root / "keeper/socket"))
            packet = messages.encode(messages.Forget("x"), 1)
            sent = 0
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline:
                try:
                    lazy.send(packet)
                    sent += 1
                except BlockingIOError:
                    await asyncio.sleep(0.01)
            assert sent > 100
            id = await session.launch("true")
            await session.ended(id)

    keeper.run(work)


def test_shutdown_is_refused_while_something_runs(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        with pytest.raises(KeeperRefused, match="1 processes still run"):
            await session.client.request(messages.Shutdown())

    keeper.run(work)


def test_a_keeper_that_cannot_start_says_why(tmp_path: Path) -> None:
    (tmp_path / "keeper").write_text("in the way")

    async def work() -> None:
        with pytest.raises(Unavailable, match=f"keeper of {tmp_path} cannot be reached: Not a directory"):
            await KeeperClient(tmp_path).connect()
        with pytest.raises(Unavailable, match=r"could not be started: .*/proc/no-such-place"):
            await KeeperClient(Path("/proc/no-such-place")).connect()

    asyncio.run(work())


# What follows a kill


def test_everything_goes_on_after_a_kill(keeper: KeeperUnderTest) -> None:
    """Of a pipe, a terminal and an exec: input, output, resize and exit code, by another keeper."""

    async def before(session: Session) -> tuple[str, str, str, list[int]]:
        pipe = await session.launch("sh", "-c", "read x; echo got $x; cat; exit 3", stdin=True)
        terminal = await session.launch("sh", "-c", "read x; stty size; exit 4", terminal=True, stdin=True)
        container = await session.launch("sleep", "60")
        id, _, streams = await session.execute(container, "sh", "-c", "cat; exit 5", stdin=True)
        kill_and_wait(session.client.identity.pid)
        return pipe, terminal, id, streams

    pipe, terminal, execution, streams = keeper.run(before, clear=False)

    async def after(session: Session) -> None:
        assert all(record["exit_code"] is None for record in (await session.records()).values())
        _, (stdin,) = await session.client.request(messages.Streams(pipe))
        os.write(stdin, b"line\nrest")
        os.close(stdin)
        await session.client.request(messages.CloseStdin(pipe))
        assert (await session.ended(pipe)).exit_code == 3
        assert keeper.output(pipe) == b"got line\nrest"
        await session.client.request(messages.Resize(terminal, 44, 111))
        _, (master,) = await session.client.request(messages.Streams(terminal))
        os.write(master, b"go\n")
        os.close(master)
        assert (await session.ended(terminal)).exit_code == 4
        assert keeper.output(terminal).splitlines()[-1] == b"44 111"
        stdin, stdout, stderr = streams
        os.write(stdin, b"through")
        os.close(stdin)
        await session.client.request(messages.CloseStdin(execution))
        assert (await session.ended(execution)).exit_code == 5
        assert os.read(stdout, 100) == b"through"
        for descriptor in (stdout, stderr):
            os.close(descriptor)

    keeper.run(after)


def test_a_client_is_told_that_the_keeper_was_lost(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        lost = asyncio.Event()
        session.client.on_lost = lost.set
        os.kill(session.client.identity.pid, signal.SIGKILL)
        await asyncio.wait_for(lost.wait(), 10 * PATIENCE)
        with pytest.raises(KeeperLost):
            await session.client.request(messages.Inventory())
        await session.client.connect()
        keeper.pids |= {session.client.identity.pid}
        await session.records()

    keeper.run(work)


def test_launchers_of_a_killed_keeper_end_and_their_groups_go(keeper: KeeperUnderTest) -> None:
    async def before(session: Session) -> list[int]:
        await session.client.request(messages.Configure(vars(keeper.shape), 3))
        pid = session.client.identity.pid
        await until(lambda: len(launchers(pid)) == 3)
        found = launchers(pid)
        kill_and_wait(pid)
        return found

    old = keeper.run(before, clear=False)
    eventually(lambda: all(map(has_ended, old)), what="the end of the launchers")

    async def after(session: Session) -> None:
        # By a keeper that is told of no shape, since the agent may have stopped meanwhile.
        await until(lambda: slots(keeper) == set())

    keeper.run(after)


def test_the_group_of_one_that_has_ended_is_left_to_the_agent(keeper: KeeperUnderTest) -> None:
    """What was counted in it has yet to be read."""

    async def before(session: Session) -> str:
        id = await session.launch("sh", "-c", "read x; exit 4", stdin=True)
        _, (stdin,) = await session.client.request(messages.Streams(id))
        kill_and_wait(session.client.identity.pid)
        os.write(stdin, b"go\n")
        os.close(stdin)
        return id

    id = keeper.run(before, clear=False)

    async def after(session: Session) -> None:
        if (await session.records())[id]["exit_code"] is None:
            await session.ended(id)
        await session.client.request(messages.Configure(vars(keeper.shape), 0))
        assert keeper.group_names[id] in keeper.groups()

    keeper.run(after)


def test_an_end_while_there_is_no_keeper_is_known_to_the_next(keeper: KeeperUnderTest) -> None:
    async def before(session: Session) -> list[str]:
        ids = [await session.launch("sh", "-c", f"read x; exit {code}", stdin=True) for code in range(1, 6)]
        stdins = []
        for id in ids:
            _, (stdin,) = await session.client.request(messages.Streams(id))
            stdins.append(stdin)
        kill_and_wait(session.client.identity.pid)
        for stdin in stdins:
            os.write(stdin, b"go\n")
            os.close(stdin)
        return ids

    ids = keeper.run(before, clear=False)

    async def after(session: Session) -> None:
        records = await session.records()
        for id in ids:
            if records[id]["exit_code"] is None:
                await session.ended(id)
        records = await session.records()
        assert [(records[id]["exit_code"], records[id]["known"]) for id in ids] == [
            (code, True) for code in range(1, 6)
        ]

    keeper.run(after)


def test_a_keeper_killed_in_the_middle_of_starts_leaves_no_half(keeper: KeeperUnderTest) -> None:
    """Whatever was under way either runs and is known, or is gone: no process of it is left over."""

    async def work(session: Session) -> list[str]:
        starts = [asyncio.ensure_future(session.launch("sleep", "60")) for _ in range(12)]
        await asyncio.sleep(0.03)
        os.kill(session.client.identity.pid, signal.SIGKILL)
        results = await asyncio.gather(*starts, return_exceptions=True)
        assert all(isinstance(result, (str, KeeperLost)) for result in results)
        return [result for result in results if isinstance(result, str)]

    started = keeper.run(work, clear=False)

    async def after(session: Session) -> None:
        records = await session.records()
        for id in started:
            assert records[id]["exit_code"] is None
        pids = {record["pid"] for record in records.values() if record["exit_code"] is None}
        await until(lambda: processes_in(keeper) <= pids)

    keeper.run(after)


def processes_in(keeper: KeeperUnderTest) -> set[int]:
    """The processes in the groups below ours, by their numbers on the host."""
    found: set[int] = set()
    for parent in keeper.shape.groups:
        for tasks in Path(parent).glob("*/cgroup.procs"):
            try:
                found |= {int(pid) for pid in tasks.read_text().split()}
            except OSError:
                continue
    return found


def test_kills_over_and_over_lose_no_output(keeper: KeeperUnderTest) -> None:
    least = 400
    until = f"while [ $i -lt {least} ] || [ ! -e /over ]"  # it outlasts the kills, however slow they are

    async def before(session: Session) -> tuple[str, Path]:
        script = f"i=0; {until}; do echo line $i; i=$((i+1)); usleep 5000; done; echo $i in all; exit 6"
        id = await session.launch("sh", "-c", script, log_size=1000, log_files=1000)
        return id, Path(f"/proc/{(await session.records())[id]['pid']}/root/over")

    id, over = keeper.run(before, clear=False)

    async def once(session: Session) -> bool:
        record = (await session.records())[id]
        if record["exit_code"] is None:
            kill_and_wait(session.client.identity.pid)
        return record["exit_code"] is not None

    deadline = time.monotonic() + 30 * PATIENCE
    kills = 0
    while not keeper.run(once, clear=False):
        kills += 1
        if kills == 3:
            over.touch()
        assert time.monotonic() < deadline
    assert kills > 2
    *lines, last = keeper.output(id).splitlines()
    assert lines == [b"line %d" % number for number in range(len(lines))]
    assert len(lines) >= least
    assert last == b"%d in all" % len(lines)

    async def after(session: Session) -> None:
        record = (await session.records())[id]
        assert (record["exit_code"], record["known"]) == (6, True)

    keeper.run(after)


@pytest.mark.parametrize("content", [b"", b"{", b'{"id": "x"}'], ids=["empty", "half", "other"])
def test_a_spoilt_record_does_not_keep_the_keeper_away(keeper: KeeperUnderTest, content: bytes) -> None:
    async def before(session: Session) -> str:
        id = await session.launch("sleep", "60")
        (keeper.run_root / f"keeper/records/{'0' * 64}.json").write_bytes(content)
        kill_and_wait(session.client.identity.pid)
        return id

    id = keeper.run(before, clear=False)

    async def after(session: Session) -> None:
        assert set(await session.records()) == {id}

    keeper.run(after)
    assert "is passed over" in keeper.log()


def test_a_full_disk_keeps_nobody_from_being_looked_after(keeper: KeeperUnderTest) -> None:
    """The logs are on a disk that is full; containers run, end, and their exit codes are known."""
    data = keeper.base / "data"
    data.mkdir()
    syscalls.mount("tmpfs", str(data), "tmpfs", 0, "size=256k")
    try:

        async def work(session: Session) -> None:
            first = session.client.identity.pid
            id = await session.launch("sh", "-c", "yes | head -c 2000000; echo end; exit 3")
            assert (await session.ended(id)).exit_code == 3
            assert session.client.identity.pid == first
            assert not has_ended(first)
            assert "loses output" in keeper.log()
            for path in data.glob("*/log/*"):
                path.unlink()
            other = await session.launch("echo", "again")
            assert (await session.ended(other)).exit_code == 0
            assert keeper.output(other) == b"again\n"

        keeper.run(work)
    finally:
        syscalls.umount(str(data), syscalls.MNT_DETACH)


def test_its_files_are_closed_to_others(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60", stdin=True)
        for path in (keeper.run_root / "keeper").rglob("*"):
            assert path.lstat().st_mode & 0o077 == 0, path

    keeper.run(work)


def test_the_pipes_of_a_container_go_with_it(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("true")
        await session.ended(id)
        await session.client.request(messages.Forget(id))
        assert os.listdir(keeper.run_root / "keeper/pipes") == []
        assert os.listdir(keeper.run_root / "keeper/records") == []

    keeper.run(work)
