# SPDX-License-Identifier: Apache-2.0
"""Leases: what a work in progress holds of the store, so that the collector leaves it alone.

A lease names blobs (by digest) and snapshots (by chain ID). While its work runs in this process it holds.
One that is to survive is a file as well, its purpose and then a line for each thing; when the process is
killed, or the work fails in a way that it can go on from, the lease holds for a day since the last thing was
added (the file's time) and is then gone. So a pull that broke off goes on with the layers that it had.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mooring_agent.errors import Unavailable

KEPT = 24 * 3600.0
"""Seconds for which a lease holds whose work has ended without an end."""

_log = logging.getLogger(__name__)


class Lease:
    """What one work holds; `survive` may be set to have it outlive an error of the work."""

    def __init__(self, path: Path | None, purpose: str) -> None:
        self.purpose = purpose
        self.survive = False
        self._path = path
        self._resources: set[str] = set()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Write the file's first line, the purpose."""
        self._append([self.purpose.replace("\n", " ")])

    def add(self, *resources: str) -> None:
        """Hold more; ask whether it is there only afterwards, and under the store's lock.

        Raises Unavailable when the disk takes it not.
        """
        with self._lock:
            new = [resource for resource in resources if resource not in self._resources]
            self._append(new)
            self._resources.update(new)

    def resources(self) -> set[str]:
        """What is held."""
        with self._lock:
            return set(self._resources)

    def _append(self, lines: list[str]) -> None:
        if self._path is None or not lines:
            return
        try:
            with open(self._path, "ab") as file:
                file.write("".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise Unavailable(
                f"{self._path} takes no more ({error.strerror or error}): free some space, then try again"
            ) from error


class Leases:
    """All leases of a store; methods may be called from any thread."""

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Open the leases in `directory`, made if absent; those of earlier processes hold on."""
        self._directory = directory
        self._clock = clock
        self._lock = threading.Lock()
        self._held: set[Lease] = set()
        self._abandoned: dict[Path, tuple[str, set[str]]] = {}  # purpose and resources
        directory.mkdir(mode=0o700, exist_ok=True)
        for name in os.listdir(directory):
            self._abandoned[directory / name] = _read(directory / name)
        self.expire()

    @contextmanager
    def hold(self, purpose: str, *, durable: bool = False) -> Iterator[Lease]:
        """Hold things while a work is done; what is `durable` outlives a kill of the process.

        A durable lease takes over from those of the same purpose whose work has ended.
        """
        path = self._directory / uuid.uuid4().hex if durable else None
        lease = Lease(path, purpose)
        with self._lock:
            self._held.add(lease)
        try:
            if path is not None:
                self._take_over(lease)
            yield lease
        except BaseException:
            if path is not None and lease.survive:
                with self._lock:
                    self._abandoned[path] = purpose, lease.resources()
                path = None
            raise
        finally:
            with self._lock:
                self._held.discard(lease)
            if path is not None:
                _delete(path)

    def resources(self) -> set[str]:
        """Everything that a lease holds now."""
        with self._lock:
            found = set().union(*(resources for _, resources in self._abandoned.values()))
            for lease in self._held:
                found |= lease.resources()
            return found

    def expire(self, age: float = KEPT) -> None:
        """Forget the leases whose work has ended and to which nothing was added for `age` seconds."""
        with self._lock:
            for path in tuple(self._abandoned):
                try:
                    if self._clock() - path.stat().st_mtime < age:
                        continue
                except FileNotFoundError:
                    pass
                _delete(path)
                del self._abandoned[path]

    def _take_over(self, lease: Lease) -> None:
        with self._lock:
            old = {key: held for key, (purpose, held) in self._abandoned.items() if purpose == lease.purpose}
            lease.begin()
            lease.add(*sorted(set().union(*old.values())))
            self._abandoned = {key: value for key, value in self._abandoned.items() if key not in old}
        for key in old:
            _delete(key)


def _read(path: Path) -> tuple[str, set[str]]:
    """Purpose and resources in a lease's file; a last line without its end was never confirmed."""
    purpose, *lines = path.read_bytes().decode(errors="replace").split("\n")[:-1] or [""]
    return purpose, set(lines)


def _delete(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("lease %s cannot be deleted and holds until it expires: %s", path, error)
