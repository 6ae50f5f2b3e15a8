# SPDX-License-Identifier: Apache-2.0
"""`kill -9` at every stage of what is done to an image store: an image is there wholly or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from integration.images import store_works
from integration.images.store_works import NAME, OTHER, archive_of, prepare, work
from mooring_agent.errors import NotFound
from mooring_agent.failpoints import VARIABLE
from unit.images.houses import House

MODULES = os.pathsep.join(filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH"))))

STAGES = {
    "pull": (
        "images-pull-manifest", "images-pull-chunk:1", "images-pull-chunk:4", "images-pull-chunk:9",
        "images-pull-blob:1", "images-pull-blob:2",
        "images-pull-published:1", "images-pull-published:2",
        "images-pull-unpack:1", "images-pull-unpack:2", "images-pull-drafted:1", "images-pull-drafted:2",
        "images-pull-unpacked:1", "images-pull-unpacked:2", "images-registered",
    ),
    "load": (
        "images-load-read:1", "images-load-read:9", "images-load-adopted:1", "images-load-adopted:2",
        "images-pull-unpack:2", "images-pull-drafted:2", "images-pull-unpacked:1",
        "images-load-unpacked", "images-registered",
    ),
    "import": ("images-layer-published", "images-layer-committed", "images-registered"),
    "commit": (
        "images-layer-published", "images-layer-committed", "images-commit-layer", "images-registered",
    ),
    "remove": (
        "images-removed", "images-collect-blob:1", "images-collect-blob:4",
        "images-collect-layer:1", "images-collect-layer:2",
    ),
    "prune": (
        "images-pruned", "images-collect-blob:1", "images-collect-blob:3", "images-collect-layer:1",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("what", "point"), [(what, point) for what, points in STAGES.items() for point in points]
)
def test_a_kill_leaves_all_or_nothing(tmp_path: Path, what: str, point: str) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(archive_of(tmp_path / "first"))
    house = House(tmp_path / "root")
    prepare(house)
    house.snapshots.close()
    points = tmp_path / "points"
    points.write_text(point)
    done = subprocess.run(
        [sys.executable, store_works.__file__, str(house.root), what, str(archive)],
        env=os.environ | {VARIABLE: str(points), "PYTHONPATH": MODULES},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr

    house.open()
    try:
        try:
            house.store.get(NAME)
        except NotFound:
            pass
        assert all(verdict.sound for verdict in house.store.verify())
        assert house.store.get(OTHER).id in house.used
        house.expire()
        check(house)
        work(house, what, archive.read_bytes())
        house.expire()
        check(house)
    finally:
        house.snapshots.close()


def test_a_killed_pull_goes_on_where_it_was(tmp_path: Path) -> None:
    archive = tmp_path / "archive.tar"
    archive.write_bytes(b"")
    house = House(tmp_path / "root")
    prepare(house)
    house.snapshots.close()
    points = tmp_path / "points"
    points.write_text("images-pull-unpacked:2")
    subprocess.run(
        [sys.executable, store_works.__file__, str(house.root), "pull", str(archive)],
        env=os.environ | {VARIABLE: str(points), "PYTHONPATH": MODULES},
        timeout=60,
        check=False,
    )
    house.open()
    try:
        there = house.blobs()
        repository = store_works.repository()
        house.store.pull(repository, NAME)
        assert not {digest[7:] for digest in repository.sent if digest not in repository.types} & there
        check(house)
    finally:
        house.snapshots.close()


def check(house: House) -> None:
    """The store is in order; the container's own layer is not the store's."""
    house.snapshots.remove("container")
    house.check()
    upper = house.snapshots.prepare("container", house.store.get(OTHER).chain_id).upper
    assert upper is not None
    (upper / "new").write_text("new")
