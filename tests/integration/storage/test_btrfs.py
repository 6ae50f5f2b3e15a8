# SPDX-License-Identifier: Apache-2.0
"""The btrfs driver on a btrfs of its own."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path

import pytest

from mooring_agent.engine.mountpoints import prepare_layer
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.store import ImageStore
from mooring_agent.linux import btrfs
from mooring_agent.storage import recorded
from mooring_agent.storage.btrfs import BtrfsSnapshotter
from mooring_agent.storage.snapshotter import Snapshotter, WhiteoutStyle
from unit.images.archives import archive, directory, member
from unit.storage.kills import FORGET, INSERT, kill_in
from unit.storage.snapshotter_contract import SnapshotterContract, add_layer, changes_of

pytestmark = [pytest.mark.root, pytest.mark.kernel("btrfs")]


@pytest.fixture
def tmp_path(btrfs_root: Path) -> Path:
    """Every test of this module works on btrfs; what it leaves goes with the file system."""
    return Path(tempfile.mkdtemp(dir=btrfs_root))


class TestBtrfs(SnapshotterContract):
    def make(self, root: Path) -> Snapshotter:
        return BtrfsSnapshotter(root)


def open_subvolume(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def test_a_committed_snapshot_is_read_only_and_one_on_it_is_not(tmp_path: Path) -> None:
    snapshots = BtrfsSnapshotter(tmp_path)
    try:
        add_layer(snapshots, "base", None, {"a": "1"})
        snapshots.prepare("extract", "base", temporary=True)
        target = snapshots.unpack_target("extract")
        assert target.whiteouts is WhiteoutStyle.DELETE
        assert target.parents == ()
        (target.directory / "a").unlink()
        view = snapshots.view("view", "base").bind_source
        assert view is not None
        with pytest.raises(OSError, match="Read-only"):
            (view / "b").touch()
        snapshots.commit("extract", "without")
        with pytest.raises(OSError, match="Read-only"):
            (target.directory / "b").touch()
        rootfs = snapshots.prepare("container", "without")
        assert rootfs.bind_source == rootfs.upper
        assert rootfs.upper is not None
        assert os.listdir(rootfs.upper) == []
        (rootfs.upper / "b").touch()
    finally:
        snapshots.close()


def test_what_a_kill_left_writable_is_made_read_only(tmp_path: Path) -> None:
    snapshots = BtrfsSnapshotter(tmp_path)
    add_layer(snapshots, "base", None, {})
    place = snapshots.view("view", "base").bind_source
    assert place is not None
    fd = open_subvolume(place)
    btrfs.set_read_only(fd, False)
    snapshots.close()
    BtrfsSnapshotter(tmp_path).close()
    assert btrfs.is_read_only(fd)
    os.close(fd)


def test_subvolumes_that_a_container_made_go_with_it(tmp_path: Path) -> None:
    snapshots = BtrfsSnapshotter(tmp_path)
    try:
        rootfs = snapshots.prepare("container", None)
        assert rootfs.upper is not None
        (rootfs.upper / "var").mkdir()
        fd = open_subvolume(rootfs.upper / "var")
        btrfs.create_subvolume(fd, "one")
        (rootfs.upper / "var/one/file").write_text("x")
        one = open_subvolume(rootfs.upper / "var/one")
        btrfs.create_subvolume(one, "inner")
        btrfs.set_read_only(one, True)
        btrfs.create_snapshot(one, fd, "snapshot")
        os.close(one)
        os.close(fd)
        snapshots.remove("container")
        assert snapshots.wait_idle(20)
        assert not rootfs.upper.exists()
    finally:
        snapshots.close()


def test_another_file_system_is_refused_by_name() -> None:
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as other,
        pytest.raises(InvalidSpec, match=r"not on btrfs.*overlay"),
    ):
        BtrfsSnapshotter(Path(other) / "btrfs")


_DRIVER = "mooring_agent.storage.btrfs:BtrfsSnapshotter"
_DESTROY = "mooring_agent.linux.btrfs.destroy_subvolume"


@pytest.mark.parametrize(
    ("what", "when", "place", "there"),
    [
        ("prepare", "after", f"{_DRIVER}._make", {"base", "kept"}),
        ("prepare", "before", INSERT, {"base", "kept"}),
        ("prepare", "after", INSERT, {"base", "kept", "new"}),
        ("commit", "before", INSERT, {"base", "kept"}),
        ("commit", "after", INSERT, {"base", "kept", "top"}),
        ("commit", "before", f"{_DRIVER}._seal", {"base", "kept", "top"}),
        ("remove", "before", FORGET, {"base"}),
        ("remove", "before", f"{_DRIVER}._discard", {"base"}),
        ("remove", "before", _DESTROY, {"base"}),
        ("remove", "after", _DESTROY, {"base"}),
    ],
)
def test_a_kill_leaves_what_was_answered_for_and_no_subvolume_else(
    tmp_path: Path, what: str, when: str, place: str, there: set[str]
) -> None:
    kill_in(BtrfsSnapshotter, tmp_path, what, when, place)
    snapshots = BtrfsSnapshotter(tmp_path)
    try:
        assert {info.key for info in snapshots.list()} == there
        assert snapshots.wait_idle(20)
        assert len(os.listdir(tmp_path / "v")) == len(there)
        for name in there - {"kept", "new"}:
            place = snapshots.view(f"view-{name}", name).bind_source
            assert place is not None
            with pytest.raises(OSError, match="Read-only"):
                (place / "x").touch()
    finally:
        snapshots.close()


def test_a_commit_has_what_a_container_wrote(tmp_path: Path) -> None:
    snapshots = BtrfsSnapshotter(tmp_path / "btrfs")
    try:
        store = ImageStore(tmp_path / "images", snapshots)
        rootfs = archive(
            directory("etc"), member("etc/name", data=b"one\n"), member("big", data=b"b" * 500_000)
        )
        base = store.import_rootfs(io.BytesIO(rootfs), "base:1")
        prepare_layer(snapshots, "container", base.chain_id)
        upper = snapshots.rootfs("container").upper
        assert upper is not None
        assert (upper / "etc/hosts").exists()
        assert store.commit("container", base, "same:1").diff_ids == base.diff_ids
        (upper / "etc/name").unlink()
        (upper / "made").mkdir()
        (upper / "made/note").write_text("mine")
        os.link(upper / "made/note", upper / "linked")
        image = store.commit("container", base, "mine:1")
        assert len(image.diff_ids) == 2
        layer = store.history("mine:1")[0]
        assert 0 < layer.size < 100_000, "more than the changes are in the layer"
        prepare_layer(snapshots, "copy", image.chain_id)
        copied = snapshots.rootfs("copy").upper
        assert copied is not None
        assert not (copied / "etc/name").exists()
        assert (copied / "big").stat().st_size == 500_000
        assert (copied / "linked").read_text() == "mine"
        assert (copied / "linked").stat().st_ino == (copied / "made/note").stat().st_ino
        assert changes_of(snapshots, "copy") == {}
        store.prune()
        snapshots.remove("copy")
        prepare_layer(snapshots, "copy", image.chain_id)  # the collector may have been there
    finally:
        snapshots.close()


def test_a_layer_with_a_snapshot_of_it_is_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots = BtrfsSnapshotter(tmp_path)
    add_layer(snapshots, "base", None, {"a": "1"})
    add_layer(snapshots, "other", None, {"a": "1"})
    snapshots.prepare("container", "base")
    snapshots.close()
    monkeypatch.setattr(recorded, "boot_id", lambda: "another")
    snapshots = BtrfsSnapshotter(tmp_path)
    assert {each.key for each in snapshots.list()} == {"base", "container"}
    assert changes_of(snapshots, "container") == {}
    snapshots.close()
