# SPDX-License-Identifier: Apache-2.0
"""The state file: migrations, transactions, and what survives."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing, nullcontext
from pathlib import Path

import pytest

from harness.forked import fork
from mooring_agent.errors import Conflict
from mooring_agent.state import database as module
from mooring_agent.state.containers import ContainerRows
from mooring_agent.state.database import Database

ROW = {
    "name": "web",
    "managed": 1,
    "spec": "{}",
    "spec_hash": "h",
    "image_id": "sha256:1",
    "created_at": 1.5,
    "resolved": "{}",
    "extra": "{}",
    "auto_remove": 0,
    "run": "{}",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(tmp_path / "state.db")
    yield made
    made.close()


def names(database: Database) -> list[str]:
    return [row["name"] for row in ContainerRows(database).all()]


def insert(database: Database, name: str) -> None:
    ContainerRows(database).insert(id=name * 4, **{**ROW, "name": name})


def version(database: Database) -> int:
    found: int = database.connection.execute("PRAGMA user_version").fetchone()[0]
    return found


def newest() -> int:
    return module._migrations()[-1][0]


def test_a_new_file_has_the_newest_schema(database: Database) -> None:
    assert version(database) == newest()
    tables = {row[0] for row in database.connection.execute("SELECT name FROM sqlite_master")}
    assert {"containers", "volumes", "cgroups", "declared", "networks", "endpoints"} <= tables


def test_migrations_are_numbered_without_a_gap() -> None:
    assert [number for number, _ in module._migrations()] == list(range(1, newest() + 1))


def test_opening_again_changes_nothing(tmp_path: Path, database: Database) -> None:
    insert(database, "web")
    database.close()
    with closing(Database(tmp_path / "state.db")) as again:
        assert names(again) == ["web"]
    assert not list(tmp_path.glob("*.bak"))


def test_directories_are_made(tmp_path: Path) -> None:
    with closing(Database(tmp_path / "deep/er/state.db")) as made:
        assert version(made) == newest()


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, database: Database) -> None:
    insert(database, "web")
    database.connection.execute(f"PRAGMA user_version = {newest() + 1}")
    database.close()
    with pytest.raises(Conflict) as refused:
        Database(tmp_path / "state.db")
    for word in (str(tmp_path / "state.db"), str(newest() + 1), str(newest()), "newer agent"):
        assert word in refused.value.message
    with closing(sqlite3.connect(tmp_path / "state.db")) as plain:
        assert plain.execute("SELECT name FROM containers").fetchall() == [("web",)]


@pytest.mark.parametrize("known", range(1, newest()))
def test_every_older_schema_is_migrated_and_kept_as_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    every = module._migrations()
    monkeypatch.setattr(module, "_migrations", lambda: every[:known])
    with closing(Database(tmp_path / "state.db")) as old:
        assert version(old) == known
        insert(old, "web")
    monkeypatch.undo()
    with closing(Database(tmp_path / "state.db")) as migrated:
        assert version(migrated) == newest()
        assert names(migrated) == ["web"]
    with closing(sqlite3.connect(tmp_path / f"state.schema{known}.bak")) as copy:
        assert copy.execute("PRAGMA user_version").fetchone() == (known,)
        assert copy.execute("SELECT name FROM containers").fetchall() == [("web",)]


def test_a_migration_that_fails_leaves_the_old_schema(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert(database, "web")
    database.close()
    every = module._migrations()
    broken = (newest() + 1, "CREATE TABLE half (id TEXT);\nINSERT INTO nowhere VALUES (1);")
    monkeypatch.setattr(module, "_migrations", lambda: [*every, broken])
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        Database(tmp_path / "state.db")
    monkeypatch.undo()
    with closing(Database(tmp_path / "state.db")) as again:
        assert version(again) == newest()
        assert names(again) == ["web"]
        tables = {row[0] for row in again.connection.execute("SELECT name FROM sqlite_master")}
        assert "half" not in tables


def insert_and_fail(database: Database, name: str, *, nested: bool = False) -> None:
    with database.transaction():
        if nested:
            with database.transaction():
                insert(database, name)
        else:
            insert(database, name)
        raise RuntimeError


def test_a_transaction_is_all_or_nothing(database: Database) -> None:
    with database.transaction():
        insert(database, "one")
    with pytest.raises(RuntimeError):
        insert_and_fail(database, "two")
    assert names(database) == ["one"]


def test_an_inner_transaction_is_part_of_the_outer(database: Database) -> None:
    with pytest.raises(RuntimeError):
        insert_and_fail(database, "inner", nested=True)
    assert names(database) == []
    with database.transaction():
        insert(database, "outer")
        with database.transaction():
            insert(database, "inner")
    assert sorted(names(database)) == ["inner", "outer"]


def test_an_inner_transaction_that_fails_leaves_nothing_of_itself(database: Database) -> None:
    """Also where the outer one goes on: what asked for all or nothing got some of it."""
    with database.transaction():
        insert(database, "outer")
        for nested in (False, True):
            with pytest.raises(RuntimeError):
                insert_and_fail(database, "inner", nested=nested)
        insert(database, "after")
    assert sorted(names(database)) == ["after", "outer"]


def test_transactions_follow_each_other_after_a_failure(database: Database) -> None:
    for _ in range(3):
        with pytest.raises(RuntimeError):
            insert_and_fail(database, "one")
        with pytest.raises(sqlite3.IntegrityError), database.transaction():
            database.connection.execute(
                "INSERT INTO endpoints VALUES ('c', 'nowhere', '10.0.0.1', NULL, NULL, 'v', 'eth0')"
            )
    with database.transaction():
        insert(database, "one")
    assert names(database) == ["one"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_full_disk_spoils_one_transaction_only(database: Database, nested: bool) -> None:
    pages = database.connection.execute("PRAGMA page_count").fetchone()[0]
    database.connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(sqlite3.OperationalError, match="full"):
        fill(database, nested=nested)
    database.connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    with database.transaction():
        insert(database, "one")
    assert names(database) == ["one"]


def fill(database: Database, *, nested: bool) -> None:
    with database.transaction():
        insert(database, "first")
        with database.transaction() if nested else nullcontext():
            for number in range(100):
                ContainerRows(database).insert(
                    id=str(number), **{**ROW, "name": f"n{number}", "spec": "x" * 4096}
                )


def test_references_are_checked(database: Database) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        database.connection.execute(
            "INSERT INTO endpoints VALUES ('c', 'no such network', '10.0.0.1', NULL, NULL, 'v', 'eth0')"
        )


def test_rows_are_changed_and_removed(database: Database) -> None:
    rows = ContainerRows(database)
    insert(database, "one")
    rows.update("one" * 4, name="other", run='{"a": 1}')
    assert [(row["name"], row["run"]) for row in rows.all()] == [("other", '{"a": 1}')]
    rows.delete("one" * 4)
    rows.delete("one" * 4)
    assert rows.all() == []


def test_rows_come_oldest_first(database: Database) -> None:
    rows = ContainerRows(database)
    for name, moment in (("b", 2.0), ("c", 3.0), ("a", 1.0)):
        rows.insert(id=name, **{**ROW, "name": name, "created_at": moment})
    assert names(database) == ["a", "b", "c"]


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    pid = fork()
    if pid == 0:
        made = Database(tmp_path / "state.db")
        insert(made, "committed")
        made.connection.execute("BEGIN")
        insert(made, "not committed")
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    with closing(Database(tmp_path / "state.db")) as again:
        assert names(again) == ["committed"]


def test_changes_are_told(database: Database) -> None:
    told: list[int] = []
    database.on_change(lambda: told.append(len(names(database))))
    names(database)
    assert told == []
    insert(database, "one")
    assert told[-1] == 1
    told.clear()
    with database.transaction() as connection:
        connection.executemany("DELETE FROM containers WHERE name = ?", [("one",)])
    assert told == [0]
    with database.transaction() as connection:
        connection.execute("DELETE FROM containers WHERE name = 'no such'")
    assert told == [0]


def test_flush_works_at_any_time(tmp_path: Path, database: Database) -> None:
    database.flush()
    insert(database, "one")
    database.flush()
    database.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.flush()
    before = len(os.listdir("/proc/self/fd"))
    database.flush()
    assert len(os.listdir("/proc/self/fd")) == before
