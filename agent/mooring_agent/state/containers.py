# SPDX-License-Identifier: Apache-2.0
"""Queries on the table of containers."""

from __future__ import annotations

import sqlite3
from contextlib import AbstractContextManager
from typing import Any

from .database import Database


class ContainerRows:
    """One row a container; JSON columns are written and read by the engine's `Container`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """See `Database.transaction`."""
        return self._database.transaction()

    def all(self) -> list[sqlite3.Row]:
        """Every row, oldest first."""
        return self._database.connection.execute(
            "SELECT * FROM containers ORDER BY created_at, id"
        ).fetchall()

    def insert(self, **columns: Any) -> None:
        """Add a row with all its columns."""
        names = ", ".join(columns)
        marks = ", ".join("?" * len(columns))
        self._database.connection.execute(
            f"INSERT INTO containers ({names}) VALUES ({marks})", tuple(columns.values())
        )

    def update(self, id: str, **columns: Any) -> None:
        """Change some columns of a row."""
        assignments = ", ".join(f"{name} = ?" for name in columns)
        self._database.connection.execute(
            f"UPDATE containers SET {assignments} WHERE id = ?", (*columns.values(), id)
        )

    def delete(self, id: str) -> None:
        """Remove a row, if it is there."""
        self._database.connection.execute("DELETE FROM containers WHERE id = ?", (id,))
