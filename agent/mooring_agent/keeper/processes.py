# SPDX-License-Identifier: Apache-2.0
"""Which processes there are, whose children they are, and the end of each: noted first, told second."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ..failpoints import reached
from ..linux import syscalls
from ..runtime.join import parent_and_start_time, start_time, stat_fields
from . import guardian
from .children import UNKNOWN_EXIT, Child, Streams, exit_code
from .connections import Client
from .diagnostics import complain
from .eventloop import EventLoop
from .guardian import JOINER_NAME, LAUNCHER_NAME, Legacy
from .handover import HandedChild, State
from .records import Journal, Record, record_of

_NEWS_SECONDS = 1.0
# How long launchers are waited for that a killed keeper has left on their way; they need milliseconds.
_STARTS_SECONDS = 1.0
_STARTS_PAUSE = 0.005
_CAP_SYS_PTRACE = 19  # <linux/capability.h>
_AHEAD = (LAUNCHER_NAME, JOINER_NAME)  # the names of processes before their execve


class Processes:
    """All containers and execs. `tell` is called with each that has ended, once its end is on disk.
    `launcher_gone` is called when a launcher of a former keeper has ended.
    """

    def __init__(
        self,
        loop: EventLoop,
        channel: socket.socket,
        directory: str,
        tell: Callable[[Child], None],
        launcher_gone: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._guardian = channel
        self._guarded = True
        self._tell = tell
        self._launcher_gone = launcher_gone
        self._by_pid: dict[int, Child] = {}
        # Those that a former keeper had started and that run, by pid and start time.
        self._inherited: dict[tuple[int, int], Child] = {}
        self._unclaimed: dict[int, int] = {}
        self._expected: dict[int, Callable[[], None]] = {}
        self._starting: dict[int, Child] = {}
        self._adopting = False
        self._held: set[str] = set()
        self.journal = Journal(f"{directory}/records")
        self.streams = Streams(loop, f"{directory}/pipes")
        self.children: dict[str, Child] = {}
        self._execs: dict[str, set[str]] = {}  # of each container

    def add(self, child: Child) -> None:
        """Know a process from now on."""
        record = child.record
        self.children[record.id] = child
        if record.id != record.container:
            self._execs.setdefault(record.container, set()).add(record.id)

    def slots(self) -> set[str]:
        """The launchers' names that groups of containers have kept, which whoever has them is to remove."""
        return {child.record.group for child in self.children.values()}

    # Our own children

    def reap(self) -> None:
        """Collect every child that has ended. It is looked at first, and reaped once its end is on disk: a
        keeper that is killed in between leaves it to the guardian.
        """
        while True:
            try:
                found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if found is None:
                return
            pid, status = found.si_pid, _wait_status(found)
            when_gone = self._expected.pop(pid, None)
            child = self._by_pid.pop(pid, None)
            starting = self._starting.pop(pid, None)
            if child is not None:
                self.ended(child, exit_code(status), known=True, reaps=True)
                continue
            if starting is not None:
                starting.record = starting.record.exited(exit_code(status), True, time.time())
                self._write(starting.record)
            os.waitpid(pid, 0)
            if when_gone is not None:
                when_gone()
            else:
                self._unclaimed[pid] = status

    def expect_start(self, child: Child) -> None:
        """A child that is on its way to its execve, after which it is claimed, or was none."""
        self._starting[child.record.pid] = child

    def expect_end(self, pid: int, when_gone: Callable[[], None]) -> None:
        """A child whose status nobody asks for: `when_gone` is called once it is reaped."""
        if self._unclaimed.pop(pid, None) is None:
            self._expected[pid] = when_gone
        else:
            when_gone()

    def await_expected(self, seconds: float) -> None:
        """Reap those whose end is expected, for so long at most."""
        deadline = time.monotonic() + seconds
        while self._expected and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.002)

    def claim(self, child: Child) -> None:
        """Tie a child to its pid, which may have ended already."""
        pid = child.record.pid
        self._starting.pop(pid, None)
        status = self._unclaimed.pop(pid, None)
        if status is None:
            self._by_pid[pid] = child
        else:
            self.ended(child, exit_code(status), known=True)

    def note_pid(self, child: Child, pid: int) -> None:
        """The pid of an exec's process, from its joiner. It may have ended, and have been reaped, before this
        was heard: then `claim` finds its status.
        """
        try:
            started = start_time(pid)
        except OSError:
            started = 0
        child.record = replace(child.record, pid=pid, start_time=started)
        self.expect_start(child)
        reached("keeper.exec-pid")
        self._write(child.record)
        reached("keeper.exec-recorded")

    def ended(self, child: Child, code: int, *, known: bool, reaps: bool = False) -> None:
        """The end of a process: its output first, then the record, and only then anybody is told.

        What an exec has written last is in its pipes. Whoever has asked for it reads it there; where that one
        has gone, the keeper holds them until the exec is forgotten.
        """
        self._inherited.pop((child.record.pid, child.record.start_time), None)
        self.streams.finish(child)
        if child.owner is not None and child.owner.connected:
            child.close_streams()
        child.record = child.record.exited(code, known, time.time())
        reached("keeper.ending")
        self._write(child.record)
        reached("keeper.ended")
        if reaps:
            os.waitpid(child.record.pid, 0)
        self.drop(child.record.id)
        self._tell(child)
        reached("keeper.told")

    def forget(self, id: str) -> None:
        """Leave nothing of `id`, which does not run, and of a container's execs that have ended."""
        child = self.children.pop(id, None)
        if child is not None and id != child.record.container:
            child.close_streams()
            self._execs.get(child.record.container, set()).discard(id)
            self.journal.remove(id)
            return
        for exec_id in list(self._execs.get(id, ())):
            if not self.children[exec_id].running:
                self.forget(exec_id)
        if not self._execs.get(id):
            self._execs.pop(id, None)
        self.streams.remove_pipes(id)
        reached("keeper.forgetting")
        self.journal.remove(id)

    def undo(self, child: Child) -> None:
        """Leave nothing of a process that never was."""
        self._starting.pop(child.record.pid, None)
        self._inherited.pop((child.record.pid, child.record.start_time), None)
        self.streams.finish(child)
        self.drop(child.record.id)
        self.add(child)
        self.forget(child.record.id)

    def _write(self, record: Record) -> None:
        """Keep a record where nobody can be told that it is not possible: the keeper goes on without."""
        try:
            self.journal.write(record)
        except OSError as error:
            complain(f"record of {record.id} is not kept: {error}")

    # An execve of the keeper

    def hand_over(self) -> dict[str, Any]:
        """What a successor by execve needs to know: the fields of `handover.State` about processes."""
        return {
            "children": [
                HandedChild(
                    record=vars(child.record),
                    own=child.own,
                    pipes={str(stream): pipe for stream, pipe in child.pipes.items()},
                    terminal=child.terminal,
                    stdin=child.stdin,
                    exec_streams=list(child.exec_streams),
                    watch=child.watch,
                    owner=child.owner.connection.fileno() if child.owner is not None else -1,
                )
                for child in self.children.values()
            ],
            "held": sorted(self._held),
            "unclaimed": list(self._unclaimed.items()),
            "expected": list(self._expected),
        }

    def take_over(self, state: State, clients: dict[int, Client]) -> None:
        """Go on with the processes of a predecessor, and its connections by their descriptors."""
        self._held = set(state.held)
        self._unclaimed = dict(state.unclaimed)
        self._expected = dict.fromkeys(state.expected, nothing)
        for handed in state.children:
            record = record_of(handed.record)
            child = Child(
                record,
                handed.own,
                stdin=handed.stdin,
                exec_streams=handed.exec_streams,
                owner=clients.get(handed.owner),
            )
            self.add(child)
            if not child.running:
                continue
            if record.log_directory:
                child.log = self.streams.open_log(record)
                child.log.recover()
            self.streams.take_over(child, handed)
            if not child.own:
                self._inherited[record.pid, record.start_time] = child
            if child.own:
                self._by_pid[record.pid] = child
            elif handed.watch >= 0:
                child.watch = handed.watch
                self._follow_end(child)
            elif not self._watch(child):
                self._await_news(child)

    # The guardian

    def hold(self, id: str, descriptor: int) -> None:
        """Have the guardian keep `descriptor` for the keeper's successor."""
        self._held.add(id)
        self._say(lambda: guardian.hold(self._guardian, id, descriptor))

    def lend(self, descriptors: list[int]) -> None:
        """Have the guardian keep a container's pipes until it holds them by itself."""
        self._say(lambda: guardian.lend(self._guardian, descriptors))

    def drop(self, id: str) -> None:
        """The descriptor that the guardian keeps for `id`, if it keeps one, is not needed any more."""
        if id in self._held:
            self._held.discard(id)
            self._say(lambda: guardian.drop(self._guardian, id))

    def hear_guardian(self, mask: int) -> None:
        """The guardian has reaped a process that a former keeper had started."""
        try:
            packet = self._guardian.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            self._loop.remove(self._guardian.fileno())
            self._go_on_alone()
            return
        pid, started, status = json.loads(packet)["reaped"]
        child = self._inherited.get((pid, started))
        if child is not None:
            self._inherited_end(child, status)
        if status is None:
            self._launcher_gone()
        self._say(lambda: guardian.seen(self._guardian, pid, started))

    def guardian_pid(self) -> int:
        """The guardian's process, 0 if it has been killed."""
        if self._guarded:
            self.hear_guardian(0)
        return os.getppid() if self._guarded else 0

    def _go_on_alone(self) -> None:
        """The guardian has been killed: nobody tells any more of those that were its children."""
        self._guarded = False
        for child in list(self._inherited.values()):
            if child.watch < 0 and not self._watch(child, alone=True):
                self._await_news(child)

    def _say(self, words: Callable[[], None]) -> None:
        try:
            words()
        except OSError:
            pass  # it has been killed; the keeper can do without

    # Processes of a former keeper

    def adopt(self, legacy: Legacy) -> None:
        """Take up every process in the journal, and what the guardian has kept for it."""
        self._held = set(legacy.held)
        self._adopting = True
        for record in self.journal.read_all():
            child = Child(record, own=False)
            self.add(child)
            if not child.running:
                continue
            if record.log_directory:
                child.log = self.streams.open_log(record)
                child.log.recover()
            self._reopen(child, legacy)
            key = (record.pid, record.start_time)
            self._inherited[key] = child
            if key in legacy.reaped:
                self._inherited_end(child, legacy.reaped[key])
            elif not self._watch(child):
                self._await_news(child)
        for pid, started in legacy.reaped:
            self._say(lambda pid=pid, started=started: guardian.seen(self._guardian, pid, started))  # type: ignore[misc]
        for id, descriptor in legacy.held.items():
            os.close(descriptor)
            if id not in self.children:
                self.drop(id)
        self._await_starts()
        self._adopting = False
        self.streams.keep_pipes_of(self.children)

    def _await_starts(self) -> None:
        """Let launchers that a former keeper had given their plan, or was about to, come to their execve or
        to their end, before anybody is told that they run.
        """
        deadline = time.monotonic() + _STARTS_SECONDS
        starting = list(self.children.values())
        while time.monotonic() < deadline:
            for child in starting:
                if child.running and _name(child.record) in _AHEAD and _Zombie.of(child.record):
                    self._inherited_end(child, None)
            starting = [
                child
                for child in starting
                if child.running and child.record.id in self.children and _may_be_launcher(child.record)
            ]
            if not starting:
                return
            time.sleep(_STARTS_PAUSE)
            self.hear_guardian(0)

    def _reopen(self, child: Child, legacy: Legacy) -> None:
        held = legacy.held.get(child.record.id)
        mine = os.dup(held) if held is not None else -1
        if child.record.container != child.record.id:
            child.exec_streams = [mine] if mine >= 0 else []
            child.stdin = os.dup(mine) if mine >= 0 and child.record.stdin else -1
        elif child.record.terminal:
            if mine >= 0:
                self.streams.follow_terminal(child, mine)
        else:
            child.stdin = mine
            try:
                self.streams.follow_pipes(child)
            except FileNotFoundError:
                pass  # killed between the record and the pipes: there is no process either

    def _watch(self, child: Child, *, alone: bool = False) -> bool:
        """Follow the end of a process that is not our child; False when it has gone already.

        The guardian tells of those that it has inherited. When it has been killed too, they are init's
        children, and only the kernel can tell (Linux 6.15).
        """
        record = child.record
        try:
            child.watch = syscalls.pidfd_open(record.pid)
            parent, started = parent_and_start_time(record.pid)
        except OSError:
            started = -1
            parent = 0
        if started == record.start_time and (alone or parent != os.getppid()):
            self._follow_end(child)
            return True
        if child.watch >= 0:
            os.close(child.watch)
            child.watch = -1
        return started == record.start_time

    def _follow_end(self, child: Child) -> None:
        self._loop.add(child.watch, lambda _: self._foreign_end(child))

    def _await_news(self, child: Child) -> None:
        """For one that has gone: the guardian may have reaped it a moment ago, and its word be on the way."""

        def no_news() -> None:
            if child.running:
                self.ended(child, UNKNOWN_EXIT, known=False)

        self._loop.at(f"news of {child.record.id}", time.monotonic() + _NEWS_SECONDS, no_news)

    def _foreign_end(self, child: Child) -> None:
        """A process of which nobody tells has ended: it is asked itself, if it is not reaped, else the
        kernel.
        """
        zombie = _Zombie.of(child.record)
        if zombie is not None and not zombie.executed:
            self._inherited_end(child, None)
            return
        status = zombie.status if zombie is not None else None
        if status is None:
            status = syscalls.pidfd_wait_status(child.watch)
        self._inherited_end(child, status)

    def _inherited_end(self, child: Child, status: int | None) -> None:
        if status is None and self._adopting:  # a launcher that never got as far as execve
            self.undo(child)
        elif status is None:
            self.ended(child, UNKNOWN_EXIT, known=False)
        else:
            self.ended(child, exit_code(status), known=True)


