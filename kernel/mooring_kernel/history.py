# SPDX-License-Identifier: Apache-2.0
"""The history of cells, as the `history_request` of Jupyter's messaging protocol asks for it."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any

from jupyter_core.paths import jupyter_data_dir

_SCHEMA = """
CREATE TABLE IF NOT EXISTS sessions (
    session INTEGER PRIMARY KEY AUTOINCREMENT, started TEXT DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE IF NOT EXISTS cells (
    session INTEGER, line INTEGER, source TEXT, output TEXT, PRIMARY KEY (session, line)
) WITHOUT ROWID;
"""
_PATH_VARIABLE = "MOORING_HISTORY"

Row = tuple[int, int, str, str | None]


def default_path() -> str:
    """Return where the history is kept: $MOORING_HISTORY (`:memory:` keeps none), or in Jupyter's data
    directory.
    """
    return os.environ.get(_PATH_VARIABLE) or str(Path(jupyter_data_dir(), "mooring", "history.sqlite"))


class History:
    """The cells of this session and of earlier ones. Safe to use from several threads."""

    def __init__(self, path: str | None = None) -> None:
        self._lock = threading.Lock()
        path = path or default_path()
        try:
            if path != ":memory:":
                Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open(path)
        except (sqlite3.Error, OSError) as error:
            logging.getLogger(__name__).warning("the history %s cannot be used: %s", path, error)
            self._open(":memory:")

    def _open(self, path: str) -> None:
        self._database = sqlite3.connect(path, timeout=2.0, isolation_level=None, check_same_thread=False)
        if path != ":memory:":
            os.chmod(path, 0o600)  # cells may hold secrets
        self._database.executescript(_SCHEMA)
        self.session = self._database.execute("INSERT INTO sessions DEFAULT VALUES").lastrowid or 1

    def add(self, line: int, source: str, output: str | None) -> None:
        """Keep a cell: its number in this session, and what its result was as text."""
        self._rows("INSERT OR REPLACE INTO cells VALUES (?, ?, ?, ?)", (self.session, line, source, output))

    def tail(self, count: int) -> list[Row]:
        """Return the last cells, the oldest first."""
        query = "SELECT * FROM cells ORDER BY session DESC, line DESC LIMIT ?"
        return self._rows(query, (count,))[::-1]

    def range(self, session: int, start: int, stop: int | None) -> list[Row]:
        """Return cells of a session by their numbers, without `stop`; a session up to 0 counts back from this
        one.
        """
        number = session if session > 0 else self.session + session
        end = stop if stop is not None else 1 << 60
        query = "SELECT * FROM cells WHERE session = ? AND line >= ? AND line < ? ORDER BY line"
        return self._rows(query, (number, start, end))

    def search(self, pattern: str, count: int | None, unique: bool) -> list[Row]:
        """Return the last cells that match a pattern with `*` and `?`, the oldest first; `unique` ones once
        each.
        """
        columns = "MAX(session * 1000000000 + line), session, line" if unique else "0, session, line"
        query = (
            f"SELECT {columns}, source, output FROM cells WHERE source GLOB ? "
            f"{'GROUP BY source' if unique else ''} ORDER BY session DESC, line DESC LIMIT ?"
        )
        rows = self._rows(query, (pattern, -1 if count is None else count))
        return [(session, line, source, output) for _, session, line, source, output in reversed(rows)]

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _rows(self, query: str, values: tuple[object, ...]) -> list[Any]:
        with self._lock:
            try:
                return self._database.execute(query, values).fetchall()
            except sqlite3.Error as error:
                logging.getLogger(__name__).warning("the history cannot be used: %s", error)
                return []
