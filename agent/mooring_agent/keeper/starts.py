# SPDX-License-Identifier: Apache-2.0
"""From a forked launcher to a container, and from a joiner to an exec: what is watched until the execve."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..failpoints import reached
from ..linux import lean
from ..runtime.join import start_time
from ..runtime.launch import GOING, in_words
from ..runtime.plan import Shape
from . import messages
from .children import Child
from .connections import Client
from .diagnostics import complain
from .eventloop import EventLoop
from .launchers import Launcher, Launchers
from .processes import Processes, nothing
from .records import Record
from .slots import Slots, remove_groups

Reply = Callable[[messages.Message, Sequence[int]], None]
Request = messages.Prepare | messages.Launch
_POOL_PAUSE = 5.0
# On cgroup v2 a container's group has its launcher's name, so what is in use may stay so.
_SWEEPS = 20
_SWEEP_PAUSE = 0.25
_SILENT_END = "the launcher ended without a word"


class Refused(Exception):
    """A request that cannot be done; becomes the answer Failed."""

    def __init__(self, message: str, *, gone: bool = False) -> None:
        super().__init__(message)
        self.gone = gone


@dataclass
class Start:
    """A launcher or a joiner on its way to its execve. `reply` is there once somebody waits for that."""

    child: Child
    channel: socket.socket
    launcher: Launcher | None = None
    reply: Reply | None = None
    going: bool = False
    unheard: bool = False
    failure: messages.Failed | None = None


class Starts:
    """Prepares launchers and turns them into containers."""

    def __init__(self, loop: EventLoop, launchers: Launchers, processes: Processes, slots: Slots) -> None:
        self._loop = loop
        self._launchers = launchers
        self._slots = slots
        self._processes = processes
        self._pool_rests = False
        self._prepared: dict[str, Start] = {}  # by slot
        self._awaited = 0  # answers that are owed

    def under_way(self) -> bool:
        """Whether a client has a launcher, or waits for what becomes of one."""
        return self._awaited > 0 or any(one.owner is not None for one in self._launchers.all.values())

    # The pool

    def wants_more(self) -> bool:
        """Whether the pool is to be filled, and does not rest after a failure."""
        return not self._pool_rests and (self._launchers.wants_more() or self._launchers.wants_joiner())

    def refill(self) -> bool:
        """Fork one joiner or launcher more of those that are missing; whether there is still one missing."""
        try:
            if self._launchers.wants_joiner():
                self._launchers.prepare_joiner()
            else:
                self._await_use(self._launchers.refill())
        except OSError as error:
            self._rest_pool(f"no launcher can be forked: {in_words(error)}")
        return self.wants_more()

    def configure(self, shape: Shape, size: int) -> None:
        """Keep `size` launchers of `shape`."""
        self._pool_rests = False
        for launcher in self._launchers.configure(shape, size):
            self.dismiss(launcher)
        if not size:
            self._dismiss_unused()
        self._slots.know(shape.groups)
        self.sweep()

    def acquire(self, client: Client, shape: Shape, reply: Reply) -> None:
        """Give `client` a launcher, once there is one that is ready."""
        launcher, forked = self._launchers.acquire(shape)
        launcher.owner = client
        reached("keeper.acquired")
        if launcher.ready:
            reply(messages.Slot(launcher.slot, launcher.pid), ())
            return
        if not forked:
            self._loop.remove(launcher.channel.fileno())

        def heard(_: int) -> None:
            packet = _receive(launcher.channel)
            self._loop.remove(launcher.channel.fileno())
            if packet == b"ready":
                launcher.ready = True
                self._await_use(launcher)
                reply(messages.Slot(launcher.slot, launcher.pid), ())
                return
            reason = json.loads(packet)["error"] if packet else _SILENT_END
            self._discard(launcher)
            reply(messages.Failed(f"launcher could not be prepared: {reason}"), ())

        self._loop.add(launcher.channel.fileno(), heard)

    def release(self, slot: str, when_gone: Callable[[], None]) -> None:
        """Give up a launcher, if it is still one."""
        launcher = self._launchers.all.get(slot)
        if launcher is None or launcher.has_plan:
            when_gone()
            return
        self._awaited += 1

        def gone() -> None:
            self._awaited -= 1
            when_gone()

        self.dismiss(launcher, gone)

    def release_all_of(self, client: Client) -> None:
        """Give up what a client had acquired and not used."""
        for launcher in list(self._launchers.all.values()):
            if launcher.owner is client and not launcher.has_plan:
                self.dismiss(launcher)

    def sweep(self, attempts: int = _SWEEPS) -> None:
        """Remove the groups that launchers of a killed keeper have left; some may be about to end, and only
        then their groups can go.
        """
        if self._slots.sweep(self._processes.slots()) and attempts > 1:
            self._loop.at("sweep", time.monotonic() + _SWEEP_PAUSE, lambda: self.sweep(attempts - 1))

    def sweep_soon(self) -> None:
        """Sweep once for all that end about now."""
        self._loop.at("sweep", time.monotonic() + _SWEEP_PAUSE, self.sweep)

    def dismiss_all(self) -> None:
        """Give up every launcher and joiner, and whoever forks them."""
        self._launchers.close()
        self._dismiss_unused()
        for launcher in list(self._launchers.all.values()):
            self.dismiss(launcher)

    def _dismiss_unused(self) -> None:
        """Give up the joiners, and every launcher that has no plan, whoever has acquired it."""
        self._release_joiners()
        for launcher in list(self._launchers.all.values()):
            if not launcher.has_plan:
                self.dismiss(launcher)

    def _release_joiners(self) -> None:
        for pid in self._launchers.release_joiners():
            self._processes.expect_end(pid, nothing)

    def dismiss(self, launcher: Launcher, when_gone: Callable[[], None] = nothing) -> None:
        """End a launcher; `when_gone` is called when nothing of it is left."""
        self._loop.remove(launcher.channel.fileno())
        os.kill(launcher.pid, signal.SIGKILL)
        self._discard(launcher, when_gone)

    def _await_use(self, launcher: Launcher) -> None:
        """Hear what a launcher says before it gets a plan: that it is ready, or why it will never be."""

        def heard(_: int) -> None:
            packet = _receive(launcher.channel)
            if packet == b"ready":
                launcher.ready = True
                return
            if not launcher.ready:
                reason = json.loads(packet)["error"] if packet else _SILENT_END
                self._rest_pool(f"launcher {launcher.slot} failed: {reason}")
            self._loop.remove(launcher.channel.fileno())
            self._discard(launcher)

        self._loop.add(launcher.channel.fileno(), heard)

    def _rest_pool(self, reason: str) -> None:
        """The next launcher would fare no better than this one, so the pool is filled again only after a
        while.
        """
        complain(reason)
        self._pool_rests = True
        self._loop.at("pool", time.monotonic() + _POOL_PAUSE, self._wake_pool)

    def _wake_pool(self) -> None:
        self._pool_rests = False

    def _discard(self, launcher: Launcher, when_gone: Callable[[], None] = nothing) -> None:
        """A launcher that has ended, or is about to."""
        names = [launcher.slot]
        start = self._prepared.pop(launcher.slot, None)
        if start is not None:
            self._processes.undo(start.child)
            if not launcher.shape.unified:
                names.append(start.child.record.id)
        self._launchers.remove(launcher)

        def ended() -> None:
            for name in names:
                remove_groups(launcher.shape.groups, name)
            when_gone()

        self._processes.expect_end(launcher.pid, ended)

    # Containers and execs

    def prepare(self, client: Client, request: messages.Prepare, plan: int) -> None:
        """Hand a launcher a plan whose process is to be started later. Raises Refused."""
        launcher = self._acquired(client, request.slot)
        if launcher.slot in self._prepared:
            raise Refused(f"slot {request.slot} has a plan already")
        start, given = self._begin(launcher, request)
        self._prepared[launcher.slot] = start
        send(launcher.channel, b"plan", [plan, *given])
        close(given)
        self._follow(start)

    def _acquired(self, client: Client, slot: str) -> Launcher:
        launcher = self._launchers.all.get(slot)
        if launcher is None or launcher.owner is not client or launcher.has_plan:
            raise Refused(
                f"slot {slot} is not there: expected one that this connection has acquired", gone=True
            )
        return launcher

    def launch(self, client: Client, request: messages.Launch, plan: list[int], reply: Reply) -> None:
        """Hand a launcher its plan, unless it has one, and let it go. Raises Refused."""
        launcher = self._acquired(client, request.slot)
        start = self._prepared.get(launcher.slot)
        if bool(plan) == (start is not None):
            raise Refused(f"slot {request.slot} needs exactly one plan, by Prepare or with Launch")
        if start is not None and start.child.record.id != request.id:
            raise Refused(f"slot {request.slot} is prepared for container {start.child.record.id}")
        given: list[int] = []
        if start is None:
            start, given = self._begin(launcher, request)
        child = start.child
        try:
            self._processes.journal.write(child.record)
            reached("keeper.recorded")
        except OSError:
            close(given)
            if launcher.slot not in self._prepared:
                self._processes.undo(child)
            self.dismiss(launcher)
            raise
        launcher.has_plan = True
        start.reply = reply
        self._awaited += 1
        self._processes.add(child)
        self._processes.expect_start(child)
        if self._prepared.pop(launcher.slot, None) is None:
            self._follow(start)
        send(launcher.channel, b"plan" if plan else lean.WORD, [*plan, *given])
        close(given)
        reached("keeper.handed")

    def _begin(self, launcher: Launcher, request: Request) -> tuple[Start, list[int]]:
        """Make all that a container's process needs beside its plan; the standard streams for it. Raises
        Refused, OSError.
        """
        old = self._processes.children.get(request.id)
        if old is not None and old.running:
            raise Refused(f"container {request.id} runs already as process {old.record.pid}")
        if any(start.child.record.id == request.id for start in self._prepared.values()):
            raise Refused(f"container {request.id} is being prepared already")
        record = Record(
            id=request.id,
            container=request.id,
            pid=launcher.pid,
            start_time=start_time(launcher.pid),
            terminal=request.terminal,
            log_directory=request.log_directory,
            log_size=request.log_size,
            log_files=request.log_files,
            group=launcher.slot if launcher.shape.unified else "",
        )
        child = Child(record, own=True)
        given: list[int] = []
        try:
            self._open_streams(child, request, given)
        except OSError:
            close(given)
            self._processes.undo(child)
            self.dismiss(launcher)
            raise
        self._loop.remove(launcher.channel.fileno())
        return Start(child, launcher.channel, launcher), given

    def await_exec(self, start: Start) -> None:
        """Answer for a joiner that is about to start its process."""
        self._awaited += 1
        self._follow(start)

    def _open_streams(self, child: Child, request: Request, given: list[int]) -> None:
        """Make the log and, without a terminal, the pipes; what the container gets of them is added to
        `given`.
        """
        streams = self._processes.streams
        child.log = streams.open_log(child.record)
        if not request.terminal:
            given.append(self._open_stdin(child, request.stdin))
            streams.make_pipes(request.id, given)
            self._processes.lend(given[1:])
            streams.follow_pipes(child)

    def _open_stdin(self, child: Child, wanted: bool) -> int:
        if not wanted:
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        reader, child.stdin = os.pipe2(os.O_CLOEXEC)
        self._processes.hold(child.record.id, child.stdin)
        return reader

    def _follow(self, start: Start) -> None:
        """Hear what a launcher or joiner says up to its execve, which closes the channel, or its report of
        failure.
        """

        def heard(_: int) -> None:
            try:
                packet, descriptors, _, _ = socket.recv_fds(start.channel, messages.PACKET_MAX, 1)
            except BlockingIOError:
                return
            except ConnectionResetError:  # it has ended with something unread, so that it has begun nothing
                packet, descriptors, start.unheard = b"", [], True
            except OSError:
                packet, descriptors = b"", []
            if packet == b"terminal":
                self._take_terminal(start.child, descriptors[0])
            elif packet.startswith(b"pid "):
                self._processes.note_pid(start.child, int(packet[4:]))
            elif packet == GOING:
                start.going = True
            elif packet:
                report = json.loads(packet)
                start.failure = messages.Failed(**{"message": report.pop("error"), **report})
            else:
                self._loop.remove(start.channel.fileno())
                self._over(start)

        self._loop.add(start.channel.fileno(), heard)

    def _over(self, start: Start) -> None:
        """The channel has closed."""
        launcher = start.launcher
        if start.reply is None:
            # Nobody waits for it yet. Who asks for it finds it gone, and a fresh one says what is wrong.
            assert launcher is not None
            self._discard(launcher)
            return
        self._awaited -= 1
        start.channel.close()
        if launcher is not None:
            self._launchers.remove(launcher)
        if start.failure is None and not (start.going and start.child.record.pid):
            start.failure = messages.Failed(_SILENT_END, gone=launcher is not None or start.unheard)
        if start.failure is not None:
            self._not_started(start.child, launcher)
            start.reply(start.failure, ())
        else:
            self._started(start.child, start.reply)

    def _take_terminal(self, child: Child, master: int) -> None:
        if child.log is not None:
            self._processes.hold(child.record.id, master)
            self._processes.streams.follow_terminal(child, master)
        else:
            child.exec_streams = [master]

    def _not_started(self, child: Child, launcher: Launcher | None) -> None:
        """Leave nothing of a process that never was."""
        self._processes.undo(child)
        if launcher is not None:
            self._processes.expect_end(
                launcher.pid, lambda: remove_groups(launcher.shape.groups, launcher.slot)
            )
        elif child.record.pid:
            self._processes.expect_end(child.record.pid, nothing)

    def _started(self, child: Child, reply: Reply) -> None:
        self._processes.add(child)
        reached("keeper.executed")
        reply(messages.Launched(child.record.pid, child.record.start_time), child.exec_streams)
        self._processes.claim(child)
        if child.exec_streams:
            self._processes.reap()  # a short one has ended by now: then the guardian need not hear of it
        if child.running and child.exec_streams:
            self._processes.hold(child.record.id, child.exec_streams[0])


def close(descriptors: list[int]) -> None:
    """Close all of them."""
    for descriptor in descriptors:
        os.close(descriptor)


def send(channel: socket.socket, word: bytes, descriptors: list[int]) -> bool:
    """Tell a launcher or joiner something; False for one that has ended, whose channel says so too."""
    try:
        socket.send_fds(channel, [word], descriptors)
    except OSError:
        return False
    return True


def _receive(channel: socket.socket) -> bytes:
    try:
        return channel.recv(messages.PACKET_MAX)
    except OSError:
        return b""
