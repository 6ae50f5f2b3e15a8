# SPDX-License-Identifier: Apache-2.0
"""Having a file system written out in the background, some time after something worth it was made."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from mooring_agent.linux.syscalls import syncfs

_log = logging.getLogger(__name__)
_Made = TypeVar("_Made")

_DELAY = 5.0  # seconds: the layers of one image come shortly after each other
_PATIENCE = 10.0  # seconds


class Syncing:
    """Tells when files are on the disk: a power failure leaves them whole from then on.

    Nothing is written out at the end of the process: who opens the directory next asks for it again.
    """

    def __init__(self, fd: int, begin: Callable[[], _Made], done: Callable[[_Made], None]) -> None:
        """Sync the file system of the descriptor `fd`; `done` is given what `begin` said just before."""
        self._fd = os.dup(fd)
        self._begin: Callable[[], object] = begin
        self._done: Callable[[object], None] = done  # type: ignore[assignment]
        self._wanted = threading.Event()
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def want(self) -> None:
        """Have what is there by now synced soon; returns at once, and does nothing once it is closed."""
        self._wanted.set()
        with self._starting:  # one thread at most: it is the one that closes the descriptor
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="mooring-sync", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Stop; waits some seconds for a sync that is under way. May be called twice."""
        with self._starting:
            if self._closed.is_set():
                return
            self._closed.set()
        self._wanted.set()
        if self._thread is None:
            os.close(self._fd)
        else:
            self._thread.join(_PATIENCE)

    def _run(self) -> None:
        try:
            while self._wanted.wait() and not self._closed.wait(_DELAY):
                self._wanted.clear()
                if self._closed.is_set():  # between the two: then the call to wake up has just been cleared
                    return
                begun = self._begin()
                try:
                    syncfs(self._fd)
                except OSError as error:
                    _log.warning("layers could not be written out to the disk: %s", error)
                    continue
                if not self._closed.is_set():
                    self._done(begun)
        finally:
            os.close(self._fd)
