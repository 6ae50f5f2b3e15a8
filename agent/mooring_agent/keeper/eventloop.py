# SPDX-License-Identifier: Apache-2.0
"""A single-threaded loop over epoll(7): descriptors with a callback each, one deadline, work for idle moments."""

from __future__ import annotations

import select
import time
from collections.abc import Callable

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
HANGUP = select.EPOLLHUP | select.EPOLLERR

Callback = Callable[[int], None]


class EventLoop:
    """Calls back with the epoll event mask. `idle` is called when nothing is ready; it returns whether it has more to do."""

    def __init__(self, idle: Callable[[], bool]) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._idle = idle
        self._running = True
        self._deadline: tuple[float, Callable[[], None]] | None = None

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

    def at(self, moment: float, callback: Callable[[], None]) -> None:
        """Call once when time.monotonic() passes `moment`, in place of what was set before."""
        self._deadline = (moment, callback)

    def cancel(self) -> None:
        """Forget what `at` was told."""
        self._deadline = None

    def stop(self) -> None:
        """Return from `run` after the current callback."""
        self._running = False

    def run(self) -> None:
        """Serve until `stop`."""
        more = True
        while self._running:
            events = self._epoll.poll(self._patience(more))
            for descriptor, mask in events:
                callback = self._callbacks.get(descriptor)
                if callback is not None:
                    callback(mask)
            if self._deadline is not None and time.monotonic() >= self._deadline[0]:
                _, due = self._deadline
                self._deadline = None
                due()
            more = self._idle() if not events else True

    def close(self) -> None:
        """Give up the epoll descriptor; for a forked child."""
        self._epoll.close()

    def _patience(self, more: bool) -> float:
        if more:
            return 0
        if self._deadline is None:
            return -1
        return max(0.0, self._deadline[0] - time.monotonic())
