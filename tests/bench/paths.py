# SPDX-License-Identifier: Apache-2.0
"""What the kernel's way from one network namespace to another costs.

Both ends of a connection belong to this thread, which runs on one processor, ahead of everything else there
(SCHED_FIFO): it sends and then receives, so there is always somebody at work, and everything that a packet
costs on its way is in the time. With the ends on two processors the scheduler, and segments that overtake
each other, decide about a tenth of the figure. The congestion control is Reno, which does not pace.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from integration.network.topology import Namespace

_ROUND_TRIPS = 800
_PIECES = 250
_PIECE = 1 << 17
_CONNECTIONS = 100
_MESSAGE = b"x" * 64
_PATIENCE = 10.0  # seconds, for each wait on a socket
_PAIRS_PER_CONNECTION = 8
# Real-time tasks get 950 ms of a second (sched_rt_runtime_us), so they had better leave some.
_PAUSE = 0.001


@dataclass(frozen=True)
class Way:
    """From `client` to `address`, where `server` hears of it at `port`; the client says `asked`."""

    client: Namespace
    server: Namespace
    address: str
    port: int
    asked: int

    def listen(self) -> socket.socket:
        """Who accepts connections at its end."""

        def make() -> socket.socket:
            return socket.create_server(("0.0.0.0", self.port), backlog=16)

        made = self.server.inside(make)
        _prepare(made)
        return made

    def connect(self, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
        """Both ends of a connection."""
        client = self.client.open_socket()
        _prepare(client)
        client.connect((self.address, self.asked))
        server, _ = listener.accept()
        _prepare(server)
        return client, server


Measure = Callable[[Way, socket.socket, tuple[socket.socket, socket.socket]], float]


def round_trips(_path: Way, _listener: socket.socket, ends: tuple[socket.socket, socket.socket]) -> float:
    """The seconds of 64 bytes there and back."""
    client, server = ends
    began = time.perf_counter()
    for _ in range(_ROUND_TRIPS):
        client.send(_MESSAGE)
        server.recv(64)
        server.send(_MESSAGE)
        client.recv(64)
    return (time.perf_counter() - began) / _ROUND_TRIPS


def throughput(_path: Way, _listener: socket.socket, ends: tuple[socket.socket, socket.socket]) -> float:
    """The seconds of a gigabit, in pieces of 128 KiB."""
    client, server = ends
    piece, room = bytes(_PIECE), bytearray(_PIECE)
    began = time.perf_counter()
    for _ in range(_PIECES):
        client.sendall(piece)
        left = _PIECE
        while left:
            left -= server.recv_into(room, left)
    return (time.perf_counter() - began) / (_PIECES * _PIECE * 8 / 1e9)


def connections(path: Way, listener: socket.socket, _ends: tuple[socket.socket, socket.socket]) -> float:
    """The seconds of a connection, with a question and an answer, the server closing it."""

    def run() -> float:
        began = time.perf_counter()
        for _ in range(_CONNECTIONS):
            with socket.socket() as client:
                client.settimeout(_PATIENCE)
                client.connect((path.address, path.asked))
                server, _ = listener.accept()
                with server:
                    client.send(_MESSAGE)
                    server.recv(64)
                    server.send(_MESSAGE)
                client.recv(64)
                client.recv(64)
        return (time.perf_counter() - began) / _CONNECTIONS

    return path.client.inside(run)


def pairs(count: int, measure: Measure, ours: Way, theirs: Way) -> list[tuple[float, float]]:
    """Measure both in turn, `count` times, every second time the other way round."""
    found = []
    with alone(), ExitStack() as stack:
        listeners = [stack.enter_context(path.listen()) for path in (ours, theirs)]
        for begin in range(0, count, _PAIRS_PER_CONNECTION):
            with ExitStack() as inner:
                ends = []
                for path, listener in zip((ours, theirs), listeners, strict=True):
                    ends.append(path.connect(listener))
                    for end in ends[-1]:
                        inner.enter_context(end)
                for turn in range(begin, min(begin + _PAIRS_PER_CONNECTION, count)):
                    pair = [0.0, 0.0]
                    for which in (1, 0) if turn % 2 else (0, 1):
                        time.sleep(_PAUSE)
                        pair[which] = measure((ours, theirs)[which], listeners[which], ends[which])
                    found.append((pair[0], pair[1]))
    return found


@contextmanager
def alone() -> Iterator[None]:
    """This thread runs on one processor, ahead of all others where that is allowed."""
    everywhere = os.sched_getaffinity(0)
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setaffinity(0, {max(everywhere)})
    with suppress(PermissionError):  # then what else runs there is in the figures, of both alike
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameter)
        os.sched_setaffinity(0, everywhere)


def _prepare(made: socket.socket) -> None:
    made.settimeout(_PATIENCE)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
