# SPDX-License-Identifier: Apache-2.0
"""A disk that is full at any point of what is done to images: a clear error, and nothing left over."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.loops import loop_mounted
from integration.images.store_works import LAYERS, NAME, archive_of, repository
from mooring_agent.errors import MooringError, Unavailable
from mooring_agent.images.build.builder import Builder
from mooring_agent.images.build.errors import BuildFailed
from mooring_agent.images.build.options import BuildOptions
from mooring_agent.images.build.pruning import prune_cache
from mooring_agent.images.build.running import Output, RunRequest
from mooring_agent.images.image import Image, Progress, chain_id, no_progress
from mooring_agent.images.platform import Platform
from mooring_agent.images.registry.settings import Credentials
from mooring_agent.images.turns import Stop
from mooring_agent.storage.choose import open_snapshotter
from mooring_agent.storage.snapshotter import Snapshotter
from unit.images.archives import archive as packed
from unit.images.archives import in_pieces, member
from unit.images.houses import House

pytestmark = pytest.mark.root

SIZES = range(16, 208, 12)  # KiB that are free; the works need about 100
FAILED = (Unavailable, BuildFailed)
CONTEXT = packed(
    member("Dockerfile", data=b"FROM base\nCOPY noise /\nRUN anything\n"), member("noise", data=LAYERS[2])
)
_RESERVE = "reserve"
_PIECES = (1 << 20, 4096)  # bytes


@contextmanager
def tmpfs(place: Path) -> Iterator[Path]:
    """A small file system in memory, where every page counts at once."""
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)], check=True, timeout=20)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=20)


@dataclass(frozen=True)
class Disk:
    """A small file system. On one that copies on write, deleting takes room as well."""

    place: Path
    copies: bool = False

    def leave(self, size: int) -> None:
        """Fill it but for `size` KiB."""
        with (self.place / _RESERVE).open("wb", buffering=0) as file:
            for piece in _PIECES:
                try:
                    while file.write(bytes(piece)) == piece:
                        continue
                except OSError:
                    os.fsync(file)  # what the file system had set aside for it may be more than it takes
            file.truncate(file.tell() - 1024 * size)
            os.fsync(file)


def make_room(place: Path) -> None:
    """Empty a disk but for what is the house's."""
    (place / _RESERVE).unlink(missing_ok=True)
    subprocess.run(["sync", "-f", str(place)], check=True, timeout=60)  # btrfs gives it back only then


@pytest.fixture(params=["tmpfs", "ext4", pytest.param("btrfs", marks=pytest.mark.kernel("btrfs"))])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "disk") as place:
            yield Disk(place)
    elif request.param == "ext4":
        with loop_mounted("ext4", 16 << 20) as place:
            yield Disk(place)
    else:
        with loop_mounted("btrfs", 128 << 20) as place:
            yield Disk(place, copies=True)


def snapshotter(root: Path) -> Snapshotter:
    """The driver that an agent takes there."""
    return open_snapshotter(root, "auto")


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
        raise Unavailable(f"the container's own writing below {house.root}: free some space") from error
    finally:
        make_room(house.root)  # so that the container can go
        house.snapshots.remove("container")


class Writer:
    """Runs any command by writing a file, and fails as one does that cannot."""

    def __init__(self, house: House) -> None:
        self.house = house

    def run(self, request: RunRequest, output: Output, stop: Stop) -> int:
        try:
            (self.house.snapshots.unpack_target(request.key).directory / "ran").write_bytes(LAYERS[0])
        except OSError as error:
            output(2, f"{error}\n".encode())
            return 1
        return 0


class Here:
    """Bases are what the store has."""

    def __init__(self, house: House) -> None:
        self.house = house

    def base(
        self,
        reference: str,
        platform: Platform,
        progress: Progress,
        stop: Stop,
        *,
        pull: bool,
        credentials: Mapping[str, Credentials],
    ) -> Image:
        return self.house.store.get(reference)

    def present(self, reference: str) -> Image | None:
        return self.house.store.get(reference)


def build(house: House, archive: bytes) -> None:
    builder = Builder(house.store.state)
    try:
        builder.build(
            BuildOptions(tags=(NAME,)),
            in_pieces(CONTEXT),
            Writer(house),
            Here(house),
            no_progress,
            threading.Event(),
        )
    finally:
        prune_cache(house.store.state, builder.cache_mounts)  # it may keep what was done so far


def attempt(work: Callable[[House, bytes], None], house: House, archive: bytes) -> str:
    """Do a work; returns what it says if the disk is too small for it."""
    try:
        work(house, archive)
    except FAILED as error:
        return error.message
    return ""


def assert_names_the_disk(message: str, disk: Disk) -> None:
    if "exit code 1" in message:
        assert "No space left on device" in message  # the command's own words
    else:
        assert str(disk.place) in message
        assert "free some space" in message


@pytest.mark.parametrize("work", [pull, load, import_one, commit, build])
def test_a_full_disk(disk: Disk, tmp_path: Path, work: Callable[[House, bytes], None]) -> None:
    archive = archive_of(tmp_path / "archive")
    house = House(disk.place, snapshotter)
    try:
        house.add("base", LAYERS[1])
        failures = 0
        for size in SIZES:
            disk.leave(size)
            message = attempt(work, house, archive)
            if disk.copies:
                make_room(disk.place)
                house.store.state.collect()
            house.check()
            if message:
                failures += 1
                assert_names_the_disk(message, disk)
                assert [image.name for image in house.store.list()] == ["base:latest"]
            else:
                house.store.remove(NAME)
                assert house.snapshots.wait_idle(20)
            make_room(disk.place)
        assert 0 < failures < len(SIZES)
        work(house, archive)
        assert house.store.verify(NAME)[0].sound
    finally:
        house.snapshots.close()


def test_a_full_disk_while_layers_are_unpacked_again(disk: Disk, tmp_path: Path) -> None:
    house = House(disk.place, snapshotter)
    try:
        image = house.store.pull(repository(), NAME)
        failures = 0
        for size in SIZES:
            for count in range(len(image.diff_ids), 0, -1):
                house.snapshots.remove(str(chain_id(image.diff_ids[:count])))
            assert house.snapshots.wait_idle(20)
            disk.leave(size)
            try:
                house.store.ensure_unpacked(image)
            except MooringError as error:
                failures += 1
                assert_names_the_disk(error.message, disk)
            make_room(disk.place)
            house.store.ensure_unpacked(image)
            house.check()
        assert 0 < failures < len(SIZES)
    finally:
        house.snapshots.close()
