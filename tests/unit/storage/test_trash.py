# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

from mooring_agent.storage.trash import Trash


def test_what_is_thrown_away_is_gone_at_once_and_deleted_later(tmp_path: Path) -> None:
    trash = Trash(tmp_path / "trash")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        (tmp_path / "tree" / "below").mkdir(parents=True)
        (tmp_path / "tree" / "below" / "file").write_text("x")
        (tmp_path / "file").write_text("x")
        trash.discard(fd, "tree")
        trash.discard(fd, "file")
        trash.discard(fd, "was never there")
        assert sorted(os.listdir(tmp_path)) == ["trash"]
        assert trash.wait_idle(20)
        assert os.listdir(tmp_path / "trash") == []
    finally:
        os.close(fd)
        trash.close()


def test_what_an_earlier_process_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / "7" / "below").mkdir(parents=True)
    (tmp_path / "stray").write_text("x")
    trash = Trash(tmp_path)
    try:
        assert trash.wait_idle(20)
        assert os.listdir(tmp_path) == []
    finally:
        trash.close()
        trash.close()


def test_closing_does_not_wait_for_a_big_tree(tmp_path: Path) -> None:
    for number in range(3000):
        (tmp_path / "outside" / str(number)).mkdir(parents=True)
    trash = Trash(tmp_path / "trash")
    fd = os.open(tmp_path, os.O_RDONLY)
    trash.discard(fd, "outside")
    os.close(fd)
    trash.close()
    assert trash.wait_idle(5), "who waits is not told of the end"
    again = Trash(tmp_path / "trash")
    try:
        assert again.wait_idle(20)
        assert os.listdir(tmp_path / "trash") == []
    finally:
        again.close()
