# SPDX-License-Identifier: Apache-2.0
"""The agent's durable state: one SQLite file in WAL mode with one writer, the event-loop thread.

A commit survives `kill -9` of the agent at once. Against a power cut `synchronous=NORMAL` keeps the file
consistent, and `Database.flush`, which the agent calls within a second of a change, makes the last commits
durable.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import Conflict
from ..failpoints import reached

_STATEMENTS = ("BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",))
# A savepoint hides an outer one of the same name (sqlite.org/lang_savepoint.html).
_NESTED_STATEMENTS = ("SAVEPOINT nested", "RELEASE nested", ("ROLLBACK TO nested", "RELEASE nested"))
_MIGRATION_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")


class _Connection(sqlite3.Connection):
    """One that calls `changed` after each statement that has changed something."""

    changed: Callable[[], object] = staticmethod(lambda: None)
    _seen = 0

    def execute(self, *statement: Any) -> sqlite3.Cursor:
        cursor = super().execute(*statement)
        if self.total_changes != self._seen:
            self._seen = self.total_changes
            self.changed()
        return cursor


class Database:
    """An open state file, migrated to the newest schema this agent knows.

    Raises Conflict when the file was written by a newer agent.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.connection = sqlite3.connect(
            path, isolation_level=None, cached_statements=256, factory=_Connection
        )
        self.connection.row_factory = sqlite3.Row
        # A checkpoint, which waits for the disk, comes once in 16 MiB and not once in 4.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "foreign_keys=ON",
            "busy_timeout=5000",
            "wal_autocheckpoint=4000",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self._depth = 0
        self._migrate()

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All or nothing: commits at the end, rolls back on an exception.

        May be nested: an inner one that fails leaves nothing of itself, whatever the outer one then does.
        """
        begin, commit, roll_back = _STATEMENTS if not self._depth else _NESTED_STATEMENTS
        self.connection.execute(begin)
        self._depth += 1
        try:
            yield self.connection
            reached("commit.before")
            self.connection.execute(commit)
            reached("commit.after")
        except BaseException:
            if self.connection.in_transaction:  # SQLite has rolled back by itself where the disk is full
                for statement in roll_back:
                    self.connection.execute(statement)
            raise
        finally:
            self._depth -= 1

    def on_change(self, changed: Callable[[], object]) -> None:
        """Have `changed` called, in the thread that changes something, by the commit at the latest."""
        self.connection.changed = changed

    def flush(self) -> None:
        """Make the commits so far survive a power cut. Safe to call from any thread."""
        descriptor = os.open(f"{self.path}-wal", os.O_RDONLY)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Close the file; what was committed stays."""
        self.connection.close()

    def _migrate(self) -> None:
        migrations = _migrations()
        known = migrations[-1][0]
        version = self.connection.execute("PRAGMA user_version").fetchone()[0]
        if version > known:
            raise Conflict(
                f"state file {self.path} has schema {version}, written by a newer agent: this agent knows "
                "schemas up "
                f"to {known}; run the newer agent, or restore the copy that it kept when it migrated"
            )
        if 0 < version < known:
            self._keep_copy(version)
        for number, script in migrations:
            if number > version:
                self.connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")

    def _keep_copy(self, version: int) -> None:
        with sqlite3.connect(self.path.with_suffix(f".schema{version}.bak")) as copy:
            self.connection.backup(copy)
        copy.close()


def _migrations() -> list[tuple[int, str]]:
    found = []
    for entry in (resources.files(__package__) / "migrations").iterdir():
        match = _MIGRATION_NAME.fullmatch(entry.name)
        if match:
            found.append((int(match[1]), entry.read_text(encoding="utf-8")))
    return sorted(found)
