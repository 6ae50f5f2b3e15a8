# SPDX-License-Identifier: Apache-2.0
"""The keeper proper: answers the agent, keeps launchers ready, and ends when nobody needs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from .. import __version__
from ..failpoints import reached
from ..linux import syscalls
from ..runtime.launch import in_words
from ..runtime.plan import Shape
from . import messages
from .children import Child
from .connections import Client, Connections
from .diagnostics import complain
from .eventloop import EventLoop
from .execs import Execs
from .guardian import Legacy
from .handover import State, pack, take_back
from .launchers import Launchers
from .processes import Processes, nothing
from .slots import Slots
from .starts import Refused, Starts
from .zygote import Zygote

_IDLE_SECONDS = 5.0
# How long launchers may take to end that are not needed any more; on a loaded host that is seconds.
_END_SECONDS = 5.0
# How long nobody must have asked for anything before the pool is filled up again.
_QUIET_SECONDS = 0.03

# How long starts that are under way may take before a keeper replaces itself.
_UPGRADE_PATIENCE = 10.0
_UPGRADE_PAUSE = 0.02


class Reply:
    """The answer to one request, which can be given at any time."""

    def __init__(self, connections: Connections, client: Client) -> None:
        self._connections = connections
        self.client = client
        self.seq = 0

    def __call__(self, message: messages.Message, given: Sequence[int] = ()) -> None:
        """Give it; the descriptors stay the caller's."""
        self._connections.reply(self.client, self.seq, message, given)


