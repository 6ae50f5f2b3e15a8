# SPDX-License-Identifier: Apache-2.0
"""An image store with its layers in a directory, which can be opened again and is checked for leftovers."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import Image, chain_id
from mooring_agent.images.store import ImageStore
from mooring_agent.storage.overlay import OverlaySnapshotter
from mooring_agent.storage.snapshotter import SnapshotKind, Snapshotter


@contextmanager
def opened(root: Path) -> Iterator[House]:
    """A house for one test, which leaves it in order."""
    house = House(root)
    try:
        yield house
        house.check()
    finally:
        house.snapshots.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Return an empty store, of which everything is looked at in the end."""
    with opened(tmp_path / "house") as house:
        yield house


@pytest.fixture
def other(tmp_path: Path) -> Iterator[House]:
    """Return another one."""
    with opened(tmp_path / "other") as house:
        yield house


class House:
    """A store over a snapshotter, that of overlay unless `driver` opens another one of a directory."""

    def __init__(self, root: Path, driver: Callable[[Path], Snapshotter] | None = None) -> None:
        self.root = root
        self._driver = driver or (lambda root: OverlaySnapshotter(root / "overlay"))
        self.used: set[str] = set()
        self.open()

    def open(self) -> None:
        self.snapshots = self._driver(self.root)
        try:
            self.store = ImageStore(self.root / "images", self.snapshots, in_use=lambda: self.used)
        except BaseException:
            self.snapshots.close()
            raise

    def reopen(self) -> None:
        self.snapshots.close()
        self.open()

    def expire(self) -> None:
        """Have a day and more go by for what was left to be gone on with."""
        for directory in ("leases", "ingest"):
            for name in os.listdir(self.root / "images" / directory):
                os.utime(self.root / "images" / directory / name, (0, 0))
        self.reopen()

    def add(self, name: str | None, data: bytes, config: ImageConfig | None = None) -> Image:
        return self.store.import_rootfs(io.BytesIO(data), name, config)

    def blobs(self) -> set[str]:
        return set(os.listdir(self.root / "images" / "blobs" / "sha256"))

    def blob(self, digest: str) -> Path:
        return self.root / "images" / "blobs" / "sha256" / digest[7:]

    def document(self, digest: str) -> Any:
        return json.loads(self.blob(digest).read_bytes())

    def index(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads((self.root / "images/index.json").read_text())["manifests"]
        return found

    def check(self) -> None:
        """Nothing is there that no image needs, and everything that one needs, undamaged."""
        needed: set[str] = set()
        for entry in self.index():
            needed.add(entry["digest"])
            manifest = self.document(entry["digest"])
            if "manifests" in manifest:
                digest = entry["annotations"]["mooring.index.manifest"]
                assert digest in {each["digest"] for each in manifest["manifests"]}
                needed.add(digest)
                manifest = self.document(digest)
            needed |= {manifest["config"]["digest"], *(each["digest"] for each in manifest["layers"])}
        assert self.blobs() == {digest[7:] for digest in needed}
        for name in self.blobs():
            data = (self.root / "images/blobs/sha256" / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == name
        assert os.listdir(self.root / "images" / "ingest") == []
        assert os.listdir(self.root / "images" / "leases") == []
        chains = {
            chain_id(image.diff_ids[: count + 1])
            for image in self.store.list()
            for count in range(len(image.diff_ids))
        }
        assert {info.key for info in self.snapshots.list()} == chains
        assert all(info.kind is SnapshotKind.COMMITTED for info in self.snapshots.list())
        assert self.snapshots.wait_idle(20)
