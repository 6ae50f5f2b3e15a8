# SPDX-License-Identifier: Apache-2.0
"""Directories made ahead: a mkdir can take a millisecond, and a container would wait for it."""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Iterator

_log = logging.getLogger(__name__)

_WANTED = 32  # pairs kept ready; a burst that outruns the thread makes its own
_LOW = 16  # pairs left when more are made
_PAUSE = 0.02  # seconds from the first taking to the making of new ones: a burst comes first


class SparePairs:
    """Keeps empty directories of the same number ready in two places; its thread starts at the first use."""

    def __init__(self, first_fd: int, second_fd: int, modes: tuple[int, int], numbers: Iterator[int]) -> None:
        """Make pairs in two open directories, named by what `numbers` gives (others may take from it)."""
        self._fds = (first_fd, second_fd)
        self._modes = modes
        self._numbers = numbers
        self._ready: deque[int] = deque()
        self._needed = threading.Event()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> int:
        """Return the number of a pair, now the caller's; raises OSError when none can be made."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mooring-spares", daemon=True)
            self._thread.start()
        try:
            number = self._ready.popleft()
        except IndexError:
            number = self._make()
        if len(self._ready) < _LOW:  # waking it costs whoever waits for the container
            self._needed.set()
        return number

    def close(self) -> None:
        """Stop making more; those that are ready stay, belonging to nobody."""
        self._closed.set()
        self._needed.set()
        if self._thread is not None:
            self._thread.join()

    def _make(self) -> int:
        number = next(self._numbers)
        for fd, mode in zip(self._fds, self._modes, strict=True):
            os.mkdir(str(number), mode, dir_fd=fd)
            os.chmod(str(number), mode, dir_fd=fd)
        return number

    def _run(self) -> None:
        while self._needed.wait() and not self._closed.wait(_PAUSE):
            self._needed.clear()
            if self._closed.is_set():  # between the two: then the call to wake up has just been cleared
                return
            try:
                while len(self._ready) < _WANTED and not self._closed.is_set():
                    self._ready.append(self._make())
            except OSError as error:  # who takes next gets the error as its own
                _log.warning("no directory can be made ahead: %s", error)
