# SPDX-License-Identifier: Apache-2.0
"""The launchers and joiners that a keeper has ahead."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ..runtime.plan import Shape
from .slots import Slots, remove_groups
from .zygote import Zygote

# Joiners kept waiting. Each serves one exec, and its fork is some 2 ms of an exec's time.
_JOINERS = 2


@dataclass
class Launcher:
    """A forked process that prepares itself or waits. `owner` is the connection that has acquired it."""

    slot: str
    pid: int
    shape: Shape
    channel: socket.socket
    ready: bool = False
    has_plan: bool = False
    owner: object = None


class Launchers:
    """Has launchers forked and keeps `size` of one shape ready."""

    def __init__(self, zygote: Zygote, slots: Slots) -> None:
        self._zygote = zygote
        self._slots = slots
        self._shape: Shape | None = None
        self._size = 0
        self._pool: list[Launcher] = []
        self._joiners: list[tuple[int, socket.socket]] = []
        self.all: dict[str, Launcher] = {}

    def configure(self, shape: Shape, size: int) -> list[Launcher]:
        """Keep `size` launchers of `shape` from now on; returns those that are not needed any more."""
        fitting = [launcher for launcher in self._pool if launcher.shape == shape][:size]
        obsolete = [launcher for launcher in self._pool if launcher not in fitting]
        self._pool, self._shape, self._size = fitting, shape, size
        return obsolete

    def wants_more(self) -> bool:
        """Whether the pool is below its size."""
        return self._shape is not None and len(self._pool) < self._size

    def refill(self) -> Launcher:
        """Fork one more for the pool."""
        assert self._shape is not None
        launcher = self._fork(self._shape, ahead=True)
        self._pool.append(launcher)
        return launcher

    def acquire(self, shape: Shape) -> tuple[Launcher, bool]:
        """A launcher of `shape`, the readiest there is, and whether it had to be forked for this."""
        if shape == self._shape and self._pool:
            launcher = next((one for one in self._pool if one.ready), self._pool[0])
            self._pool.remove(launcher)
            return launcher, False
        return self._fork(shape, ahead=False), True

    def remove(self, launcher: Launcher) -> None:
        """Forget a launcher that has become a container or has ended."""
        self.all.pop(launcher.slot, None)
        if launcher in self._pool:
            self._pool.remove(launcher)
        launcher.channel.close()

    def wants_joiner(self) -> bool:
        """Whether there are fewer joiners ready than there should be; none are kept without a pool."""
        return len(self._joiners) < _JOINERS and self._size > 0

    def prepare_joiner(self) -> None:
        """Fork one more joiner that waits for its plan."""
        self._joiners.append(self._fork_joiner(ahead=True))

    def take_joiner(self) -> tuple[int, socket.socket]:
        """A child that starts a process in a running container: its pid and its channel."""
        return self._joiners.pop() if self._joiners else self._fork_joiner(ahead=False)

    def release_joiners(self) -> list[int]:
        """Let the joiners that wait end; their pids."""
        pids = [pid for pid, _ in self._joiners]
        for _, channel in self._joiners:
            channel.close()
        self._joiners.clear()
        return pids

    def close(self) -> None:
        """Fork nothing more; what is forked is the caller's to end."""
        self._zygote.close()

    def _fork_joiner(self, *, ahead: bool) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            pid = self._zygote.fork_joiner(theirs, ahead=ahead)
        ours.setblocking(False)
        return pid, ours

    def _fork(self, shape: Shape, *, ahead: bool) -> Launcher:
        slot = self._slots.name(shape.groups)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                pid = self._zygote.fork_launcher(theirs, shape, slot, ahead=ahead)
        except OSError:
            ours.close()
            remove_groups(shape.groups, slot)
            raise
        ours.setblocking(False)
        launcher = Launcher(slot, pid, shape, ours)
        self.all[slot] = launcher
        return launcher
