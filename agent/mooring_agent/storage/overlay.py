# SPDX-License-Identifier: Apache-2.0
"""Snapshots on OverlayFS, the default driver.

Below the driver's root lie::

    l/17            the own content of snapshot 17: an unpacked layer, or the upper directory of a container
    w/17            overlay's work directory of snapshot 17, while it is active
    snapshots.db    which key is which number, of what kind, on which parent (SQLite, WAL)
    trash/          what is removed and not deleted yet

Directories are numbers because the option string of mount(2) is one page long and names every layer. What
happened is decided by the row alone: a directory without a row is deleted at the next open, and so a
temporary snapshot is simply one that has no row yet. Commits are not flushed to the platter one by one
(synchronous=NORMAL): killing the process loses nothing, a power failure may lose the last rows, never the
consistency of the rest.
"""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.errors import Conflict, InvalidSpec, NotFound, Unavailable
from mooring_agent.storage.changes import overlay_changes
from mooring_agent.storage.snapshotter import (
    Change,
    Rootfs,
    SnapshotInfo,
    SnapshotKind,
    UnpackTarget,
    Usage,
    WhiteoutStyle,
    check_key,
)
from mooring_agent.storage.spares import SparePairs
from mooring_agent.storage.trash import Trash
from mooring_agent.storage.tree import measure_tree

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    key TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    parent TEXT,
    created_at REAL NOT NULL,
    bytes INTEGER,
    inodes INTEGER
) WITHOUT ROWID
"""
_LOCK_WAIT = 2.0  # seconds to wait for another process to give up the directory
_ROOT_MODE = 0o755
_WORK_MODE = 0o700
_SEPARATORS = frozenset(":,\\")  # have a meaning in overlay's option string


@dataclass(slots=True)
class _Snapshot:
    number: int
    kind: SnapshotKind
    parent: str | None
    created_at: float
    temporary: bool = False
    usage: Usage | None = None


class OverlaySnapshotter:
    """The overlay driver; see Snapshotter for what its methods promise."""

    def __init__(self, root: Path) -> None:
        """Open the snapshots below `root`, made if absent, and put right what a killed process left.

        Raises InvalidSpec for a root whose name overlay cannot take, Conflict when another process has it
        open.
        """
        if _SEPARATORS & set(str(root)):
            raise InvalidSpec(f"{root} cannot hold overlay layers: its name must not have : , or \\ in it")
        self._root = root
        self._lock = threading.RLock()
        self._closed = False
        for directory in (root, root / "l", root / "w"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._database = _open_database(root / "snapshots.db")
        self._layers_fd = os.open(root / "l", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._works_fd = os.open(root / "w", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._trash = Trash(root / "trash")
        self._snapshots: dict[str, _Snapshot] = {}
        self._children: dict[str, set[str]] = {}
        self._chains: dict[str, tuple[Path, ...]] = {}
        self._roots: dict[Path, tuple[int, int, int]] = {}  # mode, uid, gid of committed layers' roots
        self._owner = os.geteuid(), os.getegid()
        self._numbers = itertools.count(self._load())
        modes = (_ROOT_MODE, _WORK_MODE)
        self._spares = SparePairs(self._layers_fd, self._works_fd, modes, self._numbers)

    def prepare(self, key: str, parent: str | None, *, temporary: bool = False) -> Rootfs:
        """Create the active snapshot `key`: two directories made ahead and, unless temporary, a row."""
        with self._lock:
            self._check_new(key)
            lower = self._chain(parent) if parent is not None else ()
            try:
                number = self._spares.take()
                if lower:
                    self._like_parent(str(number), lower[0])
                snapshot = _Snapshot(number, SnapshotKind.ACTIVE, parent, time.time(), temporary)
                if not temporary:
                    self._insert(key, snapshot)
            except (OSError, sqlite3.OperationalError) as error:
                raise Unavailable(f"no layer for {key} can be made in {self._root}: {error}") from error
            self._remember(key, snapshot)
            return self._active_rootfs(number, lower)

    def view(self, key: str, parent: str) -> Rootfs:
        """Create the read-only snapshot `key`: a row."""
        with self._lock:
            self._check_new(key)
            lower = self._chain(parent)
            snapshot = _Snapshot(next(self._numbers), SnapshotKind.VIEW, parent, time.time())
            self._insert(key, snapshot)
            self._remember(key, snapshot)
            return Rootfs(lower, None, None)

    def rootfs(self, key: str) -> Rootfs:
        """Return the root file system of an active snapshot or view: lookups only."""
        with self._lock:
            snapshot = self._get(key)
            if snapshot.kind is SnapshotKind.COMMITTED:
                raise Conflict(f"snapshot {key} is committed and cannot be mounted itself: prepare one on it")
            lower = self._chain(snapshot.parent) if snapshot.parent is not None else ()
            if snapshot.kind is SnapshotKind.VIEW:
                return Rootfs(lower, None, None)
            return self._active_rootfs(snapshot.number, lower)

    def unpack_target(self, key: str) -> UnpackTarget:
        """Return the upper directory of the active snapshot `key`."""
        with self._lock:
            snapshot = self._active(key)
            lower = self._chain(snapshot.parent) if snapshot.parent is not None else ()
            return UnpackTarget(self._layer(snapshot.number), WhiteoutStyle.OVERLAY, lower)

    def commit(self, key: str, name: str) -> None:
        """Turn the active snapshot `key` into `name`: one row; the directory keeps its number."""
        with self._lock:
            snapshot = self._active(key)
            self._check_new(name)
            committed = _Snapshot(snapshot.number, SnapshotKind.COMMITTED, snapshot.parent, time.time())
            if snapshot.temporary:
                self._insert(name, committed)
            else:
                self._database.execute(
                    "UPDATE snapshots SET key = ?, kind = ?, created_at = ? WHERE key = ?",
                    (name, committed.kind, committed.created_at, key),
                )
            self._forget(key)
            self._remember(name, committed)
            self._trash.discard(self._works_fd, str(snapshot.number))

    def remove(self, key: str) -> None:
        """Delete the row and rename the directories away."""
        with self._lock:
            snapshot = self._get(key)
            children = self._children.get(key)
            if children:
                raise Conflict(
                    f"snapshot {key} is the parent of {', '.join(sorted(children)[:5])}"
                    f"{' and others' if len(children) > 5 else ''}: remove those first"
                )
            if not snapshot.temporary:
                self._database.execute("DELETE FROM snapshots WHERE key = ?", (key,))
            self._forget(key)
            name = str(snapshot.number)
            self._trash.discard(self._layers_fd, name)
            self._trash.discard(self._works_fd, name)

    def stat(self, key: str) -> SnapshotInfo:
        """Return what is known of one snapshot."""
        with self._lock:
            return _info(key, self._get(key))

    def usage(self, key: str) -> Usage:
        """Measure the own content of a snapshot; that of a committed one is measured once and kept."""
        with self._lock:
            snapshot = self._get(key)
        if snapshot.usage is not None:
            return snapshot.usage
        if snapshot.kind is SnapshotKind.VIEW:
            return Usage(0, 0)
        try:
            usage = measure_tree(self._layer(snapshot.number))
        except FileNotFoundError:
            raise NotFound(f"no such snapshot: {key}") from None
        if snapshot.kind is SnapshotKind.COMMITTED:
            with self._lock:
                snapshot.usage = usage
                self._database.execute(
                    "UPDATE snapshots SET bytes = ?, inodes = ? WHERE number = ?",
                    (usage.bytes, usage.inodes, snapshot.number),
                )
        return usage

    def changes(self, key: str) -> Iterator[Change]:
        """Read the upper directory of a snapshot beside the layers below it."""
        with self._lock:
            snapshot = self._get(key)
            if snapshot.kind is SnapshotKind.VIEW:
                return iter(())
            lower = self._chain(snapshot.parent) if snapshot.parent is not None else ()
            return overlay_changes(self._layer(snapshot.number), lower)

    def list(self) -> tuple[SnapshotInfo, ...]:
        """All snapshots in the order of their creation."""
        with self._lock:
            ordered = sorted(self._snapshots.items(), key=lambda item: item[1].number)
            return tuple(_info(key, snapshot) for key, snapshot in ordered)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until the trash is empty."""
        return self._trash.wait_idle(timeout)

    def close(self) -> None:
        """Close the database and stop deleting."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._spares.close()
            self._trash.close()
            os.close(self._layers_fd)
            os.close(self._works_fd)
            self._database.close()

    def _load(self) -> int:
        """Read what there is and put it right; returns the first number that is free."""
        layers = set(os.listdir(self._layers_fd))
        works = set(os.listdir(self._works_fd))
        expected_works = set()
        for row in self._database.execute("SELECT * FROM snapshots"):
            key, number, kind, parent, created_at, size, inodes = row
            usage = None if size is None else Usage(size, inodes)
            snapshot = _Snapshot(number, SnapshotKind(kind), parent, created_at, usage=usage)
            self._remember(key, snapshot)
            if snapshot.kind is SnapshotKind.ACTIVE:
                expected_works.add(str(number))
        for key, snapshot in tuple(self._snapshots.items()):
            name = str(snapshot.number)
            if snapshot.kind is not SnapshotKind.VIEW and name not in layers:
                _log.warning(
                    "the files of snapshot %s are gone (%s): it is forgotten",
                    key,
                    self._layer(snapshot.number),
                )
                self._database.execute("DELETE FROM snapshots WHERE key = ?", (key,))
                self._forget(key)
                expected_works.discard(name)
        known = {str(snapshot.number) for snapshot in self._snapshots.values()}
        for name in layers - known:
            self._trash.discard(self._layers_fd, name)
        for name in works - expected_works:
            self._trash.discard(self._works_fd, name)
        for name in expected_works - works:
            os.mkdir(name, _WORK_MODE, dir_fd=self._works_fd)
        return max((int(name) for name in known | layers | works if name.isdecimal()), default=0) + 1

    def _insert(self, key: str, snapshot: _Snapshot) -> None:
        self._database.execute(
            "INSERT INTO snapshots (key, number, kind, parent, created_at) VALUES (?, ?, ?, ?, ?)",
            (key, snapshot.number, snapshot.kind, snapshot.parent, snapshot.created_at),
        )

    def _remember(self, key: str, snapshot: _Snapshot) -> None:
        self._snapshots[key] = snapshot
        if snapshot.parent is not None:
            self._children.setdefault(snapshot.parent, set()).add(key)

    def _forget(self, key: str) -> None:
        snapshot = self._snapshots.pop(key)
        if snapshot.kind is SnapshotKind.COMMITTED:
            self._chains.clear()
            self._roots.clear()
        if snapshot.parent is not None:
            siblings = self._children[snapshot.parent]
            siblings.discard(key)
            if not siblings:
                del self._children[snapshot.parent]

    def _check_new(self, key: str) -> None:
        if check_key(key) in self._snapshots:
            raise Conflict(f"snapshot {key} exists already: choose another key or remove it first")

    def _get(self, key: str) -> _Snapshot:
        try:
            return self._snapshots[key]
        except KeyError:
            raise NotFound(f"no such snapshot: {key}") from None

    def _active(self, key: str) -> _Snapshot:
        snapshot = self._get(key)
        if snapshot.kind is not SnapshotKind.ACTIVE:
            raise Conflict(
                f"snapshot {key} is {snapshot.kind}: only an active one can be written or committed"
            )
        return snapshot

    def _chain(self, name: str) -> tuple[Path, ...]:
        """The layer directories of the committed snapshot `name` and those below it, topmost first."""
        chain = self._chains.get(name)
        if chain is not None:
            return chain
        numbers = []
        step: str | None = name
        while step is not None:
            snapshot = self._snapshots.get(step)
            if snapshot is None:
                below = "" if step == name else f" (it is below {name}: import that image again)"
                raise NotFound(f"no such snapshot: {step}{below}")
            if snapshot.kind is not SnapshotKind.COMMITTED:
                raise Conflict(f"snapshot {step} is {snapshot.kind} and cannot be a parent: commit it first")
            numbers.append(snapshot.number)
            step = snapshot.parent
        chain = tuple(self._layer(number) for number in numbers)
        self._chains[name] = chain
        return chain

    def _layer(self, number: int) -> Path:
        return Path(f"{self._root}/l/{number}")

    def _active_rootfs(self, number: int, lower: tuple[Path, ...]) -> Rootfs:
        return Rootfs(lower, self._layer(number), Path(f"{self._root}/w/{number}") if lower else None)

    def _like_parent(self, name: str, parent: Path) -> None:
        """Give an upper directory the owner and mode of the parent's root: overlay shows the topmost."""
        mode, uid, gid = self._roots.get(parent) or self._look_at(parent)
        if (uid, gid) != self._owner:
            os.chown(name, uid, gid, dir_fd=self._layers_fd)
        if mode != _ROOT_MODE:
            os.chmod(name, mode, dir_fd=self._layers_fd)

    def _look_at(self, layer: Path) -> tuple[int, int, int]:
        status = os.stat(layer)
        self._roots[layer] = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        return self._roots[layer]


def _info(key: str, snapshot: _Snapshot) -> SnapshotInfo:
    return SnapshotInfo(key, snapshot.kind, snapshot.parent, snapshot.created_at)


def _open_database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_WAIT, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(_SCHEMA)
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        database.close()
        if "locked" not in str(error):
            raise
        raise Conflict(
            f"{path.parent} is in use by another process: give every agent a --data-root of its own"
        ) from error
    return database
