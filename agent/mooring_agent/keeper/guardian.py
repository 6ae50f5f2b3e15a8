# SPDX-License-Identifier: Apache-2.0
"""The guardian: the keeper's parent. It does nothing but wait, so that there is nothing in it to go wrong.

It is a subreaper. When a keeper is killed, its containers become the guardian's children: it learns their
exit codes, starts another keeper at once, and gives it by inheritance what cannot be opened again, which are
terminals' masters and the writing ends of standard inputs. It has every pipe of a container open
(`HeldPipes`). Clients that connect meanwhile wait in the backlog of the socket that it holds.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..linux import syscalls
from ..runtime.join import start_time
from .diagnostics import complain
from .heldpipes import HeldPipes

# The comm of a launcher and of a joiner with its child, until their execve.
LAUNCHER_NAME = "mooring-launch"
JOINER_NAME = "mooring-join"
_PACKET_MAX = 4096
_DESCRIPTORS_MAX = 2  # standard output and standard error
_PIPES_PAUSE = 0.02  # seconds from the making of a pipe until it is held
_RESTART_PAUSE = 0.5  # seconds between a keeper that lived shorter than that and the next


@dataclass
class Legacy:
    """What a keeper gets from its guardian.

    `held` maps the id of a container or exec to descriptors kept for it. `reaped` maps (pid, start time) to
    the wait status of a process that a former keeper had started, None where it never got as far as execve.
    """

    held: dict[str, int]
    reaped: dict[tuple[int, int], int | None]


def guard(
    listener: socket.socket, run_keeper: Callable[[socket.socket, Legacy], None], directory: str
) -> None:
    """Be the guardian until a keeper ends of its own will. `run_keeper` is called in a child and does not
    return. `directory` is that of the containers' pipes.
    """
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    legacy = Legacy({}, {})
    pipes = HeldPipes(directory)
    while True:
        started = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper = os.fork()
        if keeper == 0:
            signal.set_wakeup_fd(-1)
            for descriptor in (wake_read, wake_write):
                os.close(descriptor)
            pipes.close()
            ours.close()
            run_keeper(theirs, legacy)
            os._exit(0)
        theirs.close()
        ours.setblocking(False)
        status = _watch(keeper, ours, wake_read, legacy, pipes)
        _read_messages(ours, legacy, pipes)
        pipes.look()
        ours.close()
        if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
            listener.close()
            return
        if time.monotonic() - started < _RESTART_PAUSE:
            time.sleep(_RESTART_PAUSE)


def hold(channel: socket.socket, id: str, descriptor: int) -> None:
    """Ask the guardian to keep a duplicate of `descriptor` for `id`."""
    socket.send_fds(channel, [json.dumps({"hold": id}).encode()], [descriptor])


def lend(channel: socket.socket, descriptors: list[int]) -> None:
    """Have the guardian keep the pipes of a container that is about to start until it has opened them itself.

    It takes its time for that. A container that ends within it, together with its keeper, would leave nobody
    who has them open; but what is on its way in a socket is open, unix(7).
    """
    socket.send_fds(channel, [b'{"lent": true}'], descriptors)


def drop(channel: socket.socket, id: str) -> None:
    """Tell the guardian that the descriptor of `id` is not needed any more."""
    channel.send(json.dumps({"drop": id}).encode())


def seen(channel: socket.socket, pid: int, started: int) -> None:
    """Tell the guardian that the end of a process that it has reaped is on disk."""
    channel.send(json.dumps({"seen": [pid, started]}).encode())


def _watch(keeper: int, channel: socket.socket, wake: int, legacy: Legacy, pipes: HeldPipes) -> int:
    """Serve one keeper until it ends; its wait status."""
    poller = select.poll()
    poller.register(channel, select.POLLIN)
    poller.register(wake, select.POLLIN)
    poller.register(pipes.descriptor, select.POLLIN)
    look_at: float | None = None
    untold: deque[tuple[int, int]] = deque()
    listens = True
    while True:
        patience = None if look_at is None else max(0.0, look_at - time.monotonic()) * 1000
        for descriptor, events in poller.poll(patience):
            if descriptor == wake:
                os.read(wake, 4096)
            elif descriptor == pipes.descriptor:
                # A start that is on its way comes first, and what it has written can wait this long.
                look_at = time.monotonic() + _PIPES_PAUSE
                poller.unregister(pipes.descriptor)
            elif events & ~select.POLLOUT and not _read_messages(channel, legacy, pipes):
                poller.unregister(channel)
                listens = False
        if look_at is not None and time.monotonic() >= look_at:
            look_at = None
            pipes.look()
            poller.register(pipes.descriptor, select.POLLIN)
        status = _reap(keeper, legacy, untold)
        if status is not None:
            return status
        if listens:
            _tell(channel, legacy, untold)
            poller.modify(channel, select.POLLIN | (select.POLLOUT if untold else 0))


def _tell(channel: socket.socket, legacy: Legacy, untold: deque[tuple[int, int]]) -> None:
    """Tell the keeper of those that have ended, as many as it takes at the moment."""
    while untold:
        key = untold[0]
        try:
            channel.send(json.dumps({"reaped": [*key, legacy.reaped[key]]}).encode())
        except BlockingIOError:
            return
        except OSError:
            untold.clear()  # it is ending, and the next keeper inherits them
            return
        untold.popleft()


def _reap(keeper: int, legacy: Legacy, untold: deque[tuple[int, int]]) -> int | None:
    """Collect what has ended; the keeper's wait status if it is among it."""
    keeper_status = None
    while True:
        try:
            found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return keeper_status
        if found is None:
            return keeper_status
        pid = found.si_pid
        key = (pid, start_time(pid))
        executed = _name(pid) not in (LAUNCHER_NAME, JOINER_NAME)
        _, status = os.waitpid(pid, 0)
        if pid == keeper:
            keeper_status = status
            continue
        legacy.reaped[key] = status if executed else None
        untold.append(key)


def _name(pid: int) -> str:
    with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().rstrip("\n")


def _read_messages(channel: socket.socket, legacy: Legacy, pipes: HeldPipes) -> bool:
    """Take what the keeper has said; False when it will say no more."""
    while True:
        try:
            packet, descriptors, _, _ = socket.recv_fds(channel, _PACKET_MAX, _DESCRIPTORS_MAX)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not packet:
            return False
        try:
            _obey(json.loads(packet), descriptors, legacy, pipes)
        except (ValueError, TypeError, KeyError):
            complain(f"guardian was told something it does not know, {len(packet)} bytes")
        for descriptor in descriptors:
            os.close(descriptor)


def _obey(message: dict[str, Any], descriptors: list[int], legacy: Legacy, pipes: HeldPipes) -> None:
    """Do what the keeper has said. Takes away from `descriptors` what is kept."""
    if "lent" in message:
        pipes.lent += descriptors
        descriptors.clear()
    elif "hold" in message:
        # Without one where this process has no room for it: then there is nothing to inherit.
        _replace(legacy.held, message["hold"], descriptors.pop() if descriptors else None)
    elif "drop" in message:
        _replace(legacy.held, message["drop"], None)
    elif "seen" in message:
        pid, started = message["seen"]
        legacy.reaped.pop((pid, started), None)
    else:
        raise KeyError(next(iter(message), ""))


def _replace(held: dict[str, int], id: str, descriptor: int | None) -> None:
    old = held.pop(id, None)
    if old is not None:
        os.close(old)
    if descriptor is not None:
        held[id] = descriptor
