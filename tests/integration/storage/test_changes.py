# SPDX-License-Identifier: Apache-2.0
"""What a container did to its files, told alike by both drivers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.storage.mounts import mounted
from mooring_agent.storage.btrfs import BtrfsSnapshotter
from mooring_agent.storage.overlay import OverlaySnapshotter
from mooring_agent.storage.snapshotter import Snapshotter
from unit.storage.snapshotter_contract import add_layer, changes_of, hide

pytestmark = pytest.mark.root


@pytest.fixture(params=["overlay", pytest.param("btrfs", marks=pytest.mark.kernel("btrfs"))])
def snapshots(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Snapshotter]:
    """Each driver on a file system that it is for, with the image `image` of three layers."""
    snapshots: Snapshotter
    if request.param == "overlay":
        snapshots = OverlaySnapshotter(tmp_path / "overlay")
    else:
        root = request.getfixturevalue("btrfs_root")
        snapshots = BtrfsSnapshotter(Path(tempfile.mkdtemp(dir=root)))
    files = {"etc/a": "1", "etc/b": "2", "usr/share/doc/x": "3", "var/lib/y": "4", "var/z": "5"}
    add_layer(snapshots, "base", None, files)
    add_layer(snapshots, "middle", "base", {"etc/c": "1", "opt/one": "2", "usr/share/doc/y": "3"})
    snapshots.prepare("extract", "middle", temporary=True)
    target = snapshots.unpack_target("extract").directory
    (target / "etc").mkdir(exist_ok=True)
    hide(snapshots, "extract", "etc/b")
    snapshots.commit("extract", "image")
    yield snapshots
    snapshots.close()


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("cat etc/a usr/share/doc/x; ls -R", {}),
        ("echo x >>etc/a", {"etc": "modified", "etc/a": "modified"}),
        (
            "chmod 600 usr/share/doc/x",
            {
                "usr": "modified",
                "usr/share": "modified",
                "usr/share/doc": "modified",
                "usr/share/doc/x": "modified",
            },
        ),
        ("touch etc/new; rm etc/new", {"etc": "modified"}),
        ("rm etc/c", {"etc": "modified", "etc/c": "deleted"}),
        ("echo back >etc/b", {"etc": "modified", "etc/b": "added"}),
        ("rm -r usr/share", {"usr": "modified", "usr/share": "deleted"}),
        (
            "rm -r usr/share/doc; mkdir usr/share/doc; echo new >usr/share/doc/y",
            {
                "usr": "modified",
                "usr/share": "modified",
                "usr/share/doc": "modified",
                "usr/share/doc/x": "deleted",
                "usr/share/doc/y": "modified",
            },
        ),
        (
            "rm -r var/lib; ln -s /tmp var/lib; mv var/z var/zz",
            {"var": "modified", "var/lib": "modified", "var/z": "deleted", "var/zz": "added"},
        ),
        ("rm var/z; mkdir -p var/z/in", {"var": "modified", "var/z": "modified", "var/z/in": "added"}),
        ("ln etc/a etc/hard", {"etc": "modified", "etc/a": "modified", "etc/hard": "added"}),
        (
            "mkdir run; mkfifo run/pipe; ln -s nowhere link",
            {"run": "added", "run/pipe": "added", "link": "added"},
        ),
        ("chmod 700 opt", {"opt": "modified"}),
        ("""python3 -c 'import os; os.setxattr("opt", "user.k", b"v")'""", {"opt": "modified"}),
        ("touch gone; rm gone; chmod 711 .", {}),
    ],
)
def test_changes_of_a_container(snapshots: Snapshotter, script: str, expected: dict[str, str]) -> None:
    mounted(snapshots.prepare("container", "image"), script)
    assert changes_of(snapshots, "container") == expected
    assert snapshots.usage("container").inodes <= len(expected)
    snapshots.commit("container", "derived")
    assert changes_of(snapshots, "derived") == expected
    assert changes_of(snapshots, "image") == {"etc": "modified", "etc/b": "deleted"}
