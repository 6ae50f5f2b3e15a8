# SPDX-License-Identifier: Apache-2.0
"""The keeper proper: answers the agent, forks launchers, and remembers how every process ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from .. import __version__
from ..linux import syscalls
from ..runtime.join import parent_and_start_time, start_time
from ..runtime.plan import Shape
from . import guardian, messages
from .children import UNKNOWN_EXIT, Child, Streams, default_signals, exit_code, open_exec_streams
from .eventloop import HANGUP, READ, WRITE, EventLoop
from .guardian import Legacy
from .launchers import Launcher, Launchers, remove_groups
from .records import Journal, Record

_IDLE_SECONDS = 5.0
_POOL_PAUSE = 5.0
_SILENT_END = "the launcher ended without a word"


class Client:
    """One connection of an agent, with what could not be sent to it yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.queue: deque[tuple[bytes, list[int]]] = deque()


class Refused(Exception):
    """A request that cannot be done; becomes the answer Failed."""


class Keeper:
    """All state of a keeper process."""

    def __init__(self, listener: socket.socket, channel: socket.socket, legacy: Legacy, run_root: str) -> None:
        self._listener = listener
        self._guardian = channel
        self._loop = EventLoop(self._refill_pool)
        self._journal = Journal(f"{run_root}/keeper/records")
        self._streams = Streams(self._loop, f"{run_root}/keeper/pipes")
        self._launchers = Launchers(f"{run_root}/stage", self._prepare_child)
        self._children: dict[str, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._unclaimed: dict[int, int] = {}
        self._clients: dict[int, Client] = {}
        self._pool_failed_at: float | None = None
        self._expected: dict[int, Callable[[], None]] = {}
        self._handlers: dict[type, Callable[..., None]] = {
            messages.Hello: self._hello,
            messages.Configure: self._configure,
            messages.Acquire: self._acquire,
            messages.Release: self._release,
            messages.Launch: self._launch,
            messages.Exec: self._exec,
            messages.Signal: self._signal,
            messages.Resize: self._resize,
            messages.Streams: self._give_streams,
            messages.CloseStdin: self._close_stdin,
            messages.SetLog: self._set_log,
            messages.Inventory: self._inventory,
            messages.Forget: self._forget,
            messages.Shutdown: self._shutdown,
        }
        self._adopt(legacy)

    def run(self) -> None:
        """Serve until told to end, or until there is neither a process nor a client for a while."""
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._listener.setblocking(False)
        self._guardian.setblocking(False)
        self._loop.add(wake_read, lambda _: self._wake(wake_read))
        self._loop.add(self._listener.fileno(), lambda _: self._accept())
        self._loop.add(self._guardian.fileno(), self._hear_guardian)
        self._reap()
        self._consider_idleness()
        self._loop.run()
        for launcher in list(self._launchers.all.values()):
            self._dismiss(launcher)
        deadline = time.monotonic() + 2
        while self._expected and time.monotonic() < deadline:
            self._reap()
            time.sleep(0.005)

    # Processes that a former keeper had started

    def _adopt(self, legacy: Legacy) -> None:
        for record in self._journal.read_all():
            child = Child(record, own=False)
            self._children[record.id] = child
            if not child.running:
                continue
            key = (record.pid, record.start_time)
            if record.log_directory:
                child.log = self._streams.open_log(record)
            self._reopen(child, legacy)
            if key in legacy.reaped:
                self._finish_foreign(child, legacy.reaped[key])
            elif not self._watch(child):
                self._ended(child, UNKNOWN_EXIT, known=False)
        for id, descriptor in legacy.held.items():
            os.close(descriptor)
            if id not in self._children:
                guardian.drop(self._guardian, id)

    def _reopen(self, child: Child, legacy: Legacy) -> None:
        held = legacy.held.get(child.record.id)
        mine = os.dup(held) if held is not None else -1
        if child.record.container != child.record.id:
            child.exec_streams = [mine] if mine >= 0 else []
        elif child.record.terminal:
            if mine >= 0:
                self._streams.follow_terminal(child, mine)
        else:
            child.stdin = mine
            try:
                self._streams.follow_pipes(child)
            except FileNotFoundError:
                pass  # killed between the record and the pipes: there is no process either

    def _watch(self, child: Child) -> bool:
        """Follow the end of a process that is not our child; False when it has gone already.

        The guardian tells of those that it has inherited. When it has been killed too, they are init's children, and
        only the kernel can tell (Linux 6.15).
        """
        record = child.record
        try:
            child.watch = syscalls.pidfd_open(record.pid)
        except OSError:
            return False
        try:
            parent, started = parent_and_start_time(record.pid)
        except OSError:
            parent, started = 0, -1
        if started == record.start_time and parent != os.getppid():
            self._loop.add(child.watch, lambda _: self._foreign_end(child))
            return True
        os.close(child.watch)
        child.watch = -1
        return started == record.start_time

    def _foreign_end(self, child: Child) -> None:
        status = syscalls.pidfd_wait_status(child.watch)
        if status is None:
            # Not reaped yet, or an older kernel. The former lasts for moments only.
            if _is_zombie(child.record.pid):
                time.sleep(0.001)
                return
            self._ended(child, UNKNOWN_EXIT, known=False)
        else:
            self._ended(child, exit_code(status), known=True)

    def _hear_guardian(self, mask: int) -> None:
        try:
            packet = self._guardian.recv(4096)
        except BlockingIOError:
            return
        except ConnectionError:
            packet = b""
        if not packet:
            self._loop.remove(self._guardian.fileno())
            return
        pid, started, status = json.loads(packet)["reaped"]
        self._tell_guardian(lambda: self._guardian.send(json.dumps({"seen": [pid, started]}).encode()))
        for child in self._children.values():
            if child.record.pid == pid and child.record.start_time == started and child.running:
                self._finish_foreign(child, status)
                return

    def _finish_foreign(self, child: Child, status: int | None) -> None:
        if status is None:  # a launcher that never got as far as execve
            self._ended(child, UNKNOWN_EXIT, known=False)
        else:
            self._ended(child, exit_code(status), known=True)

    def _tell_guardian(self, say: Callable[[], object]) -> None:
        try:
            say()
        except OSError:
            pass  # it has been killed; the keeper can do without

    # Our own children

    def _wake(self, descriptor: int) -> None:
        os.read(descriptor, 4096)
        self._reap()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            when_gone = self._expected.pop(pid, None)
            if when_gone is not None:
                when_gone()
                continue
            child = self._by_pid.pop(pid, None)
            if child is not None:
                self._ended(child, exit_code(status), known=True)
            else:
                self._unclaimed[pid] = status

    def _expect_end(self, pid: int, when_gone: Callable[[], None]) -> None:
        """A child whose status nobody asks for: `when_gone` is called once it is reaped."""
        if self._unclaimed.pop(pid, None) is None:
            self._expected[pid] = when_gone
        else:
            when_gone()

    def _claim(self, child: Child) -> None:
        """Tie a child to its pid, which may have ended already."""
        pid = child.record.pid
        status = self._unclaimed.pop(pid, None)
        if status is None:
            self._by_pid[pid] = child
        else:
            self._ended(child, exit_code(status), known=True)

    def _ended(self, child: Child, code: int, *, known: bool) -> None:
        """The end of a process: its output first, then the record, and only then anybody is told."""
        self._streams.finish(child)
        child.record = child.record.exited(code, known, time.time())
        self._journal.write(child.record)
        if child.record.terminal or child.stdin >= 0 or child.exec_streams:
            self._tell_guardian(lambda: guardian.drop(self._guardian, child.record.id))
        event = messages.Exited(child.record.id, code, known, child.record.finished_at or 0.0)
        for client in list(self._clients.values()):
            self._send(client, messages.encode(event), [])

    def _prepare_child(self, keep: int) -> None:
        default_signals()
        if keep > 3:
            syscalls.close_range(3, keep - 1)
        syscalls.close_range(keep + 1)

    # Launchers

    def _refill_pool(self) -> bool:
        """Fork one launcher more if one is missing; whether to come again at once."""
        if not self._clients or not self._launchers.wants_more() or self._pool_failed_at is not None:
            return False
        self._listen_to(self._launchers.refill())
        return self._launchers.wants_more()

    def _pool_failed(self, launcher: Launcher) -> None:
        """A launcher could not be prepared, and the next would fare no better: try again after a while."""
        print(f"launcher {launcher.slot} failed: {launcher.failure}", file=sys.stderr, flush=True)
        self._pool_failed_at = time.monotonic()
        self._loop.at(self._pool_failed_at + _POOL_PAUSE, self._retry_pool)

    def _retry_pool(self) -> None:
        self._pool_failed_at = None

    def _listen_to(self, launcher: Launcher) -> None:
        def heard(_: int) -> None:
            packet = launcher.channel.recv(messages.PACKET_MAX) if not launcher.ready else b""
            if packet == b"ready":
                launcher.ready = True
                return
            if packet:
                launcher.failure = json.loads(packet)["error"]
                self._pool_failed(launcher)
            self._loop.remove(launcher.channel.fileno())
            self._discard(launcher)

        self._loop.add(launcher.channel.fileno(), heard)

    def _discard(self, launcher: Launcher) -> None:
        """A launcher that has ended or is told to by the closing of its channel."""
        self._launchers.remove(launcher)
        self._expect_end(launcher.pid, lambda: remove_groups(launcher.shape, launcher.slot))

    def _dismiss(self, launcher: Launcher) -> None:
        self._loop.remove(launcher.channel.fileno())
        os.kill(launcher.pid, signal.SIGKILL)
        self._discard(launcher)

    # Requests

    def _hello(self, client: Client, seq: int, message: messages.Hello, descriptors: list[int]) -> None:
        if message.protocol != messages.PROTOCOL:
            raise Refused(
                f"keeper of version {__version__} speaks protocol {messages.PROTOCOL}, the agent of version "
                f"{message.version} protocol {message.protocol}: upgrade the older one"
            )
        self._reply(client, seq, messages.Hello(messages.PROTOCOL, __version__, os.getpid(), os.getppid()))

    def _configure(self, client: Client, seq: int, message: messages.Configure, descriptors: list[int]) -> None:
        for launcher in self._launchers.configure(Shape.from_json(message.shape), message.size):
            self._dismiss(launcher)
        self._reply(client, seq, messages.Done())

    def _acquire(self, client: Client, seq: int, message: messages.Acquire, descriptors: list[int]) -> None:
        launcher, forked = self._launchers.acquire(Shape.from_json(message.shape))
        launcher.owner = client
        if forked:
            self._listen_to(launcher)
        if launcher.ready:
            self._reply(client, seq, messages.Slot(launcher.slot, launcher.pid))
            return
        self._loop.remove(launcher.channel.fileno())

        def heard(_: int) -> None:
            packet = launcher.channel.recv(messages.PACKET_MAX)
            self._loop.remove(launcher.channel.fileno())
            if packet == b"ready":
                launcher.ready = True
                self._listen_to(launcher)
                self._reply(client, seq, messages.Slot(launcher.slot, launcher.pid))
                return
            reason = json.loads(packet)["error"] if packet else "it ended without a word"
            self._discard(launcher)
            self._reply(client, seq, messages.Failed(f"launcher could not be prepared: {reason}"))

        self._loop.add(launcher.channel.fileno(), heard)

    def _release(self, client: Client, seq: int, message: messages.Release, descriptors: list[int]) -> None:
        launcher = self._launchers.all.get(message.slot)
        if launcher is not None:
            self._dismiss(launcher)
        self._reply(client, seq, messages.Done())

    def _launch(self, client: Client, seq: int, message: messages.Launch, descriptors: list[int]) -> None:
        plan = descriptors[0]
        launcher = self._launchers.all.get(message.slot)
        if launcher is None or launcher.owner is not client:
            raise Refused(f"slot {message.slot} is not there: expected one that this connection has acquired")
        old = self._children.get(message.id)
        if old is not None and old.running:
            raise Refused(f"container {message.id} runs already as process {old.record.pid}")
        self._loop.remove(launcher.channel.fileno())
        record = Record(
            id=message.id,
            container=message.id,
            pid=launcher.pid,
            start_time=start_time(launcher.pid),
            terminal=message.terminal,
            log_directory=message.log_directory,
            log_size=message.log_size,
            log_files=message.log_files,
        )
        child = Child(record, own=True, log=self._streams.open_log(record))
        self._streams.remove_pipes(message.id)
        given: list[int] = []
        if not message.terminal:
            given = [self._open_stdin(child, message.stdin), *self._streams.make_pipes(message.id)]
            self._streams.follow_pipes(child)
        self._journal.write(record)
        self._children[message.id] = child
        self._hand_over(launcher.channel, [plan, *given])
        for descriptor in given:
            os.close(descriptor)
        self._await_start(
            client,
            seq,
            child,
            launcher.channel,
            pid=launcher.pid,
            launcher=launcher,
        )

    def _open_stdin(self, child: Child, wanted: bool) -> int:
        if not wanted:
            return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        reader, child.stdin = os.pipe2(os.O_CLOEXEC)
        self._tell_guardian(lambda: guardian.hold(self._guardian, child.record.id, child.stdin))
        return reader

    def _exec(self, client: Client, seq: int, message: messages.Exec, descriptors: list[int]) -> None:
        plan = descriptors[0]
        container = self._children.get(message.container)
        if container is None or not container.running:
            raise Refused(f"container {message.container} does not run")
        if message.id in self._children:
            raise Refused(f"exec {message.id} has been started already")
        ours: list[int] = []
        given: list[int] = []
        if not message.terminal:
            ours, given = open_exec_streams(message.stdin, message.stdout, message.stderr)
        joiner, channel = self._launchers.fork_joiner()
        self._expect_end(joiner, _nothing)
        record = Record(
            id=message.id,
            container=message.container,
            pid=0,
            start_time=0,
            terminal=message.terminal,
        )
        child = Child(record, own=True, exec_streams=ours)
        if message.stdin and not message.terminal:
            child.stdin = os.dup(ours[0])
        self._hand_over(channel, [plan, *given])
        for descriptor in given:
            os.close(descriptor)
        self._await_start(client, seq, child, channel, pid=0, launcher=None)

    def _hand_over(self, channel: socket.socket, descriptors: Sequence[int]) -> None:
        try:
            socket.send_fds(channel, [b"plan"], descriptors)
        except OSError:
            pass  # it has ended: the channel's end says so

    def _await_start(
        self,
        client: Client,
        seq: int,
        child: Child,
        channel: socket.socket,
        *,
        pid: int,
        launcher: Launcher | None,
    ) -> None:
        """Follow a launcher or joiner up to its execve, which closes the channel, or its report of failure."""
        failure: list[messages.Failed] = []
        known = [pid]

        def heard(_: int) -> None:
            try:
                packet, descriptors, _, _ = socket.recv_fds(channel, messages.PACKET_MAX, 1)
            except BlockingIOError:
                return
            except ConnectionError:
                packet, descriptors = b"", []
            if packet == b"terminal":
                self._take_terminal(child, descriptors[0])
            elif packet.startswith(b"pid "):
                known[0] = int(packet[4:])
                self._note_exec(child, known[0])
            elif packet:
                report = json.loads(packet)
                failure.append(messages.Failed(report["error"], report["exit_code"]))
            else:
                self._loop.remove(channel.fileno())
                channel.close()
                if launcher is not None:
                    self._launchers.remove(launcher)
                if failure or not known[0]:
                    self._not_started(child, known[0], launcher)
                    self._reply(client, seq, failure[0] if failure else messages.Failed(_SILENT_END))
                else:
                    self._started(client, seq, child)

        self._loop.add(channel.fileno(), heard)

    def _note_exec(self, child: Child, pid: int) -> None:
        """The pid of an exec's process, from its joiner; it may have ended already, but nobody else reaps it."""
        try:
            started = start_time(pid)
        except OSError:
            started = 0
        child.record = replace(child.record, pid=pid, start_time=started)
        self._journal.write(child.record)

    def _not_started(self, child: Child, pid: int, launcher: Launcher | None) -> None:
        """Leave nothing of a process that never was."""
        id = child.record.id
        self._streams.finish(child)
        for descriptor in child.exec_streams:
            os.close(descriptor)
        if launcher is not None:
            self._expect_end(pid, lambda: remove_groups(launcher.shape, launcher.slot))
        elif pid:
            self._expect_end(pid, _nothing)
        self._children.pop(id, None)
        self._streams.remove_pipes(id)
        self._journal.remove(id)

    def _started(self, client: Client, seq: int, child: Child) -> None:
        id = child.record.id
        self._children[id] = child
        launched = messages.Launched(child.record.pid, child.record.start_time)
        self._reply(client, seq, launched, child.exec_streams)
        if child.exec_streams:
            self._tell_guardian(lambda: guardian.hold(self._guardian, id, child.exec_streams[0]))
        self._claim(child)

    def _take_terminal(self, child: Child, master: int) -> None:
        if child.log is not None:
            self._tell_guardian(lambda: guardian.hold(self._guardian, child.record.id, master))
            self._streams.follow_terminal(child, master)
        else:
            child.exec_streams = [master]

    def _child(self, id: str) -> Child:
        try:
            return self._children[id]
        except KeyError:
            raise Refused(f"process {id} is not known to the keeper") from None

    def _signal(self, client: Client, seq: int, message: messages.Signal, descriptors: list[int]) -> None:
        try:
            self._child(message.id).signal(message.number)
        except ProcessLookupError as error:
            raise Refused(str(error)) from None
        self._reply(client, seq, messages.Done())

    def _resize(self, client: Client, seq: int, message: messages.Resize, descriptors: list[int]) -> None:
        self._child(message.id).resize(message.rows, message.columns)
        self._reply(client, seq, messages.Done())

    def _give_streams(self, client: Client, seq: int, message: messages.Streams, descriptors: list[int]) -> None:
        child = self._child(message.id)
        streams = child.exec_streams or [one for one in (child.terminal, child.stdin) if one >= 0]
        self._reply(client, seq, messages.Done(), streams)

    def _close_stdin(self, client: Client, seq: int, message: messages.CloseStdin, descriptors: list[int]) -> None:
        child = self._child(message.id)
        if child.stdin >= 0:
            child.close_stdin()
            if child.exec_streams and not child.record.terminal:
                os.close(child.exec_streams.pop(0))
            self._tell_guardian(lambda: guardian.drop(self._guardian, message.id))
        self._reply(client, seq, messages.Done())

    def _set_log(self, client: Client, seq: int, message: messages.SetLog, descriptors: list[int]) -> None:
        child = self._child(message.id)
        if child.log is not None:
            child.log.size, child.log.files = message.log_size, message.log_files
        child.record = replace(child.record, log_size=message.log_size, log_files=message.log_files)
        self._journal.write(child.record)
        self._reply(client, seq, messages.Done())

    def _inventory(self, client: Client, seq: int, message: messages.Inventory, descriptors: list[int]) -> None:
        content = json.dumps([vars(child.record) for child in self._children.values()]).encode()
        file = messages.memory_file(content)
        self._reply(client, seq, messages.Done(), [file])
        os.close(file)

    def _forget(self, client: Client, seq: int, message: messages.Forget, descriptors: list[int]) -> None:
        child = self._children.get(message.id)
        if child is not None and not child.running:
            del self._children[message.id]
            for descriptor in child.exec_streams:
                os.close(descriptor)
            self._streams.remove_pipes(message.id)
            self._journal.remove(message.id)
        self._reply(client, seq, messages.Done())

    def _shutdown(self, client: Client, seq: int, message: messages.Shutdown, descriptors: list[int]) -> None:
        running = [id for id, child in self._children.items() if child.running]
        if running:
            raise Refused(f"{len(running)} processes still run: stop them first")
        self._reply(client, seq, messages.Done())
        self._loop.stop()

    # Connections

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        connection.setblocking(False)
        client = Client(connection)
        self._clients[connection.fileno()] = client
        self._loop.cancel()
        self._loop.add(connection.fileno(), lambda mask: self._serve(client, mask))

    def _serve(self, client: Client, mask: int) -> None:
        if mask & WRITE:
            self._flush(client)
        if not mask & (READ | HANGUP):
            return
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                client.connection, messages.PACKET_MAX, messages.DESCRIPTORS_MAX
            )
        except BlockingIOError:
            return
        except ConnectionError:
            packet, descriptors = b"", []
        if not packet:
            self._disconnect(client)
            return
        seq = 0
        try:
            seq, message = messages.decode(packet)
            handler = self._handlers.get(type(message))
            if handler is None:
                raise Refused(f"{type(message).__name__} is not a request")
            handler(client, seq, message, descriptors)
        except (Refused, messages.BadMessage, OSError) as error:
            self._reply(client, seq, messages.Failed(str(error)))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _reply(self, client: Client, seq: int, message: messages.Message, descriptors: Sequence[int] = ()) -> None:
        self._send(client, messages.encode(message, seq), list(descriptors))

    def _send(self, client: Client, packet: bytes, descriptors: list[int]) -> None:
        if client.connection.fileno() < 0:
            return
        client.queue.append((packet, [os.dup(descriptor) for descriptor in descriptors]))
        self._flush(client)

    def _flush(self, client: Client) -> None:
        while client.queue:
            packet, descriptors = client.queue[0]
            try:
                if descriptors:
                    socket.send_fds(client.connection, [packet], descriptors)
                else:
                    client.connection.send(packet)
            except BlockingIOError:
                self._loop.change(client.connection.fileno(), READ | WRITE)
                return
            except OSError:
                self._disconnect(client)
                return
            client.queue.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        self._loop.change(client.connection.fileno(), READ)

    def _disconnect(self, client: Client) -> None:
        number = client.connection.fileno()
        if self._clients.pop(number, None) is None:
            return
        self._loop.remove(number)
        client.connection.close()
        for _, descriptors in client.queue:
            for descriptor in descriptors:
                os.close(descriptor)
        client.queue.clear()
        for launcher in [one for one in self._launchers.all.values() if one.owner is client and one.ready]:
            # One that has its plan already is a container, and not in the list.
            if launcher.channel.fileno() >= 0 and not self._has_plan(launcher):
                self._dismiss(launcher)
        self._consider_idleness()

    def _has_plan(self, launcher: Launcher) -> bool:
        return any(child.record.pid == launcher.pid for child in self._children.values())

    def _consider_idleness(self) -> None:
        if self._clients:
            return
        self._loop.at(time.monotonic() + _IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if self._clients:
            return
        if any(child.running for child in self._children.values()):
            self._consider_idleness()
            return
        self._loop.stop()


def _nothing() -> None:
    """For a child whose end needs no more than to be reaped."""


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except OSError:
        return False
    return content[content.rindex(b")") + 2 :].startswith(b"Z")
