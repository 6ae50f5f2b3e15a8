# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at any point of what is done to images: a clear error, and nothing left over."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.images.store_works import LAYERS, NAME, archive_of, repository
from mooring_agent.errors import Unavailable
from unit.images.archives import in_pieces
from unit.images.houses import House

pytestmark = pytest.mark.root

SIZES = range(24, 200, 8)  # KiB that are free; the works need about 100
_RESERVE = "reserve"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system of its own."""
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(path)], check=True, timeout=20)
    yield path
    subprocess.run(["umount", str(path)], check=True, timeout=20)


def leave(disk: Path, size: int) -> None:
    """Fill the disk but for `size` KiB."""
    used = int(subprocess.check_output(["df", "-k", "--output=used", str(disk)]).split()[-1])
    (disk / _RESERVE).write_bytes(bytes(1024 * (2048 - used - size)))


def pull(house: House, archive: bytes) -> None:
    house.store.pull(repository(), NAME)


def load(house: House, archive: bytes) -> None:
    house.store.load(in_pieces(archive))


def import_one(house: House, archive: bytes) -> None:
    house.add(NAME, LAYERS[2])


def commit(house: House, archive: bytes) -> None:
    house.snapshots.prepare("container", house.store.get("base").chain_id)
    try:
        upper = house.snapshots.rootfs("container").upper
        assert upper is not None
        (upper / "new").write_bytes(LAYERS[0])
        house.store.commit("container", house.store.get("base"), NAME)
    except OSError as error:
        raise Unavailable("the container's own writing: free some space") from error
    finally:
        (house.root / _RESERVE).unlink(missing_ok=True)  # so that the container can go
        house.snapshots.remove("container")


def attempt(work: Callable[[House, bytes], None], house: House, archive: bytes) -> str:
    """Do a work; returns what it says if the disk is too small for it."""
    try:
        work(house, archive)
    except Unavailable as error:
        return error.message
    return ""


@pytest.mark.parametrize("work", [pull, load, import_one, commit])
def test_a_full_disk(disk: Path, tmp_path: Path, work: Callable[[House, bytes], None]) -> None:
    archive = archive_of(tmp_path / "elsewhere")
    house = House(disk)
    house.add("base", LAYERS[1])
    failures = 0
    try:
        for size in SIZES:
            leave(disk, size)
            message = attempt(work, house, archive)
            assert house.snapshots.wait_idle(20)
            house.check()
            if message:
                failures += 1
                assert "free some space" in message
                assert [image.name for image in house.store.list()] == ["base:latest"]
            else:
                house.store.remove(NAME)
                assert house.snapshots.wait_idle(20)
            (disk / _RESERVE).unlink(missing_ok=True)
        assert 0 < failures < len(SIZES)
        work(house, archive)
        assert house.store.verify(NAME)[0].sound
    finally:
        house.snapshots.close()
