# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from mooring_agent.errors import Conflict, InvalidSpec
from mooring_agent.storage.choose import open_snapshotter


def test_a_data_root_stays_with_the_driver_that_it_was_made_with(tmp_path: Path) -> None:
    snapshots = open_snapshotter(tmp_path / "data", "overlay")
    snapshots.prepare("kept", None)
    snapshots.close()
    with pytest.raises(Conflict, match=r"made with the storage driver overlay .* --storage-driver overlay"):
        open_snapshotter(tmp_path / "data", "btrfs")
    again = open_snapshotter(tmp_path / "data", "auto")
    try:
        assert again.driver == "overlay"
        assert [info.key for info in again.list()] == ["kept"]
    finally:
        again.close()
    assert not (tmp_path / "data/btrfs").exists()


def test_btrfs_elsewhere_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="--storage-driver overlay"):
        open_snapshotter(tmp_path / "data", "btrfs")
    assert list((tmp_path / "data").iterdir()) == []
