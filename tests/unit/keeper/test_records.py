# SPDX-License-Identifier: Apache-2.0
"""The keeper's journal, also after a keeper that was killed while it wrote."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.forked import in_child
from mooring_agent.keeper.records import Journal, Record

ID = "0123456789abcdef" * 4
RECORD = Record(ID, ID, pid=5, start_time=77, terminal=False, log_directory="/l", log_size=10, log_files=3)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(str(tmp_path / "records"))


def test_what_was_written_is_read(journal: Journal) -> None:
    other = Record("ab" * 32, ID, pid=6, start_time=78, terminal=True)
    journal.write(RECORD)
    journal.write(other)
    assert {record.id: record for record in journal.read_all()} == {ID: RECORD, other.id: other}


def test_a_record_is_replaced(journal: Journal) -> None:
    journal.write(RECORD)
    ended = RECORD.exited(137, known=True, finished_at=12.5)
    journal.write(ended)
    assert journal.read_all() == [ended]
    assert (ended.pid, ended.exit_code, ended.known, ended.finished_at) == (5, 137, True, 12.5)


def test_a_removed_record_is_gone_and_may_be_removed_again(journal: Journal) -> None:
    journal.write(RECORD)
    journal.remove(ID)
    journal.remove(ID)
    assert journal.read_all() == []


@given(st.integers(0, 300))
def test_a_half_written_record_counts_as_not_written(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """A keeper that is killed leaves the former record and the beginning of the new one."""
    directory = tmp_path_factory.mktemp("records")
    journal = Journal(str(directory))
    journal.write(RECORD)
    (directory / f"{ID}.json.new").write_bytes(json.dumps(vars(RECORD)).encode()[:cut])
    assert journal.read_all() == [RECORD]
    assert os.listdir(directory) == [f"{ID}.json"]


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 200, b"{", b"[]", b"null", b'{"id": "x"}', b'{"future": 1}'],
    ids=lambda content: repr(content[:12]),
)
def test_a_record_that_is_none_harms_no_other(
    journal: Journal, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    """A keeper that could not read one record would leave all containers without one."""
    journal.write(RECORD)
    broken = tmp_path / "records" / f"{'f' * 64}.json"
    broken.write_bytes(content)
    assert journal.read_all() == [RECORD]
    assert broken.name in capfd.readouterr().err
    assert journal.read_all() == [RECORD]


def test_what_a_newer_keeper_has_added_is_no_obstacle(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "records" / f"{ID}.json"
    path.write_text(json.dumps({**vars(RECORD), "added_later": 1}))
    assert journal.read_all() == [RECORD]


def test_a_disk_that_is_full_spoils_no_record(journal: Journal) -> None:
    journal.write(RECORD)

    def work() -> str:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        try:
            journal.write(RECORD.exited(1, known=True, finished_at=1.0))
        except OSError as error:
            return str(error)
        return "written"

    assert in_child(work) != "written"
    assert journal.read_all() == [RECORD]


def test_the_journal_is_closed_to_others(journal: Journal, tmp_path: Path) -> None:
    journal.write(RECORD)
    assert (tmp_path / "records").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "records" / f"{ID}.json").stat().st_mode & 0o777 == 0o600
