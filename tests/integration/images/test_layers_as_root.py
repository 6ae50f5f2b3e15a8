# SPDX-License-Identifier: Apache-2.0
"""What of layers needs root: owners, devices, capabilities, and whiteouts seen through overlay."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.storage.mounts import mounted
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.archive import archive_directory
from mooring_agent.images.image import chain_id
from mooring_agent.images.layers import apply_layer
from mooring_agent.storage.overlay import OverlaySnapshotter
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle
from unit.images.archives import archive, directory, in_pieces, link, member

pytestmark = pytest.mark.root

CAPABILITY = bytes.fromhex(
    "0100000200040000000000000000000000000000"
)  # vfs_cap_data: cap_net_bind_service+ep


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[OverlaySnapshotter]:
    snapshots = OverlaySnapshotter(tmp_path / "overlay")
    yield snapshots
    snapshots.close()


def add(snapshots: OverlaySnapshotter, name: str, parent: str | None, *members: bytes) -> None:
    snapshots.prepare("extract", parent, temporary=True)
    apply_layer(in_pieces(archive(*members)), snapshots.unpack_target("extract"))
    snapshots.commit("extract", name)


def test_owners_devices_and_attributes(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    data = archive(
        directory("d", uid=3_000_000_000, gid=7, mode=0o2775, xattrs={b"user.kept": b"\0\xff binary"}),
        member(
            "d/program", data=b"x", uid=5, gid=6, mode=0o6755, xattrs={b"security.capability": CAPABILITY}
        ),
        member("null", tar.CHARACTER, device=(1, 3), mode=0o666, uid=0, gid=9),
        member("disk", tar.BLOCK_DEVICE, device=(259, 70_000), mode=0o660),
        link("link", "nowhere", uid=11, gid=12, xattrs={b"trusted.kept": b"1"}, mtime_ns=10**18),
        member("labelled", xattrs={b"security.selinux": b"host:label", b"trusted.overlay.redirect": b"/etc"}),
    )
    apply_layer(in_pieces(data), UnpackTarget(first, WhiteoutStyle.OVERLAY, ()))
    status = (first / "d").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (3_000_000_000, 7, 0o2775)
    status = (first / "d/program").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (5, 6, 0o6755)
    assert os.getxattr(first / "d/program", "security.capability") == CAPABILITY
    assert os.getxattr(first / "d", "user.kept") == b"\0\xff binary"
    status = (first / "null").stat()
    assert stat.S_ISCHR(status.st_mode)
    assert (os.major(status.st_rdev), os.minor(status.st_rdev), status.st_gid) == (1, 3, 9)
    assert os.minor((first / "disk").stat().st_rdev) == 70_000
    assert (first / "link").lstat().st_uid == 11
    assert (first / "link").lstat().st_mtime_ns == 10**18
    assert os.getxattr(first / "link", "trusted.kept", follow_symlinks=False) == b"1"
    assert os.listxattr(first / "labelled") == []
    again = b"".join(archive_directory(first))
    apply_layer(in_pieces(again), UnpackTarget(second, WhiteoutStyle.OVERLAY, ()))
    assert b"".join(archive_directory(second)) == again


def test_whiteouts_hide_what_is_below(snapshots: OverlaySnapshotter) -> None:
    add(
        snapshots, "base", None,
        directory("etc"), member("etc/gone", data=b"1"), member("etc/kept", data=b"1"),
        directory("opaque"), member("opaque/old", data=b"1"),
        directory("replaced"), member("replaced/old", data=b"1"),
        directory("late"), member("late/old", data=b"1"),
        directory("tree"), directory("tree/below"), member("tree/below/file", data=b"1"),
        member("file-becomes-directory", data=b"1"),
        member("swapped", data=b"old"),
    )  # fmt: skip
    add(
        snapshots, "top", "base",
        member("etc/.wh.gone"),
        directory("opaque"), member("opaque/.wh..wh..opq"), member("opaque/new", data=b"2"),
        member(".wh.replaced"), directory("replaced"), member("replaced/new", data=b"2"),
        directory("late"), member("late/new", data=b"2"), member(".wh.late"),
        member(".wh.tree"), member(".wh.never-there"),
        member("file-becomes-directory/inside", data=b"2"),
        member(".wh..wh.plnk", data=b"aufs"),
        member("swapped", data=b"new"), member(".wh.swapped"),
    )  # fmt: skip
    rootfs = snapshots.prepare("container", "top")
    assert mounted(rootfs, "find . -type f | sort; cat swapped").split() == [
        "./etc/kept",
        "./file-becomes-directory/inside",
        "./late/new",
        "./opaque/new",
        "./replaced/new",
        "./swapped",
        "new",
    ]


def test_directories_that_a_layer_does_not_list_stay_as_they_were(snapshots: OverlaySnapshotter) -> None:
    add(
        snapshots, "base", None,
        directory("home", uid=1, gid=2, mode=0o700, mtime_ns=10**18),
        directory("home/me", uid=1000, gid=1000, mode=0o1770, mtime_ns=2 * 10**18),
        link("way", "home"),
    )  # fmt: skip
    add(snapshots, "top", "base", member("home/me/deep/file", data=b"x"), member("way/file", data=b"y"))
    rootfs = snapshots.prepare("container", "top")
    assert mounted(rootfs, "stat -c '%a %u %g %Y' home home/me") == (
        "700 1 2 1000000000\n1770 1000 1000 2000000000\n"
    )


def test_the_changes_of_a_container_become_a_layer(snapshots: OverlaySnapshotter) -> None:
    add(
        snapshots, "base", None,
        directory("etc"), member("etc/a", data=b"1"), member("etc/b", data=b"1"),
        directory("tree"), member("tree/old", data=b"1"),
        directory("gone"), member("gone/file", data=b"1"),
    )  # fmt: skip
    rootfs = snapshots.prepare("container", "base")
    mounted(
        rootfs,
        "echo 2 > etc/b; echo 3 > etc/c; rm etc/a; rm -r gone tree; mkdir tree; echo 2 > tree/new;"
        "ln etc/c etc/hard; ln -s c etc/soft; mkfifo fifo; mknod null c 1 3; mv etc/b moved",
    )
    show = "find . -mindepth 1 | sort | xargs stat -c '%N %F %a %s %h'; cat tree/new etc/c moved"
    seen = mounted(rootfs, show)
    layer = b"".join(archive_directory(snapshots.unpack_target("container").directory, overlay=True))
    snapshots.prepare("extract", "base", temporary=True)
    apply_layer(in_pieces(layer), snapshots.unpack_target("extract"))
    snapshots.commit("extract", "committed")
    assert mounted(snapshots.prepare("copy", "committed"), show) == seen
    for name in (b"etc/.wh.a", b".wh.gone", b"tree/.wh..wh..opq"):
        assert name in layer
    assert b"trusted.overlay" not in layer


def test_the_same_changes_in_both_styles(snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
    base = archive(
        directory("a"), member("a/one", data=b"1"), member("a/two", data=b"2"), directory("b"), member("b/x")
    )
    top = archive(
        member("a/.wh.one"),
        member("a/three", data=b"3"),
        directory("b"),
        member("b/.wh..wh..opq"),
        member("b/y"),
    )
    parent = None
    flat = tmp_path / "flat"
    flat.mkdir()
    for number, data in enumerate((base, top)):
        snapshots.prepare("extract", parent, temporary=True)
        diff_id = apply_layer(in_pieces(data), snapshots.unpack_target("extract")).diff_id
        name = chain_id([parent, diff_id] if parent else [diff_id])
        assert name is not None
        snapshots.commit("extract", name)
        parent = name
        assert (
            apply_layer(in_pieces(data), UnpackTarget(flat, WhiteoutStyle.DELETE, ())).diff_id == diff_id
        ), number
    listing = "find . | sort"
    view = mounted(snapshots.prepare("container", parent), listing)
    assert view.split() == sorted(["."] + [f"./{path.relative_to(flat)}" for path in flat.rglob("*")])
