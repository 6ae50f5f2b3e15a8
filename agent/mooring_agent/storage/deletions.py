# SPDX-License-Identifier: Apache-2.0
"""A thread that deletes one thing after the other, so that removing a big one keeps nobody waiting."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)

Proceed = Callable[[], None]
"""Called now and then by who deletes; it raises when the rest is to be left for the next open."""


class _Closing(Exception):
    """The queue is being closed: what is in hand stays for the next open."""


class Deletions:
    """A queue of names in one directory; its thread starts with the first.

    What cannot be deleted (an immutable file, say) is logged, stays, and is tried again after the next open.
    """

    def __init__(self, directory: Path, delete: Callable[[str, Proceed], None]) -> None:
        """`delete(name, proceed)` deletes one, and raises OSError where it cannot."""
        self._directory = directory
        self._delete = delete
        self._changed = threading.Condition()
        self._queue: deque[str] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def enqueue(self, *names: str) -> None:
        """Have some names deleted; after close they are left."""
        with self._changed:
            if self._closed:
                return
            self._queue.extend(names)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mooring-trash", daemon=True)
                self._thread.start()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all is deleted; False when `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self) -> bool:
        """Stop deleting and wait for the thread's end; False when it was closed before."""
        with self._changed:
            if self._closed:
                return False
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        return True

    def _proceed(self) -> None:
        if self._closed:
            raise _Closing

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
                if self._closed:
                    return
                name = self._queue.popleft()
                self._busy = True
            try:
                self._delete(name, self._proceed)
            except _Closing:
                continue  # to the end above, where whoever waits is told
            except OSError as error:
                _log.warning("%s/%s cannot be deleted and stays: %s", self._directory, name, error)
