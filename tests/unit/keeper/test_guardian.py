# SPDX-License-Identifier: Apache-2.0
"""The guardian with keepers that are killed, and with processes that they leave behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from harness.forked import fork, in_child
from harness.waiting import PATIENCE, eventually
from mooring_agent.keeper import guardian
from mooring_agent.keeper.guardian import LAUNCHER_NAME, Legacy, guard
from mooring_agent.keeper.heldpipes import HeldPipes
from mooring_agent.linux import syscalls
from mooring_agent.runtime.join import start_time

WAIT = 10.0 * PATIENCE

Say = Callable[[Any], None]
KeeperFunction = Callable[[socket.socket, Legacy, int], Any]


def guarded(keeper: KeeperFunction, pipes: Path | None = None) -> list[Any]:
    """Run `keeper(channel, legacy, runs before)` under a guardian until it returns: what it has returned, the
    guardian's listener afterwards and the seconds that it took. `pipes` is where containers' pipes are.

    The guardian is in a child of its own, which is what becomes the subreaper.
    """

    def work() -> list[Any]:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        report_reader, report_writer = os.pipe2(os.O_CLOEXEC)
        count_file = os.memfd_create("count")

        def run(channel: socket.socket, legacy: Legacy) -> None:
            os.close(report_reader)
            before = os.fstat(count_file).st_size
            os.write(count_file, b"x")
            result = keeper(channel, legacy, before)
            os.write(report_writer, f"{result!r}\n".encode())
            os._exit(0)

        started = time.monotonic()
        with tempfile.TemporaryDirectory() as nothing:
            guard(listener, run, str(pipes or nothing))
        os.close(report_writer)
        lines = os.read(report_reader, 1 << 16).decode().splitlines()
        return [*lines, listener.fileno(), time.monotonic() - started]

    found: list[Any] = in_child(work, timeout=2 * WAIT)
    return found


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def orphans(*statuses: int) -> list[tuple[int, int]]:
    """Processes of ours that end only when we do; their pids and start times."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    found = []
    for status in statuses:
        pid = fork()
        if pid == 0:
            os.close(writer)
            wait([reader], WAIT)  # the end of file comes with our end
            os._exit(status)
        found.append((pid, start_time(pid)))
    return found


def reaped(channel: socket.socket, legacy: Legacy, count: int) -> dict[tuple[int, int], int | None]:
    """What the guardian has reaped so far, and tells until there are `count`."""
    channel.settimeout(WAIT)
    found = dict(legacy.reaped)
    while len(found) < count:
        pid, started, status = json.loads(channel.recv(4096))["reaped"]
        found[pid, started] = status
    return found


def held_by(pid: int) -> set[str]:
    """What a process has open."""
    found = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):  # it has been closed meanwhile
            found.add(os.readlink(entry.path))
    return found


def test_a_keeper_that_ends_of_its_own_will_is_the_last() -> None:
    result, listener, _ = guarded(lambda channel, legacy, before: before)
    assert (result, listener) == ("0", -1)


def test_a_killed_keeper_is_started_again() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before < 2:
            die()
        return before

    result, _, seconds = guarded(keeper)
    assert result == "2"
    assert 0.9 < seconds < WAIT  # it does not start them as fast as it can


def test_a_keeper_that_fails_is_started_again() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            os._exit(1)
        return before

    assert guarded(keeper)[0] == "1"


def test_what_is_held_is_inherited_until_it_is_dropped() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            assert legacy.held == {}
            for id in ("kept", "dropped", "replaced"):
                reader, writer = os.pipe2(os.O_CLOEXEC)
                guardian.hold(channel, id, writer)
                os.close(reader)
            guardian.drop(channel, "dropped")
            guardian.drop(channel, "never held")
            guardian.hold(channel, "replaced", os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC))
            die()
        if before == 1:
            assert sorted(legacy.held) == ["kept", "replaced"]
            die()
        return [os.readlink(f"/proc/self/fd/{legacy.held[id]}").split(":")[0] for id in ("kept", "replaced")]

    assert guarded(keeper)[0] == "['pipe', '/dev/zero']"


def test_the_guardian_holds_no_more_than_it_was_asked_to() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        own = os.getppid()
        end = os.readlink(f"/proc/self/fd/{channel.fileno()}")
        eventually(lambda: end not in held_by(own), what="the guardian closes our end of the channel")
        start = len(os.listdir(f"/proc/{own}/fd"))
        null = os.open("/dev/null", os.O_RDONLY)
        for number in range(200):
            guardian.hold(channel, f"id{number % 5}", null)
        for number in range(4):
            guardian.drop(channel, f"id{number}")
        deadline = time.monotonic() + WAIT
        while len(os.listdir(f"/proc/{own}/fd")) != start + 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(os.listdir(f"/proc/{own}/fd")) - start

    assert guarded(keeper)[0] == "1"


