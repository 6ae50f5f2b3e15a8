# SPDX-License-Identifier: Apache-2.0
"""What all drivers have in common: a snapshot is a row and a directory that has the row's number.

A driver says how a directory is made, mounted, sealed, measured and thrown away; the order of these steps
against the row, on which the promise about `kill -9` rests, is here:

- a directory is made before its row and thrown away after it, so one without a row belongs to nobody and is
  deleted at the next open. A temporary snapshot is simply one that has no row yet;
- a row whose directory is gone is forgotten at the next open, with a warning;
- after a power failure a row may be there and its files empty. So is forgotten what had been committed in an
  earlier boot and not been synced; layers are unpacked again from their blobs, which are synced.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mooring_agent.errors import Conflict, NotFound, Unavailable
from mooring_agent.linux.boot import boot_id
from mooring_agent.storage.records import Record, Records
from mooring_agent.storage.snapshotter import (
    Change,
    Rootfs,
    SnapshotInfo,
    SnapshotKind,
    UnpackTarget,
    Usage,
)
from mooring_agent.storage.syncing import Syncing

DATABASE = "snapshots.db"
"""In a driver's root; where there is one, the driver has been in use."""

_log = logging.getLogger(__name__)


class RecordedSnapshotter(ABC):
    """The part of a Snapshotter that no driver changes; see there for what the methods promise."""

    driver: str
    stacked: bool

    def __init__(self, root: Path, layers: str) -> None:
        """Open the snapshots below `root`, made if absent, whose directories are in `root/layers`.

        Raises Conflict when another process has it open.
        """
        self._root = root
        self._lock = threading.RLock()
        self._closed = False
        for directory in (root, root / layers):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records = Records(root / DATABASE)
        self._layers = f"{root}/{layers}"
        self._layers_fd = os.open(self._layers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._numbers = itertools.count(1)
        self._boot = boot_id()
        self._syncing = Syncing(self._layers_fd, self._begin_sync, self._end_sync)

    def prepare(self, key: str, parent: str | None, *, temporary: bool = False) -> Rootfs:
        """Create the active snapshot `key`: a directory and, unless temporary, a row."""
        with self._lock:
            below = self._parent(parent)
            self._records.reserve(key, parent)
        record = None
        try:
            number = self._make(below)
            record = Record(number, SnapshotKind.ACTIVE, parent, time.time(), temporary)
            with self._lock:
                self._records.add(key, record)
                if parent is not None and below is not None and below.unsynced and not self.stacked:
                    self._records.synced({parent: below})  # what is copied is written out for it
        except (OSError, Unavailable) as error:
            with self._lock:
                self._records.give_up(key, parent)
                if record is not None:
                    self._discard(record)
            raise Unavailable(f"no layer for {key} can be made in {self._root}: {error}") from error
        return self._rootfs(record)

    def view(self, key: str, parent: str) -> Rootfs:
        """Create the read-only snapshot `key`: a row."""
        with self._lock:
            self._parent(parent)
            self._records.check_new(key)
            record = Record(next(self._numbers), SnapshotKind.VIEW, parent, time.time())
            self._records.add(key, record)
            return self._rootfs(record)

    def rootfs(self, key: str) -> Rootfs:
        """Return the root file system of an active snapshot or view: lookups only."""
        with self._lock:
            record = self._records.get(key)
            if record.kind is SnapshotKind.COMMITTED:
                raise Conflict(f"snapshot {key} is committed and cannot be mounted itself: prepare one on it")
            return self._rootfs(record)

    def unpack_target(self, key: str, *, on: str | None = None) -> UnpackTarget:
        """Return where the content of the active snapshot `key` is."""
        with self._lock:
            record = self._records.active(key)
            return self._target(record if on is None else self._put_on(key, record, on))

    def commit(self, key: str, name: str, *, parent: str | None = None) -> None:
        """Turn the active snapshot `key` into `name`: one row; the directory keeps its number."""
        with self._lock:
            if parent is not None:
                self._put_on(key, self._records.active(key), parent)
            committed = self._records.commit(key, name, self._boot, parent)
            self._seal(committed)
        self._syncing.want()

    def remove(self, key: str) -> None:
        """Delete the row; the directory goes in the background."""
        with self._lock:
            record = self._records.remove(key)
            self._forgotten(record)
            self._discard(record)

    def stat(self, key: str) -> SnapshotInfo:
        """Return what is known of one snapshot."""
        with self._lock:
            return self._records.get(key).info(key)

    def usage(self, key: str) -> Usage:
        """Measure the own content of a snapshot; that of a committed one is measured once and kept."""
        with self._lock:
            record = self._records.get(key)
        if record.usage is not None:
            return record.usage
        if record.kind is SnapshotKind.VIEW:
            return Usage(0, 0)
        try:
            usage = self._measure(record)
        except FileNotFoundError:
            raise NotFound(f"no such snapshot: {key}") from None
        if record.kind is SnapshotKind.COMMITTED:
            with self._lock:
                self._records.measured(key, usage)
        return usage

    def changes(self, key: str) -> Iterator[Change]:
        """Compare a snapshot with its parent."""
        with self._lock:
            record = self._records.get(key)
            return iter(()) if record.kind is SnapshotKind.VIEW else self._changes(record)

    def list(self) -> tuple[SnapshotInfo, ...]:
        """All snapshots in the order of their creation."""
        with self._lock:
            return tuple(record.info(key) for key, record in self._records.items())

    @abstractmethod
    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until everything removed is deleted."""

    def close(self) -> None:
        """Close the database and stop deleting."""
        self._syncing.close()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stop()
            os.close(self._layers_fd)
            self._records.close()

    def _load(self) -> None:
        """Put right what a killed process left: rows without a directory, directories without a row.

        And what a power failure may have: layers that were not synced.
        """
        for key, record in self._records.unsynced().items():
            if record.unsynced == self._boot:
                self._syncing.want()
                continue
            _log.warning("snapshot %s may not have survived the last shutdown: it is forgotten", key)
            self._records.drop(key)
        present = {int(name) for name in os.listdir(self._layers_fd) if name.isdecimal()}
        for key, record in self._records.items():
            if record.kind is not SnapshotKind.VIEW and record.number not in present:
                _log.warning(
                    "the files of snapshot %s are gone (%s): it is forgotten", key, self._path(record)
                )
                self._records.drop(key)
        known = {record.number for _, record in self._records.items()}
        self._numbers = itertools.count(max(known | present, default=0) + 1)
        for number in present - known:
            self._discard_layer(number)

    def _put_on(self, key: str, record: Record, parent: str) -> Record:
        """A snapshot as it is once it lies on `parent`; Conflict where it cannot, NotFound."""
        if not self.stacked or not record.temporary or record.parent is not None:
            raise Conflict(
                f"snapshot {key} cannot be put on {parent} any more: expected a temporary one that was "
                "prepared on nothing, with a driver that stacks layers"
            )
        self._parent(parent)
        return replace(record, parent=parent)

    def _begin_sync(self) -> dict[str, Record]:
        with self._lock:
            return self._records.unsynced()

    def _end_sync(self, snapshots: dict[str, Record]) -> None:
        with self._lock:
            if not self._closed:
                self._records.synced(snapshots)

    def _path(self, record: Record) -> Path:
        """The directory of a snapshot."""
        return Path(f"{self._layers}/{record.number}")

    def _parent(self, name: str | None) -> Record | None:
        """The record of the committed snapshot `name`; Conflict, NotFound."""
        if name is None:
            return None
        return next(self._records.ancestry(name))

    @abstractmethod
    def _make(self, parent: Record | None) -> int:
        """Make the directory of a new snapshot on `parent`; returns its number. Called without the lock."""

    @abstractmethod
    def _rootfs(self, record: Record) -> Rootfs: ...

    @abstractmethod
    def _target(self, record: Record) -> UnpackTarget: ...

    @abstractmethod
    def _seal(self, record: Record) -> None:
        """Do to the directory of a snapshot what its commitment asks for; done again after a kill."""

    @abstractmethod
    def _measure(self, record: Record) -> Usage: ...

    @abstractmethod
    def _changes(self, record: Record) -> Iterator[Change]: ...

    @abstractmethod
    def _forgotten(self, record: Record) -> None:
        """A snapshot has just lost its row: drop what is remembered of it."""

    @abstractmethod
    def _discard(self, record: Record) -> None:
        """Have the files of a snapshot deleted in the background."""

    @abstractmethod
    def _discard_layer(self, number: int) -> None:
        """Have a directory that belongs to nobody deleted in the background."""

    @abstractmethod
    def _stop(self) -> None:
        """Stop what the driver does in the background."""
