# SPDX-License-Identifier: Apache-2.0
"""A directory that empties itself in the background: removing a big tree keeps nobody waiting."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections import deque
from pathlib import Path

from mooring_agent.storage.tree import delete_tree

_log = logging.getLogger(__name__)


class _Closing(Exception):
    """The trash is being closed: what is in hand stays for the next open."""


class Trash:
    """Takes files and trees by rename and deletes them in a thread, those of an earlier process too.

    What cannot be deleted (an immutable file, say) is logged, stays, and is tried again after the next open.
    """

    def __init__(self, directory: Path) -> None:
        """Open `directory`, made if absent; it has to be on the file system of what is thrown away."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory = directory
        self._fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        leftover = os.listdir(self._fd)
        self._numbers = itertools.count(
            max((int(name) for name in leftover if name.isdecimal()), default=0) + 1
        )
        self._changed = threading.Condition()
        self._queue: deque[str] = deque()
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        if leftover:
            self._enqueue(*leftover)

    def discard(self, dir_fd: int, name: str) -> None:
        """Move `name` from the directory `dir_fd` here, which frees the name at once; absent is fine."""
        number = str(next(self._numbers))
        try:
            os.rename(name, number, src_dir_fd=dir_fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return
        self._enqueue(number)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all is deleted; False when `timeout` seconds were not enough."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._queue and not self._busy, timeout)

    def close(self) -> None:
        """Stop deleting; the rest is deleted after the next open. May be called twice."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        os.close(self._fd)

    def _enqueue(self, *names: str) -> None:
        with self._changed:
            if self._closed:
                return
            self._queue.extend(names)
            self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mooring-trash", daemon=True)
                self._thread.start()

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
                delete_tree(self._fd, name, self.discard, proceed=self._proceed)
            except _Closing:
                return
            except OSError as error:
                _log.warning("%s/%s cannot be deleted and stays: %s", self.directory, name, error)