def test_the_end_of_an_orphan_reaches_the_next_keeper() -> None:
    """The first keeper starts two and is killed; the second learns their statuses, and only once."""
    where = os.memfd_create("pids")

    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            for pid, started in orphans(7, 0):
                os.write(where, b"%d %d " % (pid, started))
            die()
        first_pid, first_start, second_pid, second_start = map(int, os.pread(where, 200, 0).split())
        if before == 1:
            found = reaped(channel, legacy, 2)
            assert found == {(first_pid, first_start): 7 << 8, (second_pid, second_start): 0}
            guardian.seen(channel, first_pid, first_start)
            die()
        assert (first_pid, first_start) not in legacy.reaped  # it was seen
        return legacy.reaped == {(second_pid, second_start): 0}

    assert guarded(keeper)[0] == "True"


def test_an_orphaned_launcher_that_never_ran_its_program_has_no_status() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            with open("/proc/self/comm", "w") as file:
                file.write(LAUNCHER_NAME)
            orphans(3)
            die()
        return list(reaped(channel, legacy, 1).values())

    assert guarded(keeper)[0] == "[None]"


def test_an_orphan_killed_by_a_signal_keeps_its_status() -> None:
    where = os.memfd_create("orphan")

    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            pid = fork()
            if pid == 0:
                time.sleep(WAIT)
                os._exit(0)
            os.write(where, b"%d" % pid)
            die()
        os.kill(int(os.pread(where, 20, 0)), signal.SIGTERM)
        return [os.waitstatus_to_exitcode(status or 0) for status in reaped(channel, legacy, 1).values()]

    assert guarded(keeper)[0] == "[-15]"


def test_many_orphans_lose_no_status() -> None:
    """More than the channel's buffer takes, while the next keeper is too busy to read."""
    count = 400

    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            orphans(*(number % 7 for number in range(count)))
            die()
        time.sleep(1.5)
        statuses = sorted(status or 0 for status in reaped(channel, legacy, count).values())
        return statuses == sorted((number % 7) << 8 for number in range(count))

    assert guarded(keeper)[0] == "True"


def test_what_is_in_a_pipe_outlives_everybody_else(tmp_path: Path) -> None:
    """Its writer has ended, and the keeper is killed before it has read anything."""
    held = HeldPipes(str(tmp_path))
    os.mkfifo(tmp_path / "one")
    writer = os.open(tmp_path / "one", os.O_RDWR)
    os.write(writer, b"last words")
    held.look()
    os.close(writer)
    reader = os.open(tmp_path / "one", os.O_RDONLY | os.O_NONBLOCK)
    assert os.read(reader, 100) == b"last words"
    before = len(os.listdir("/proc/self/fd"))
    os.unlink(tmp_path / "one")
    held.look()
    assert len(os.listdir("/proc/self/fd")) == before - 1
    os.close(reader)
    held.close()


def test_last_words_before_the_guardian_holds_the_pipe_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "one"

    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            os.mkfifo(path)
            pipe = os.open(path, os.O_RDWR)
            guardian.lend(channel, [pipe])
            os.write(pipe, b"last words")
            die()
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        return os.read(reader, 100), len(os.listdir("/proc/self/fd"))

    # A keeper that has opened the pipe has one descriptor more, and none of the guardian's.
    def without(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        return b"last words", len(os.listdir("/proc/self/fd")) + 1

    found = guarded(keeper, tmp_path)[0]
    path.unlink()
    assert found == guarded(without, tmp_path)[0]


def test_a_pipe_that_takes_the_place_of_another_is_held(tmp_path: Path) -> None:
    held = HeldPipes(str(tmp_path))
    for _ in range(3):
        os.mkfifo(tmp_path / "one")
        os.unlink(tmp_path / "one")
    os.mkfifo(tmp_path / "one")
    held.look()
    writer = os.open(tmp_path / "one", os.O_WRONLY | os.O_NONBLOCK)  # ENXIO where nobody reads, fifo(7)
    os.close(writer)
    held.close()


def test_a_message_that_the_guardian_does_not_know_does_not_end_it() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        if before == 0:
            for packet in (b"not json", b"[]", b"{}", b'{"hold": "x"}', b'{"seen": 5}', b"\xff", b"null"):
                channel.send(packet)
            die()
        return before

    assert guarded(keeper)[0] == "1"


def test_its_children_are_reaped_while_a_keeper_lives() -> None:
    def keeper(channel: socket.socket, legacy: Legacy, before: int) -> Any:
        """A grandchild whose parent ends becomes the guardian's."""
        middle = fork()
        if middle == 0:
            orphans(9)
            os._exit(0)
        os.waitpid(middle, 0)
        return list(reaped(channel, legacy, 1).values())

    assert guarded(keeper)[0] == str([9 << 8])


def test_a_reaped_status_is_that_of_the_kernel() -> None:
    """`syscalls.pidfd_wait_status` is what remains when the guardian is gone too."""
    pid = fork()
    if pid == 0:
        os._exit(5)
    pidfd = syscalls.pidfd_open(pid)
    with closing(socket.socket()):
        _, status = os.waitpid(pid, 0)
    assert syscalls.pidfd_wait_status(pidfd) in (status, None)
    os.close(pidfd)
