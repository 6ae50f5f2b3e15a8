# SPDX-License-Identifier: Apache-2.0
"""`RUN --mount=type=cache`: directories that outlive builds and are in no image."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.images.dockerfile.mounts import Sharing
from mooring_agent.images.turns import Stop, Turns
from mooring_agent.storage.tree import measure_tree

_DRAFT = "new-"  # of one that is being filled


@dataclass(frozen=True, slots=True)
class CacheMount:
    """A cache directory: bytes on disk, and when it was last used, in seconds since the epoch."""

    path: Path
    size: int
    used_at: float


class CacheMounts:
    """Cache directories below `root`, named after the hash of their id and a number. For several threads."""

    def __init__(self, root: Path) -> None:
        """Open them; what was being filled when a process was killed is deleted."""
        self._root = root
        self._lock = threading.Lock()
        self._users: dict[Path, int] = {}
        self._turns = Turns()
        root.mkdir(mode=0o700, exist_ok=True)
        for path in root.iterdir():
            if path.name.startswith(_DRAFT):
                shutil.rmtree(path)

    @contextmanager
    def use(self, name: str, sharing: Sharing, fill: Callable[[Path], None], stop: Stop) -> Iterator[Path]:
        """The directory of a cache; `fill` makes its first content. A locked one is waited for."""
        prefix = hashlib.sha256(name.encode()).hexdigest()[:32]
        if sharing is Sharing.LOCKED:
            with self._turns.turn(prefix, stop), self._using(prefix, fill, stop, alone=False) as path:
                yield path
        else:
            with self._using(prefix, fill, stop, alone=sharing is Sharing.PRIVATE) as path:
                yield path

    def list(self) -> list[CacheMount]:
        """All of them, the longest unused first."""
        found = []
        for path in self._root.iterdir():
            if not path.name.startswith(_DRAFT):
                used_at = os.lstat(path).st_mtime if path not in self._users else time.time()
                found.append(CacheMount(path, measure_tree(path).bytes, used_at))
        return sorted(found, key=lambda one: one.used_at)

    def remove(self, mount: CacheMount) -> bool:
        """Delete one; False if a build uses it."""
        with self._lock:
            if self._users.get(mount.path):
                return False
            gone = self._root / f"{_DRAFT}{uuid.uuid4().hex}"
            mount.path.rename(gone)
        shutil.rmtree(gone)
        return True

    @contextmanager
    def _using(self, prefix: str, fill: Callable[[Path], None], stop: Stop, *, alone: bool) -> Iterator[Path]:
        with self._lock:
            number = 0
            while alone and self._users.get(self._root / f"{prefix}-{number}"):
                number += 1
            path = self._root / f"{prefix}-{number}"
            self._users[path] = self._users.get(path, 0) + 1
        try:
            # Others of the same cache wait until it is filled; nobody else does.
            with self._turns.turn(path.name, stop):
                if not path.exists():
                    self._fill(path, fill)
            yield path
        finally:
            with self._lock:
                self._leave(path)
                if path.exists():
                    os.utime(path)

    def _fill(self, path: Path, fill: Callable[[Path], None]) -> None:
        draft = self._root / f"{_DRAFT}{uuid.uuid4().hex}"
        try:
            draft.mkdir(mode=0o755)
            fill(draft)
            draft.rename(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)  # the next agent tries again
            raise

    def _leave(self, path: Path) -> None:
        self._users[path] -= 1
        if not self._users[path]:
            del self._users[path]
