# SPDX-License-Identifier: Apache-2.0
"""Which snapshots there are: rows in SQLite, the same in memory, and the rules between keys and parents.

What happened is decided by the row alone, whatever lies on the disk: files without a row belong to nobody.
Commits are not flushed to the platter one by one (synchronous=NORMAL): killing the process loses nothing, a
power failure may lose the last rows, never the consistency of the rest. It may leave a row whose files are
empty, so the row of what was committed says in which boot, until its files are known to be on the disk.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mooring_agent.errors import Conflict, NotFound, Unavailable
from mooring_agent.storage.snapshotter import SnapshotInfo, SnapshotKind, Usage, check_key

_log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE IF NOT EXISTS snapshots (
    key TEXT PRIMARY KEY,
    number INTEGER NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    parent TEXT,
    created_at REAL NOT NULL,
    bytes INTEGER,
    inodes INTEGER,
    unsynced TEXT
) WITHOUT ROWID
"""
_LOCK_WAIT = 2.0  # seconds to wait for another process to give up the directory


@dataclass(frozen=True, slots=True)
class Record:
    """One snapshot: the number of its directory, and whether it has no row because it is temporary.

    `unsynced` is the boot in which it was committed, as long as its files may not be on the disk.
    """

    number: int
    kind: SnapshotKind
    parent: str | None
    created_at: float
    temporary: bool = False
    usage: Usage | None = None
    unsynced: str | None = None

    def info(self, key: str) -> SnapshotInfo:
        """The snapshot as callers see it."""
        return SnapshotInfo(key, self.kind, self.parent, self.created_at)


