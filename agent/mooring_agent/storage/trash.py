# SPDX-License-Identifier: Apache-2.0
"""A directory that empties itself in the background: removing a big tree keeps nobody waiting."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from mooring_agent.storage.deletions import Deletions, Proceed
from mooring_agent.storage.tree import delete_tree


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
        self._deletions = Deletions(directory, self._delete)
        if leftover:
            self._deletions.enqueue(*leftover)

    def discard(self, dir_fd: int, name: str) -> None:
        """Move `name` from the directory `dir_fd` here, which frees the name at once; absent is fine."""
        number = str(next(self._numbers))
        try:
            os.rename(name, number, src_dir_fd=dir_fd, dst_dir_fd=self._fd)
        except FileNotFoundError:
            return
        self._deletions.enqueue(number)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all is deleted; False when `timeout` seconds were not enough."""
        return self._deletions.wait_idle(timeout)

    def close(self) -> None:
        """Stop deleting; the rest is deleted after the next open. May be called twice."""
        if self._deletions.close():
            os.close(self._fd)

    def _delete(self, name: str, proceed: Proceed) -> None:
        delete_tree(self._fd, name, self.discard, proceed=proceed)
