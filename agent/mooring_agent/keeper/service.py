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

from .. import __version__
from ..linux import syscalls
from ..runtime.launch import in_words
from ..runtime.plan import Shape
from . import messages
from .children import Child, default_signals
from .connections import Client, Connections
from .diagnostics import complain
from .eventloop import EventLoop
from .guardian import Legacy
from .launchers import Launchers
from .processes import Processes
from .starts import Refused, Starts

_IDLE_SECONDS = 5.0
_END_SECONDS = 2.0
# How long nobody must have asked for anything before the pool is filled up again.
_QUIET_SECONDS = 0.03

Reply = Callable[..., None]


class Keeper:
    """A keeper process."""

    def __init__(
        self, listener: socket.socket, channel: socket.socket, legacy: Legacy, run_root: str
    ) -> None:
        self._loop = EventLoop(self._when_idle)
        self._guardian = channel
        self._last_request = 0.0
        channel.setblocking(False)
        self._processes = Processes(self._loop, channel, f"{run_root}/keeper", self._tell_end)
        self._starts = Starts(
            self._loop, Launchers(f"{run_root}/stage", self._prepare_child), self._processes
        )
        self._connections = Connections(
            self._loop, listener, self._dispatch, self._starts.release_all_of, self._consider_idleness
        )
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
        self._processes.adopt(legacy)

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
        self._starts.dismiss_all()
        self._processes.await_expected(_END_SECONDS)

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

    def _prepare_child(self, keep: int) -> None:
        default_signals()
        if keep > 3:
            syscalls.close_range(3, keep - 1)
        syscalls.close_range(keep + 1)

    def _tell_end(self, child: Child) -> None:
        record = child.record
        event = messages.Exited(record.id, record.exit_code or 0, record.known, record.finished_at or 0.0)
        self._connections.tell_all(event)

    # Requests

    def _dispatch(self, client: Client, packet: bytes, descriptors: list[int]) -> None:
        seq = 0
        self._last_request = time.monotonic()

        def reply(message: messages.Message, given: Sequence[int] = ()) -> None:
            self._connections.reply(client, seq, message, given)

        try:
            seq, message = messages.decode(packet)
            handler = self._handlers.get(type(message))
            if handler is None:
                raise Refused(f"{type(message).__name__} is not a request")
            handler(client, message, descriptors, reply)
        except (Refused, messages.BadMessage, OSError) as error:
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
        reply(messages.Hello(messages.PROTOCOL, __version__, os.getpid(), os.getppid()))

    def _configure(
        self, client: Client, message: messages.Configure, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.configure(Shape.from_json(message.shape), message.size)
        reply(messages.Done())

    def _acquire(
        self, client: Client, message: messages.Acquire, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.acquire(client, Shape.from_json(message.shape), reply)

    def _release(
        self, client: Client, message: messages.Release, descriptors: list[int], reply: Reply
    ) -> None:
        self._starts.release(message.slot)
        reply(messages.Done())

    def _launch(self, client: Client, message: messages.Launch, descriptors: list[int], reply: Reply) -> None:
        self._starts.launch(client, message, _plan(descriptors), reply)

    def _exec(self, client: Client, message: messages.Exec, descriptors: list[int], reply: Reply) -> None:
        self._starts.execute(message, _plan(descriptors), reply)

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
            child.log.size, child.log.files = message.log_size, message.log_files
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

    def _child(self, id: str) -> Child:
        try:
            return self._processes.children[id]
        except KeyError:
            raise Refused(f"process {id} is not known to the keeper") from None


def _plan(descriptors: list[int]) -> int:
    if not descriptors:
        raise Refused("the request came without a plan: expected a memory file with it")
    return descriptors[0]
