# SPDX-License-Identifier: Apache-2.0
"""A single-threaded loop over epoll(7): descriptors with a callback each, deadlines by name, work for idle
moments.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class EventLoop:
    """Calls back with the epoll event mask. `idle` is called when nothing is ready; it returns whether it has
    more to do.
    """

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._idle = idle
        self._running = True
        self._removed: set[int] = set()
        self._deadlines: dict[str, tuple[float, Callable[[], None]]] = {}

    def add(self, descriptor: int, callback: Callback, mask: int = READ) -> None:
        """Watch `descriptor`."""
        self._epoll.register(descriptor, mask)
        self._callbacks[descriptor] = callback

    def change(self, descriptor: int, mask: int) -> None:
        """Watch for something else."""
        self._epoll.modify(descriptor, mask)

    def remove(self, descriptor: int) -> None:
        """Stop watching `descriptor`; to be called before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)
            self._removed.add(descriptor)

    def at(self, name: str, moment: float, callback: Callable[[], None]) -> None:
        """Call once when time.monotonic() passes `moment`, in place of what was set before under this
        name.
        """
        self._deadlines[name] = (moment, callback)

    def cancel(self, name: str) -> None:
        """Forget what `at` was told under this name."""
        self._deadlines.pop(name, None)

    def stop(self) -> None:
        """Return from `run` after the current callback."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        more = True
        while self._running:
            events = self._epoll.poll(self._patience(more))
            self._removed.clear()
            for descriptor, mask in events:
                # What was removed in this round may have another owner by now, whose news this is not.
                if descriptor not in self._removed:
                    self._callbacks[descriptor](mask)
            self._call_due()
            more = self._idle() if not events else True

    def close(self) -> None:
        """Give up the epoll descriptor; for a forked child."""
        self._epoll.close()

    def _patience(self, more: bool) -> float:
        if more:
            return 0
        if not self._deadlines:
            return -1
        return max(0.0, min(moment for moment, _ in self._deadlines.values()) - time.monotonic())

    def _call_due(self) -> None:
        if not self._deadlines:
            return
        now = time.monotonic()
        due = [(name, entry) for name, entry in self._deadlines.items() if entry[0] <= now]
        for name, entry in sorted(due, key=lambda each: each[1][0]):
            if self._deadlines.get(name) is entry:  # else another one has cancelled it, or put it off
                del self._deadlines[name]
                entry[1]()
