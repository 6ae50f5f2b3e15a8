# SPDX-License-Identifier: Apache-2.0
"""The files that every container has mounted over are made once an image, not once a container."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring_agent.engine.mountpoints import MountPoints

pytestmark = pytest.mark.root


def _layer(base: Path, name: str, *files: str) -> Path:
    layer = base / name
    layer.mkdir()
    for file in files:
        path = layer / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return layer


def test_only_what_the_image_lacks_is_made_with_the_attributes_of_its_etc(tmp_path: Path) -> None:
    lower = _layer(tmp_path, "lower", "etc/hosts", "etc/hostname", "proc/x", "sys/x")
    upper = _layer(tmp_path, "upper", "etc/passwd")
    os.chmod(upper / "etc", 0o751)
    os.chown(upper / "etc", 5, 6)
    os.mknod(upper / "etc/hostname", 0o600 | 0o020000, 0)  # a whiteout

    made = MountPoints(tmp_path / "points").above("sha256:ab", (upper, lower))

    assert made is not None
    assert sorted(str(path.relative_to(made)) for path in made.rglob("*")) == [
        "dev",
        "etc",
        "etc/hostname",
        "etc/resolv.conf",
    ]
    status = (made / "etc").stat()
    assert (status.st_mode & 0o7777, status.st_uid, status.st_gid) == (0o751, 5, 6)


def test_an_opaque_directory_hides_what_is_below_it(tmp_path: Path) -> None:
    lower = _layer(tmp_path, "lower", "etc/hosts", "etc/hostname", "etc/resolv.conf")
    upper = _layer(tmp_path, "upper", "etc/resolv.conf", "dev/x", "proc/x", "sys/x")
    os.setxattr(upper / "etc", "trusted.overlay.opaque", b"y")

    made = MountPoints(tmp_path / "points").above("sha256:ab", (upper, lower))

    assert made is not None
    assert sorted(path.name for path in (made / "etc").iterdir()) == ["hostname", "hosts"]
    assert os.listxattr(made / "etc") == []


def test_an_image_that_has_all_or_whose_etc_is_a_link_gets_none(tmp_path: Path) -> None:
    points = MountPoints(tmp_path / "points")
    whole = _layer(
        tmp_path, "whole", "etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/x", "proc/x", "sys/x"
    )
    linked = _layer(tmp_path, "linked", "dev/x", "proc/x", "sys/x")
    (linked / "etc").symlink_to("/somewhere")

    assert points.above("sha256:01", (whole,)) is None
    assert points.above("sha256:02", (linked,)) is None


def test_layers_of_images_that_are_gone_are_swept_away(tmp_path: Path) -> None:
    points = MountPoints(tmp_path / "points")
    made = points.above("sha256:01", (_layer(tmp_path, "empty", "etc/x"),))
    assert made is not None
    (tmp_path / "points/new-0123").mkdir()

    points.sweep(["sha256:01"])
    assert [path.name for path in (tmp_path / "points").iterdir()] == [made.name]
    points.sweep([])
    assert not made.exists()
