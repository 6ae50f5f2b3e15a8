# SPDX-License-Identifier: Apache-2.0
"""The overlay driver without any mount; mounts are in tests/integration/storage."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, NotFound, NotSupported, Unavailable
from mooring_agent.storage import recorded
from mooring_agent.storage.overlay import OverlaySnapshotter
from mooring_agent.storage.records import Records
from mooring_agent.storage.snapshotter import Rootfs, Snapshotter, WhiteoutStyle
from unit.storage.kills import FORGET, INSERT, kill_in
from unit.storage.snapshotter_contract import SnapshotterContract, add_layer


class TestOverlay(SnapshotterContract):
    def make(self, root: Path) -> Snapshotter:
        return OverlaySnapshotter(root)


def test_the_three_shapes_of_a_root_file_system(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        empty = snapshots.prepare("empty", None)
        add_layer(snapshots, "one", None, {})
        add_layer(snapshots, "two", "one", {})
        container = snapshots.prepare("container", "two")
        assert empty.bind_source == empty.upper
        assert snapshots.view("single", "one").bind_source == container.lower[1]
        assert container.bind_source is None
        assert container.overlay_options() == (
            f"lowerdir={container.lower[0]}:{container.lower[1]},upperdir={container.upper},workdir={container.work},"
            "redirect_dir=off,metacopy=off,index=off"
        )
        both = snapshots.view("both", "two")
        assert both.overlay_options().startswith(f"lowerdir={both.lower[0]}:{both.lower[1]},redirect_dir")
        with pytest.raises(ValueError, match="bind-mounted"):
            empty.overlay_options()
    finally:
        snapshots.close()


def test_a_hundred_layers_fit_the_option_page() -> None:
    root = Path("/var/lib/mooring/overlay")
    lower = tuple(root / "l" / str(number) for number in range(10_000, 10_100))
    assert len(Rootfs(lower, root / "l/20000", root / "w/20000").overlay_options()) < 4096
    with pytest.raises(InvalidSpec, match="flatten"):
        Rootfs(lower * 2, root / "l/20000", root / "w/20000").overlay_options()


@pytest.mark.parametrize("name", ["a:b", "a,b", "a\\b"])
def test_a_root_that_overlay_cannot_take_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidSpec, match="must not have"):
        OverlaySnapshotter(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_layers_have_short_names(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        rootfs = snapshots.prepare("f" * 64, None)
        target = snapshots.unpack_target("f" * 64)
        assert rootfs.upper == target.directory
        assert target.directory.parent == tmp_path / "l"
        assert target.directory.name.isdecimal()
        assert target.whiteouts is WhiteoutStyle.OVERLAY
    finally:
        snapshots.close()


def test_files_that_vanished_are_noticed_at_open(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    add_layer(snapshots, "gone", None, {"a": "1"})
    layer = snapshots.prepare("container", "gone").lower[0]
    snapshots.close()
    (layer / "a").unlink()
    layer.rmdir()
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        assert [info.key for info in snapshots.list()] == ["container"]
        with pytest.raises(NotFound, match="gone"):
            snapshots.rootfs("container")
        add_layer(snapshots, "gone", None, {"a": "again"})
        assert (snapshots.rootfs("container").lower[0] / "a").read_text() == "again"
    finally:
        snapshots.close()


def test_a_full_disk_is_told_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshots = OverlaySnapshotter(tmp_path)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    try:
        with monkeypatch.context() as patch:
            patch.setattr(Records, "_insert", full)
            with pytest.raises(Unavailable, match=r"no layer for container can be made in .*No space left"):
                snapshots.prepare("container", None)
        assert snapshots.list() == ()
        snapshots.prepare("container", None)
    finally:
        snapshots.close()


_DISCARD = "mooring_agent.storage.trash:Trash.discard"


@pytest.mark.parametrize(
    ("what", "when", "place", "there"),
    [
        ("prepare", "before", INSERT, {"base", "kept"}),
        ("prepare", "after", INSERT, {"base", "kept", "new"}),
        ("commit", "before", INSERT, {"base", "kept"}),
        ("commit", "after", INSERT, {"base", "kept", "top"}),
        ("commit", "before", _DISCARD, {"base", "kept", "top"}),
        ("remove", "before", FORGET, {"base"}),
        ("remove", "before", _DISCARD, {"base"}),
        ("remove", "after", _DISCARD, {"base"}),
    ],
)
def test_a_kill_leaves_what_was_answered_for_and_no_files_else(
    tmp_path: Path, what: str, when: str, place: str, there: set[str]
) -> None:
    kill_in(OverlaySnapshotter, tmp_path, what, when, place)
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        assert {info.key for info in snapshots.list()} == there
        assert snapshots.wait_idle(20)
        assert len(os.listdir(tmp_path / "l")) == len(there)
        assert len(os.listdir(tmp_path / "w")) == len(there & {"kept", "new"})
        assert os.listdir(tmp_path / "trash") == []
        for key in there - {"base"}:
            snapshots.remove(key)
        snapshots.remove("base")
    finally:
        snapshots.close()


def test_a_container_outlives_the_layer_that_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    add_layer(snapshots, "layer", None, {"a": "1"})
    upper = snapshots.prepare("container", "layer").upper
    snapshots.close()
    monkeypatch.setattr(recorded, "boot_id", lambda: "another")
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        with pytest.raises(NotFound, match="no such snapshot: layer"):
            snapshots.rootfs("container")
        add_layer(snapshots, "layer", None, {"a": "1"})
        rootfs = snapshots.rootfs("container")
        assert rootfs.upper == upper
        assert (rootfs.lower[0] / "a").read_text() == "1"
    finally:
        snapshots.close()


def test_a_database_of_an_older_agent_is_taken(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    add_layer(snapshots, "layer", None, {"a": "1"})
    snapshots.close()
    database = sqlite3.connect(tmp_path / "snapshots.db")
    database.execute("ALTER TABLE snapshots DROP COLUMN unsynced")
    database.close()
    snapshots = OverlaySnapshotter(tmp_path)
    try:
        assert [each.key for each in snapshots.list()] == ["layer"]
        add_layer(snapshots, "another", "layer", {"a": "1"})
    finally:
        snapshots.close()


def test_a_layer_cannot_be_bounded_and_the_error_says_what_can(tmp_path: Path) -> None:
    snapshots = OverlaySnapshotter(tmp_path)
    snapshots.prepare("c1", None)
    with pytest.raises(NotSupported, match=r"plain directories.*btrfs quota enable"):
        snapshots.limit("c1", 1 << 20)
    snapshots.close()
