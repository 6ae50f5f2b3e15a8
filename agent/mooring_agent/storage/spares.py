# SPDX-License-Identifier: Apache-2.0
"""Directories made ahead: a mkdir can take a millisecond, and a container would wait for it."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

_log = logging.getLogger(__name__)

# As many as a pool and a reserve of launchers serve at once.
_WANTED = 128  # kept ready; a burst that outruns the thread makes its own
_LOW = 32  # left when more are made
_PAUSE = 0.02  # seconds without a taking until new ones are made: a burst comes first

_Made = TypeVar("_Made")


class Spares(Generic[_Made]):
    """Keeps something ready that takes a while to make; its thread starts at the first use."""

    def __init__(self, make: Callable[[], _Made]) -> None:
        """`make` makes one; it is called by several threads, and may raise OSError."""
        self._make = make
        self._ready: deque[_Made] = deque()
        self._taken = 0
        self._needed = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> _Made:
        """One that is now the caller's; raises OSError when none can be made."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mooring-spares", daemon=True)
            self._thread.start()
        try:
            made = self._ready.popleft()
        except IndexError:
            made = self._make()
        self._taken += 1
        if len(self._ready) < _LOW:  # waking it costs whoever waits for the container
            self._needed.set()
        return made

    def close(self) -> None:
        """Stop making more; those that are ready stay, belonging to nobody."""
        self._closed.set()
        self._needed.set()
        if self._thread is not None:
            self._thread.join()

    def _await_quiet(self) -> None:
        """Return when nobody takes any, or none are left."""
        taken = -1
        while taken != self._taken:
            taken = self._taken
            self._closed.wait(_PAUSE)
            if not self._ready:
                return

    def _run(self) -> None:
        while self._needed.wait() and not self._closed.is_set():
            self._await_quiet()
            self._needed.clear()
            if self._closed.is_set():  # between the two: then the call to wake up has just been cleared
                return
            try:
                while len(self._ready) < _WANTED and not self._closed.is_set():
                    self._ready.append(self._make())
            except OSError as error:  # who takes next gets the error as its own
                _log.warning("no directory can be made ahead: %s", error)
