# SPDX-License-Identifier: Apache-2.0
"""Turns: who makes a thing that several want at once, while the others wait for it and then find it made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mooring_agent.errors import Unavailable

_LOOK = 0.2  # seconds between two looks at whether a wait goes on


class Cancelled(Unavailable):
    """The work was given up by whoever had asked for it."""

    code = "cancelled"


class Stop:
    """Tells the threads of one work to end: it failed in one of them, or `cancelled` was set from outside.

    A work that is a part of another ends with that one, which goes on when the part has failed.
    """

    def __init__(
        self, what: str, cancelled: threading.Event | None = None, *, within: Stop | None = None
    ) -> None:
        self._what = what
        self._cancelled = cancelled or threading.Event()
        self._failed = threading.Event()
        self._within = within

    def set(self) -> None:
        """End the other threads, because one has failed."""
        self._failed.set()

    @property
    def cancelled(self) -> bool:
        """Whether it was given up from outside."""
        return self._cancelled.is_set() or (self._within is not None and self._within.cancelled)

    def check(self) -> None:
        """Raise Cancelled when it is time to end."""
        if self._within is not None:
            self._within.check()
        if self._cancelled.is_set() or self._failed.is_set():
            raise Cancelled(f"{self._what} was cancelled: begin it again to go on")


class Turns:
    """One lock for each key that is in use."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._taken: set[str] = set()

    @contextmanager
    def turn(self, key: str, stop: Stop, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Wait for the turn at `key`, calling `waiting` now and then; raises Cancelled as `stop` says."""
        while True:
            stop.check()
            with self._lock:
                if key not in self._taken:
                    self._taken.add(key)
                    break
                self._lock.wait(_LOOK)
            waiting()
        try:
            yield
        finally:
            with self._lock:
                self._taken.discard(key)
                self._lock.notify_all()

    def taken(self) -> frozenset[str]:
        """The keys whose turn somebody has."""
        with self._lock:
            return frozenset(self._taken)