def nothing() -> None:
    """For a child whose end needs no more than to be reaped."""


def _wait_status(found: os.waitid_result) -> int:
    """What waitpid(2) would say of a child that waitid(2) has looked at."""
    return found.si_status << 8 if found.si_code == os.CLD_EXITED else found.si_status


def _may_be_launcher(record: Record) -> bool:
    """Whether a process has not come to its execve yet. One that has gone may not have, until the guardian
    tells.
    """
    return _name(record) in ("", LAUNCHER_NAME)


@dataclass(frozen=True)
class _Zombie:
    """A process that is over and has not been reaped: whether it had come to its execve, and how it ended, in
    terms of wait(2), None where the kernel keeps that from this process.
    """

    executed: bool
    status: int | None

    @classmethod
    def of(cls, record: Record) -> _Zombie | None:
        """What is left of the process of a record, None if it lives or has been reaped."""
        name = _name(record)
        try:
            fields = stat_fields(record.pid)
        except OSError:
            return None
        if fields[0] != b"Z" or int(fields[19]) != record.start_time:
            return None
        # proc_pid_stat(5): who may not trace a process is shown 0 in its field 52.
        may_know = syscalls.capget()[0] >> _CAP_SYS_PTRACE & 1
        status = int(fields[49]) if may_know else None
        return cls(name not in _AHEAD, status)


def _name(record: Record) -> str:
    """The name of a process, "" of one that has gone."""
    try:
        with open(f"/proc/{record.pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