class Keeper:
    """A keeper process: one that its guardian has forked, with a `Legacy`, or one that has replaced itself,
    with a `State`. `code` is the hash of what it runs.
    """

    def __init__(
        self,
        listener: socket.socket,
        channel: socket.socket,
        inherited: Legacy | State,
        run_root: str,
        code: str = "",
    ) -> None:
        self._loop = EventLoop(self._when_idle)
        self._listener = listener
        self._run_root = run_root
        self._code = code
        self._upgrading = False
        self._guardian = channel
        self._last_request = 0.0
        self._last_shape: tuple[dict[str, Any] | None, Shape] = (None, Shape(()))
        channel.setblocking(False)
        self._processes = Processes(
            self._loop, channel, f"{run_root}/keeper", self._tell_end, lambda: self._starts.sweep_soon()
        )
        zygote = Zygote(f"{run_root}/stage", lambda pid: self._processes.expect_end(pid, nothing))
        self._slots = Slots(f"{run_root}/keeper/parents")
        launchers = Launchers(zygote, self._slots)
        self._starts = Starts(self._loop, launchers, self._processes, self._slots)
        self._execs = Execs(self._loop, launchers, self._processes, self._starts)
        self._connections = Connections(
            self._loop, listener, self._dispatch, self._release_all_of, self._consider_idleness
        )
        self._handlers: dict[type, Callable[..., None]] = {
            messages.Hello: self._hello,
            messages.Configure: self._configure,
            messages.Acquire: self._acquire,
            messages.Release: self._release,
            messages.Prepare: self._prepare,
            messages.Launch: self._launch,
            messages.Exec: self._exec,
            messages.PrepareExec: self._prepare_exec,
            messages.Signal: self._signal,
            messages.Resize: self._resize,
            messages.Streams: self._give_streams,
            messages.CloseStdin: self._close_stdin,
            messages.SetLog: self._set_log,
            messages.Inventory: self._inventory,
            messages.Forget: self._forget,
            messages.Shutdown: self._shutdown,
            messages.Upgrade: self._upgrade,
        }
        if isinstance(inherited, State):
            self._take_over(inherited)
        else:
            self._processes.adopt(inherited)
        self._starts.sweep()

    def run(self) -> None:
        """Serve until told to end, or until there is neither a process nor a client for a while."""
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)

        def wake(_: int) -> None:
            os.read(wake_read, 4096)
            self._processes.reap()

        self._loop.add(wake_read, wake)
        self._loop.add(self._guardian.fileno(), self._processes.hear_guardian)
        self._processes.reap()
        self._consider_idleness()
        self._loop.run()
        self._dismiss_all()
        self._processes.await_expected(_END_SECONDS)
        self._slots.sweep(self._processes.slots())

    def _release_all_of(self, client: Client) -> None:
        self._starts.release_all_of(client)
        self._execs.release_all_of(client)

    def _dismiss_all(self) -> None:
        self._starts.dismiss_all()
        self._execs.release_all()

    def _when_idle(self) -> bool:
        """Refill the pool, but not while requests come: a fork and a launcher that prepares itself
        would slow them.
        """
        if not self._connections or not self._starts.wants_more():
            return False
        quiet_at = self._last_request + _QUIET_SECONDS
        if time.monotonic() < quiet_at:
            self._loop.at("refill", quiet_at, lambda: None)
            return False
        return self._starts.refill()

    def _consider_idleness(self) -> None:
        if self._connections:
            self._loop.cancel("idle")
        else:
            self._loop.at("idle", time.monotonic() + _IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        if any(child.running for child in self._processes.children.values()):
            self._consider_idleness()
        else:
            self._loop.stop()

    def _take_over(self, state: State) -> None:
        """Go on where the program was that this one has replaced, and answer for it."""
        self._slots.go_on_from(state.next_slot)
        clients = {descriptor: self._connections.take_over(descriptor) for descriptor in state.clients}
        self._processes.take_over(state, clients)
        self._connections.reply(clients[state.asked_by], state.seq, messages.Done())

    def _tell_end(self, child: Child) -> None:
        record = child.record
        event = messages.Exited(record.id, record.exit_code or 0, record.known, record.finished_at or 0.0)
        self._connections.tell_all(event)

    # Requests

    def _dispatch(self, client: Client, packet: bytes, descriptors: list[int]) -> None:
        self._last_request = time.monotonic()
        reply = Reply(self._connections, client)
        try:
            reply.seq, message = messages.decode(packet)
            handler = self._handlers.get(type(message))
            if handler is None:
                raise Refused(f"{type(message).__name__} is not a request")
            handler(client, message, descriptors, reply)
        except messages.BadMessage as error:
            reply.seq = error.seq
            reply(messages.Failed(f"keeper of version {__version__}: {error}"))
        except Refused as refusal:
            reply(messages.Failed(str(refusal), gone=refusal.gone))
        except OSError as error:
            reply(messages.Failed(in_words(error)))
        except (TypeError, ValueError, LookupError, OverflowError, struct.error) as error:
            # An agent's mistake must not end the keeper of all containers.
            complain(f"request of {len(packet)} bytes could not be carried out: {error!r}")
            reply(messages.Failed(f"keeper could not carry out the request: {error!r}"))

    def _hello(self, client: Client, message: messages.Hello, descriptors: list[int], reply: Reply) -> None:
        if message.protocol != messages.PROTOCOL:
            raise Refused(
                f"keeper of version {__version__} speaks protocol {messages.PROTOCOL}, the agent of version "
                f"{message.version} protocol {message.protocol}: upgrade the older one"
            )
        guardian = self._processes.guardian_pid()
        reply(messages.Hello(messages.PROTOCOL, __version__, os.getpid(), guardian, self._code))

    def _configure(
        self, client: Client, message: messages.Configure, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.configure(self._shape(message.shape), message.size)
        if not message.size:
            self._execs.release_all()
        reply(messages.Done())

    def _acquire(
        self, client: Client, message: messages.Acquire, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.acquire(client, self._shape(message.shape), reply)

    def _shape(self, data: dict[str, Any]) -> Shape:
        """A shape from outside, which is nearly always the last one again."""
        if data != self._last_shape[0]:
            shape = Shape.from_json(data)
            shape.check()
            self._last_shape = data, shape
        return self._last_shape[1]

    def _release(
        self, client: Client, message: messages.Release, descriptors: list[int], reply: Reply
    ) -> None:
        self._execs.release(message.slot)
        self._starts.release(message.slot, lambda: reply(messages.Done()))

    def _prepare(
        self, client: Client, message: messages.Prepare, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.prepare(client, message, _plan(descriptors))
        reply(messages.Done())

    def _launch(self, client: Client, message: messages.Launch, descriptors: list[int], reply: Reply) -> None:
        self._starts.launch(client, message, descriptors[:1], reply)

    def _exec(self, client: Client, message: messages.Exec, descriptors: list[int], reply: Reply) -> None:
        self._execs.execute(client, message, descriptors[:1], reply)

    def _prepare_exec(
        self, client: Client, message: messages.PrepareExec, descriptors: list[int], reply: Reply
    ) -> None:
        self._execs.prepare(client, message, _plan(descriptors))
        reply(messages.Done())

    def _signal(self, client: Client, message: messages.Signal, descriptors: list[int], reply: Reply) -> None:
        self._child(message.id).signal(message.number)
        reply(messages.Done())

    def _resize(self, client: Client, message: messages.Resize, descriptors: list[int], reply: Reply) -> None:
        self._child(message.id).resize(message.rows, message.columns)
        reply(messages.Done())

    def _give_streams(
        self, client: Client, message: messages.Streams, descriptors: list[int], reply: Reply
    ) -> None:
        child = self._child(message.id)
        reply(
            messages.Done(), child.exec_streams or [one for one in (child.terminal, child.stdin) if one >= 0]
        )

    def _close_stdin(
        self, client: Client, message: messages.CloseStdin, descriptors: list[int], reply: Reply
    ) -> None:
        child = self._child(message.id)
        if child.stdin >= 0:
            child.close_stdin()
            if child.exec_streams and not child.record.terminal:
                os.close(child.exec_streams.pop(0))
            self._processes.drop(message.id)
        reply(messages.Done())

    def _set_log(
        self, client: Client, message: messages.SetLog, descriptors: list[int], reply: Reply
    ) -> None:
        child = self._child(message.id)
        if child.log is not None:
            child.log.limit(message.log_size, message.log_files)
        child.record = replace(child.record, log_size=message.log_size, log_files=message.log_files)
        self._processes.journal.write(child.record)
        reply(messages.Done())

    def _inventory(
        self, client: Client, message: messages.Inventory, descriptors: list[int], reply: Reply
    ) -> None:
        records = [vars(child.record) for child in self._processes.children.values()]
        file = messages.memory_file(json.dumps(records).encode())
        reply(messages.Done(), [file])
        os.close(file)

    def _forget(self, client: Client, message: messages.Forget, descriptors: list[int], reply: Reply) -> None:
        child = self._processes.children.get(message.id)
        if child is not None and not child.running:
            self._processes.forget(message.id)
        reply(messages.Done())

    def _shutdown(
        self, client: Client, message: messages.Shutdown, descriptors: list[int], reply: Reply
    ) -> None:
        running = sum(child.running for child in self._processes.children.values())
        if running:
            raise Refused(f"{running} processes still run: stop them first")
        reply(messages.Done())
        self._loop.stop()

    def _upgrade(
        self, client: Client, message: messages.Upgrade, descriptors: list[int], reply: Reply
    ) -> None:
        if messages.STATE not in message.states:
            raise Refused(
                f"keeper of version {__version__} would hand over its state in form {messages.STATE}, and "
                f"the program that is to replace it knows {message.states}: it goes on as it is"
            )
        if not descriptors:
            raise Refused("the request came without a program: expected a descriptor of it")
        if self._upgrading:
            raise Refused("the keeper is replacing itself already")
        self._upgrading = True
        program = os.dup(descriptors[0])
        self._replace_when_quiet(program, message.command, reply, time.monotonic() + _UPGRADE_PATIENCE)

    def _replace_when_quiet(self, program: int, command: list[str], reply: Reply, deadline: float) -> None:
        """Replace this program once no start is under way: what a launcher says is heard by the one that has
        given it its plan.
        """
        if not self._starts.under_way():
            self._replace(program, command, reply)
        elif time.monotonic() > deadline:
            self._stay(program, reply, f"a start has been under way for {_UPGRADE_PATIENCE:g} s")
        else:
            self._loop.at(
                "upgrade",
                time.monotonic() + _UPGRADE_PAUSE,
                lambda: self._replace_when_quiet(program, command, reply, deadline),
            )

    def _replace(self, program: int, command: list[str], reply: Reply) -> None:
        asked_by = reply.client.connection.fileno()
        if asked_by < 0:  # whoever wanted it has gone
            self._stay(program, reply, "nobody waits for it")
            return
        self._dismiss_all()
        clients = self._connections.hand_over()
        if asked_by not in clients:
            self._stay(program, reply, "nobody waits for it")
            return
        state = State(
            run_root=self._run_root,
            listener=self._listener.fileno(),
            guardian=self._guardian.fileno(),
            clients=clients,
            asked_by=asked_by,
            seq=reply.seq,
            next_slot=self._slots.next,
            **self._processes.hand_over(),
        )
        file = pack(state)
        try:
            reached("keeper.upgrade")
            os.execve(program, [*command, str(file)], os.environ)
        except OSError as error:
            take_back(state, file)
            self._stay(program, reply, f"it cannot be executed: {error.strerror}")

    def _stay(self, program: int, reply: Reply, reason: str) -> None:
        os.close(program)
        self._upgrading = False
        reply(messages.Failed(f"keeper of version {__version__} is not replaced: {reason}"))

    def _child(self, id: str) -> Child:
        try:
            return self._processes.children[id]
        except KeyError:
            raise Refused(f"process {id} is not known to the keeper") from None


def _plan(descriptors: list[int]) -> int:
    if not descriptors:
        raise Refused("the request came without a plan: expected a memory file with it")
    return descriptors[0]
