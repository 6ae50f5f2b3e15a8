# SPDX-License-Identifier: Apache-2.0
"""Launchers and containers through the keeper's own protocol: starts, and every way in which one can fail."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from mooring_agent.errors import Unavailable
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperRefused, StartRefused
from mooring_agent.runtime import mounts
from mooring_agent.runtime.plan import Process

from .keepers import KeeperUnderTest, Session, descriptors, launchers, slots, until

pytestmark = pytest.mark.root

BROKEN = Process(("/no/such/program",), ())


def test_a_container_runs_and_ends(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "echo out; echo err >&2; exit 7")
        event = await session.ended(id)
        assert (event.exit_code, event.known) == (7, True)
        assert abs(event.finished_at - time.time()) < 30
        assert shared.output(id, 1) == b"out\n"
        assert shared.output(id, 2) == b"err\n"
        await session.client.request(messages.Forget(id))
        assert id not in await session.records()

    shared.run(work)


def test_standard_input_reaches_it_and_ends(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("cat", stdin=True)
        _, (stdin,) = await session.client.request(messages.Streams(id))
        os.write(stdin, b"through")
        os.close(stdin)
        await session.client.request(messages.CloseStdin(id))
        assert (await session.ended(id)).exit_code == 0
        assert shared.output(id) == b"through"

    shared.run(work)


def test_without_standard_input_it_reads_nothing(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "cat; echo over")
        assert (await session.ended(id)).exit_code == 0
        assert shared.output(id) == b"over\n"

    shared.run(work)


def test_a_terminal_is_one_with_a_size(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "read x; stty size; tty", terminal=True, stdin=True)
        await session.client.request(messages.Resize(id, 33, 101))
        _, (master,) = await session.client.request(messages.Streams(id))
        os.write(master, b"go\n")
        assert (await session.ended(id)).exit_code == 0
        os.close(master)
        assert shared.output(id).splitlines()[-2:] == [b"33 101", b"/dev/pts/0"]

    shared.run(work)


def test_a_signal_arrives(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sh", "-c", "trap 'exit 3' TERM; echo ready; while :; do sleep 0.05; done")
        await until(lambda: shared.output(id) == b"ready\n")
        await session.client.request(messages.Signal(id, signal.SIGTERM))
        assert (await session.ended(id)).exit_code == 3
        with pytest.raises(KeeperRefused, match="has ended"):
            await session.client.request(messages.Signal(id, signal.SIGTERM))

    shared.run(work)


def test_an_exec_has_its_streams_and_its_exit_code(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        container = await session.launch("sleep", "60")
        id, launched, (stdin, stdout, stderr) = await session.execute(
            container, "sh", "-c", "cat; echo err >&2; exit 5", stdin=True
        )
        assert launched.pid > 0
        os.write(stdin, b"in")
        os.close(stdin)
        await session.client.request(messages.CloseStdin(id))
        assert (await session.ended(id)).exit_code == 5
        assert (os.read(stdout, 100), os.read(stderr, 100)) == (b"in", b"err\n")
        for descriptor in (stdout, stderr):
            os.close(descriptor)
        await session.client.request(messages.Forget(id))
        await session.client.request(messages.Signal(container, signal.SIGKILL))
        assert (await session.ended(container)).exit_code == 137

    shared.run(work)


@pytest.mark.parametrize(
    ("change", "exit_code", "words"),
    [
        ({"process": BROKEN}, 127, "'/no/such/program': no such file"),
        ({"process": Process(("/etc",), ())}, 126, "'/etc': permission denied"),
        ({"process": Process(("nothing",), ("PATH=/bin",))}, 127, "'nothing': executable file not found"),
        ({"process": Process(("sh",), (), user="ghost")}, 125, "unable to find user ghost"),
        ({"process": Process(("sh\0x",), ())}, 125, "null byte"),
        ({"process": Process(("sh",), (), cwd="/etc/passwd")}, 125, "working directory /etc/passwd"),
        ({"process": Process(("sh",), (), seccomp="/no/such/filter")}, 125, "/no/such/filter"),
        ({"mounts": (mounts.Bind("/no/such/source", "/x"),)}, 125, "bind /no/such/source to /x"),
        ({"mounts": (mounts.Filesystem("nofs", "n", "/x"),)}, 125, "mount nofs on /x"),
        ({"group_settings": ((0, "no.such.file", "1"),)}, 125, "no.such.file"),
        ({"sysctls": (("no/such/thing", "1"),)}, 125, "no/such/thing"),
        ({"join": (("net", "/no/such/netns"),)}, 125, "/no/such/netns"),
        ({"netlink": ("00",)}, 125, ""),
        ({"hostname": "x" * 100}, 125, "sethostname"),
        ({"root": mounts.BindRoot("/no/such/root")}, 125, "/no/such/root"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_start_that_fails_says_why_and_leaves_nothing(
    shared: KeeperUnderTest, change: dict[str, Any], exit_code: int, words: str
) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        await session.warm_up()
        known, open_before = await session.records(), descriptors(keeper)
        with pytest.raises(StartRefused) as refused:
            await session.launch("true", **change)
        if shared.shape.unified:
            shared.group_names.clear()  # a failed start leaves no group that has become a container's
        assert refused.value.exit_code == exit_code
        assert words in refused.value.message
        assert "Errno" not in refused.value.message
        assert await session.records() == known
        assert os.listdir(shared.run_root / "keeper/pipes") == []
        await until(lambda: launchers(keeper) == [])
        await until(lambda: not Counter(descriptors(keeper)) - Counter(open_before))
        # A group that has got the container's name already is the agent's to remove.
        await until(lambda: slots(shared) == set())

    shared.run(work)


@pytest.mark.parametrize("plan", [b"", b"{", b"[]", b"{}"])
def test_a_plan_that_is_none_is_refused(shared: KeeperUnderTest, plan: bytes) -> None:
    async def work(session: Session) -> None:
        slot = await session.acquire()
        request = messages.Launch(slot.slot, "b" * 64, False, False, shared.log_directory("b"), 0, 1)
        with pytest.raises(StartRefused):
            await session.client.launch(request, plan)
        assert "b" * 64 not in await session.records()
        await until(lambda: slots(shared) == set())

    shared.run(work)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_log_that_cannot_be_made_fails_the_start_and_leaves_nothing(
    shared: KeeperUnderTest, terminal: bool
) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        await session.warm_up()
        open_before = descriptors(keeper)
        slot = await session.acquire()
        id = "c" * 64
        request = messages.Launch(slot.slot, id, terminal, True, "/proc/no-such-place/log", 0, 1)
        with pytest.raises(StartRefused, match="/proc/no-such-place"):
            await session.client.launch(request, shared.plan(id + str(terminal), "true").encode())
        assert id not in await session.records()
        assert os.listdir(shared.run_root / "keeper/pipes") == []
        await until(lambda: launchers(keeper) == [] and slots(shared) == set())
        await until(lambda: not Counter(descriptors(keeper)) - Counter(open_before))

    shared.run(work)


def test_a_launcher_that_has_been_killed_is_told_at_its_launch(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        slot = await session.acquire()
        os.kill(slot.pid, signal.SIGKILL)
        await until(lambda: slots(shared) == set())
        id = "d" * 64
        request = messages.Launch(slot.slot, id, False, False, shared.log_directory(id), 0, 1)
        with pytest.raises(Unavailable, match=slot.slot):
            await session.client.launch(request, shared.plan(id, "true").encode())
        assert id not in await session.records()

    shared.run(work)


def test_a_running_container_is_not_started_again(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sleep", "60")
        slot = await session.acquire()
        request = messages.Launch(slot.slot, id, False, False, shared.log_directory(id), 0, 1)
        with pytest.raises(StartRefused, match="runs already as process"):
            await session.client.launch(request, b"{}")
        await session.client.request(messages.Release(slot.slot))
        await session.client.request(messages.Signal(id, signal.SIGKILL))
        await session.ended(id)

    shared.run(work)


def test_a_container_can_be_started_again_under_its_id(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("echo", "one")
        await session.ended(id)
        await until(lambda: shared.remove_group(id))
        slot = await session.acquire()
        shared.note_group(id, slot)
        plan = replace(shared.plan(f"{id}-2", "echo", "two"), id=id, group=id)
        request = messages.Launch(slot.slot, id, False, False, shared.log_directory(id), 0, 3)
        session.exits.clear()
        await session.client.launch(request, plan.encode())
        await session.ended(id)
        assert shared.output(id) == b"one\ntwo\n"
        await session.client.request(messages.Forget(id))

    shared.run(work)


def test_an_exec_that_fails_says_why_and_leaves_nothing(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        container = await session.launch("sleep", "60")
        known, open_before = await session.records(), descriptors(keeper)
        failures: list[tuple[tuple[str, ...], dict[str, Any], int, str]] = [
            (("/no/such",), {}, 127, "'/no/such': no such file"),
            (("/etc",), {}, 126, "'/etc': permission denied"),
            (("sh",), {"user": "ghost"}, 125, "user ghost"),
            (("sh",), {"seccomp": "/no/such/filter"}, 125, "/no/such/filter"),
            (("sh",), {"cwd": "/proc/self/fd/3"}, 125, "working directory /proc/self/fd/3"),
        ]
        for argv, options, exit_code, words in failures:
            for terminal in (False, True):
                with pytest.raises(StartRefused) as refused:
                    await session.execute(container, *argv, terminal=terminal, **options)
                assert refused.value.exit_code == exit_code
                assert words in refused.value.message
        assert await session.records() == known
        await until(lambda: not Counter(descriptors(keeper)) - Counter(open_before))
        with pytest.raises(KeeperRefused, match=f"container {'e' * 64} does not run"):
            await session.client.request(messages.Exec("f" * 64, "e" * 64, False, False, True, True), [0])
        await session.client.request(messages.Signal(container, signal.SIGKILL))
        await session.ended(container)

    shared.run(work)


def test_execs_that_end_at_once_are_all_told(shared: KeeperUnderTest) -> None:
    """Their end may be reaped before the keeper has heard their pid; it was ended by that."""

    async def work(session: Session) -> None:
        container = await session.launch("sleep", "60")

        async def one(number: int) -> tuple[int, int]:
            id, _, streams = await session.execute(container, "sh", "-c", f"exit {number % 256}")
            event = await session.ended(id)
            for descriptor in streams:
                os.close(descriptor)
            await session.client.request(messages.Forget(id))
            return number % 256, event.exit_code

        before = session.client.identity.pid
        for _ in range(3):
            results = await asyncio.gather(*(one(number) for number in range(40)))
            assert all(expected == found for expected, found in results)
        assert set(await session.records()) == {container}
        assert os.path.exists(f"/proc/{before}")
        await session.client.request(messages.Signal(container, signal.SIGKILL))
        await session.ended(container)

    shared.run(work)


def test_requests_that_are_none_are_refused_and_harm_nobody(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        before = session.client.identity.pid
        requests: list[messages.Message] = [
            messages.Done(),
            messages.Slot("x", 1),
            messages.Signal("x", 9),
            messages.Resize("x", 1, 1),
            messages.Streams("x"),
            messages.CloseStdin("x"),
            messages.SetLog("x", 1, 1),
            messages.Launch("x", "y", False, False, "/tmp", 0, 1),
            messages.Exec("x", "y", False, False, False, False),
            messages.Acquire({}),
            messages.Acquire({"namespaces": 5}),
            messages.Configure({"namespaces": [], "groups": [], "unknown": 1}, 1),
            messages.Configure(vars(shared.shape), "many"),  # type: ignore[arg-type]
        ]
        for request in requests:
            with pytest.raises(KeeperRefused) as refused:
                await session.client.request(request)
            assert refused.value.message
        await session.client.request(messages.Forget("x"))
        await session.client.request(messages.Release("x"))
        assert session.client.identity.pid == before
        assert os.path.exists(f"/proc/{before}")
        await session.records()

    shared.run(work)


def test_a_signal_that_is_none_is_refused(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        id = await session.launch("sleep", "60")
        for number in (-1, 1000):
            with pytest.raises(KeeperRefused):
                await session.client.request(messages.Signal(id, number))
        terminal = await session.launch("sleep", "60", terminal=True)
        for rows in (-1, 1 << 20):
            with pytest.raises(KeeperRefused):
                await session.client.request(messages.Resize(terminal, rows, 80))
        await session.records()

    shared.run(work)


def test_two_hundred_starts_leave_no_descriptor_and_no_memory(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        container = await session.launch("sleep", "600")

        async def one(number: int) -> None:
            if number % 4 == 3:
                id = await session.launch("true", terminal=number % 8 == 3, stdin=True)
                await session.ended(id)
                await until(lambda: shared.remove_group(id))
            else:
                id, _, streams = await session.execute(
                    container, "true", terminal=number % 4 == 1, stdin=number % 4 == 2
                )
                await session.ended(id)
                for descriptor in streams:
                    os.close(descriptor)
            await session.client.request(messages.Forget(id))

        async def many(count: int) -> None:
            for start in range(0, count, 8):
                await asyncio.gather(*(one(number) for number in range(start, start + 8)))

        await many(40)
        guardian = session.client.identity.guardian
        before = {pid: (len(descriptors(pid)), resident(pid)) for pid in (keeper, guardian)}
        await many(200)
        for pid, (opened, memory) in before.items():
            await until(partial(has_at_most, pid, opened))
            assert resident(pid) - memory < 1 << 20
        assert set(os.listdir(shared.run_root / "keeper/records")) == {f"{container}.json"}
        await session.client.request(messages.Signal(container, signal.SIGKILL))
        await session.ended(container)

    shared.run(work)


def has_at_most(pid: int, count: int) -> bool:
    """Whether a process has no more descriptors than that."""
    return len(descriptors(pid)) <= count


def resident(pid: int) -> int:
    """Bytes of memory of a process that no file backs."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        fields = dict(line.split(":", 1) for line in file)
    return int(fields["RssAnon"].split()[0]) << 10