class Records:
    """The rows of one snapshotter. Callers serialise all calls.

    What changes a row raises Unavailable, and has changed nothing, when the disk is full.
    """

    def __init__(self, path: Path) -> None:
        """Open the database `path`, made if absent; Conflict when another process has it open."""
        self._path = path
        self._database = _open_database(path)
        self._records: dict[str, Record] = {}
        self._reserved: set[str] = set()
        self._children: dict[str, set[str]] = {}
        for row in self._database.execute(
            "SELECT key, number, kind, parent, created_at, bytes, inodes, unsynced FROM snapshots"
        ):
            key, number, kind, parent, created_at, size, inodes, unsynced = row
            usage = None if size is None else Usage(size, inodes)
            record = Record(number, SnapshotKind(kind), parent, created_at, usage=usage, unsynced=unsynced)
            self._remember(key, record)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def items(self) -> tuple[tuple[str, Record], ...]:
        """All snapshots in the order of their numbers."""
        return tuple(sorted(self._records.items(), key=lambda item: item[1].number))

    def get(self, key: str) -> Record:
        """Return a snapshot; raises NotFound."""
        try:
            return self._records[key]
        except KeyError:
            raise NotFound(f"no such snapshot: {key}") from None

    def active(self, key: str) -> Record:
        """Return an active snapshot; raises NotFound, or Conflict for one of another kind."""
        record = self.get(key)
        if record.kind is not SnapshotKind.ACTIVE:
            raise Conflict(f"snapshot {key} is {record.kind}: only an active one can be written or committed")
        return record

    def ancestry(self, name: str) -> Iterator[Record]:
        """Yield the committed snapshot `name` and those below it, topmost first; Conflict, NotFound."""
        step: str | None = name
        while step is not None:
            record = self._records.get(step)
            if record is None:
                below = "" if step == name else f" (it is below {name}: import that image again)"
                raise NotFound(f"no such snapshot: {step}{below}")
            if record.kind is not SnapshotKind.COMMITTED:
                raise Conflict(f"snapshot {step} is {record.kind} and cannot be a parent: commit it first")
            yield record
            step = record.parent

    def reserve(self, key: str, parent: str | None) -> None:
        """Keep a key, and the parent that it will have, for a snapshot that is being made."""
        self.check_new(key)
        self._reserved.add(key)
        if parent is not None:
            self._children.setdefault(parent, set()).add(key)

    def give_up(self, key: str, parent: str | None) -> None:
        """Give a reserved key back."""
        self._reserved.discard(key)
        self._orphan(key, parent)

    def add(self, key: str, record: Record) -> None:
        """Enter a snapshot; temporary ones without a row."""
        if not record.temporary:
            self._insert(key, record)
        self._reserved.discard(key)
        self._remember(key, record)

    def commit(self, key: str, name: str, boot: str, parent: str | None = None) -> Record:
        """Make the active snapshot `key` the committed `name`, in one statement; returns its record.

        It counts as not synced since the boot `boot`. A temporary one may be put on a `parent`.
        """
        record = self.active(key)
        self.check_new(name)
        committed = replace(
            record,
            kind=SnapshotKind.COMMITTED,
            parent=parent or record.parent,
            created_at=time.time(),
            temporary=False,
            usage=None,
            unsynced=boot,
        )
        if record.temporary:
            self._insert(name, committed)
        else:
            self._write(
                "UPDATE snapshots SET key = ?, kind = ?, created_at = ?, unsynced = ? WHERE key = ?",
                (name, committed.kind, committed.created_at, boot, key),
            )
        self._forget(key)
        self._remember(name, committed)
        return committed

    def remove(self, key: str) -> Record:
        """Delete a snapshot's row; Conflict while others have it as their parent."""
        record = self.get(key)
        children = self._children.get(key)
        if children:
            raise Conflict(
                f"snapshot {key} is the parent of {', '.join(sorted(children)[:5])}"
                f"{' and others' if len(children) > 5 else ''}: remove those first"
            )
        self.drop(key)
        return record

    def drop(self, key: str) -> None:
        """Delete a snapshot's row although it may have children, because its files are gone."""
        record = self._records[key]
        if not record.temporary:
            self._write("DELETE FROM snapshots WHERE key = ?", (key,))
        self._forget(key)

    def measured(self, key: str, usage: Usage) -> None:
        """Keep what a committed snapshot occupies; where the disk takes no more, until the next open."""
        record = self._records.get(key)
        if record is None or record.kind is not SnapshotKind.COMMITTED:
            return
        self._records[key] = replace(record, usage=usage)
        try:
            self._write(
                "UPDATE snapshots SET bytes = ?, inodes = ? WHERE number = ?",
                (usage.bytes, usage.inodes, record.number),
            )
        except Unavailable as error:
            _log.info("what snapshot %s occupies is measured again: %s", key, error)

    def unsynced(self) -> dict[str, Record]:
        """What was committed and is not known to be on the disk."""
        return {key: record for key, record in self._records.items() if record.unsynced is not None}

    def synced(self, snapshots: Mapping[str, Record]) -> None:
        """Note that these are on the disk, as far as they are there and the same."""
        for key, record in snapshots.items():
            found = self._records.get(key)
            if found is None or found.number != record.number:
                continue
            try:
                self._write("UPDATE snapshots SET unsynced = NULL WHERE key = ?", (key,))
            except Unavailable as error:
                _log.info("snapshot %s counts as not written out for now: %s", key, error)
                continue
            self._records[key] = replace(found, unsynced=None)

    def check_new(self, key: str) -> None:
        """Raise Conflict for a key in use, InvalidSpec for one that cannot be."""
        if check_key(key) in self._records or key in self._reserved:
            raise Conflict(f"snapshot {key} exists already: choose another key or remove it first")

    def _insert(self, key: str, record: Record) -> None:
        self._write(
            "INSERT INTO snapshots (key, number, kind, parent, created_at, unsynced) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (key, record.number, record.kind, record.parent, record.created_at, record.unsynced),
        )

    def _write(self, statement: str, values: tuple[object, ...]) -> None:
        try:
            self._database.execute(statement, values)
        except sqlite3.OperationalError as error:
            raise Unavailable(
                f"{self._path} takes no more ({error}): free some space, then try again"
            ) from error

    def _remember(self, key: str, record: Record) -> None:
        self._records[key] = record
        if record.parent is not None:
            self._children.setdefault(record.parent, set()).add(key)

    def _forget(self, key: str) -> None:
        self._orphan(key, self._records.pop(key).parent)

    def _orphan(self, key: str, parent: str | None) -> None:
        if parent is not None:
            siblings = self._children[parent]
            siblings.discard(key)
            if not siblings:
                del self._children[parent]


def _open_database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=_LOCK_WAIT, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = NORMAL")
        database.execute("BEGIN IMMEDIATE")
        database.execute(_SCHEMA)
        columns = {row[1] for row in database.execute("PRAGMA table_info(snapshots)")}
        if "unsynced" not in columns:  # made by an agent that did not know of it
            database.execute("ALTER TABLE snapshots ADD COLUMN unsynced TEXT")
        database.execute("COMMIT")
    except sqlite3.OperationalError as error:
        database.close()
        if "locked" not in str(error):
            raise
        raise Conflict(
            f"{path.parent} is in use by another process: give every agent a --data-root of its own"
        ) from error
    return database
