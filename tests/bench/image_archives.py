# SPDX-License-Identifier: Apache-2.0
"""Layers made for a measurement, and the archives in which the engines take them."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.rootfs import write_busybox_rootfs

KINDS = ("small files", "big files")
_SMALL_FILES = 10_000
_MEAN = 16_000  # bytes of a small file, as in a Debian base system
_BIG_FILES = 10
_BIG = 50_000_000
_BIG_NAME = 1 << 16
_KIND = "application/vnd.oci.image"


@dataclass(frozen=True)
class Layer:
    """One layer: its file, plain or packed, and what is known of the plain archive."""

    path: Path
    name: str
    diff_id: str
    size: int
    gzip: bool

    def docker_archive(self) -> Path:
        """An archive as `docker save` writes it, of a plain layer; made once."""
        target = self.path.with_suffix(".docker")
        if target.exists():
            return target
        config = _config([self.diff_id])
        name = f"{hashlib.sha256(config).hexdigest()}.json"
        manifest = [{"Config": name, "RepoTags": [f"{self.name}:1"], "Layers": ["layer/layer.tar"]}]
        with tarfile.open(target, "w") as archive:
            add_file(archive, name, config)
            add_file(archive, "layer/VERSION", b"1.0")
            archive.add(self.path, "layer/layer.tar")
            add_file(archive, "manifest.json", json.dumps(manifest).encode())
        return target

    def oci_layout(self) -> Path:
        """An OCI image layout with the image `latest`, of a packed layer; made once."""
        root = self.path.with_suffix(".oci")
        if root.exists():
            return root
        return write_layout(root, [(self.diff_id, self.path.read_bytes())])

    def forget(self) -> None:
        """Delete the archives; a few big files, so that nobody's work is slowed down."""
        self.path.unlink()
        self.path.with_suffix(".docker").unlink(missing_ok=True)
        shutil.rmtree(self.path.with_suffix(".oci"), ignore_errors=True)


def make(directory: Path, kind: str, number: int, *, gzip: bool) -> Layer:
    """Make a layer of 10,000 small files (some 160 MB) or of ten big ones (500 MB); half packs well."""
    directory.mkdir(exist_ok=True)
    name = f"bench-{kind.split()[0]}-{'gz' if gzip else 'plain'}-{number}"
    plain = directory / f"{name}.tar"
    source = random.Random(f"{kind} {number}")
    with tarfile.open(plain, "w", format=tarfile.PAX_FORMAT) as archive:
        if kind == KINDS[0]:
            _small_files(archive, source)
        else:
            for place in range(_BIG_FILES):
                pieces = [_content(source, _BIG_NAME) for _ in range(_BIG // _BIG_NAME // 8)]
                add_file(archive, f"big/{place}", b"".join(pieces * 8))
    digest = hashlib.sha256()
    with plain.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    size = plain.stat().st_size
    if gzip:
        subprocess.run(["gzip", "-1", str(plain)], check=True, timeout=120)
        plain = plain.with_name(f"{plain.name}.gz")
    return Layer(plain, name, f"sha256:{digest.hexdigest()}", size, gzip)


def busybox(directory: Path) -> Path:
    """A small root file system."""
    return write_busybox_rootfs(directory / "busybox.tar")


def _small_files(archive: tarfile.TarFile, source: random.Random) -> None:
    for place in range(_SMALL_FILES):
        if place % 12 == 0:
            member = tarfile.TarInfo(f"usr/share/directory{place // 12}")
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        size = min(int(source.expovariate(1 / _MEAN)), 20 * _MEAN)
        add_file(archive, f"usr/share/directory{place // 12}/file{place}", _content(source, size))


def _content(source: random.Random, size: int) -> bytes:
    half = size // 2
    word = source.randbytes(24)
    return source.randbytes(size - half) + (word * (half // len(word) + 1))[:half]


def write_layout(root: Path, layers: Iterable[tuple[str, bytes]]) -> Path:
    """Write an OCI image layout with the image `latest`; a layer is its diff ID and what gzip made of it."""
    (root / "blobs/sha256").mkdir(parents=True)
    diff_ids, descriptors = [], []
    for diff_id, packed in layers:
        diff_ids.append(diff_id)
        descriptors.append(_blob(root, f"{_KIND}.layer.v1.tar+gzip", packed))
    body = {
        "schemaVersion": 2,
        "mediaType": f"{_KIND}.manifest.v1+json",
        "config": _blob(root, f"{_KIND}.config.v1+json", _config(diff_ids)),
        "layers": descriptors,
    }
    manifest = _blob(root, f"{_KIND}.manifest.v1+json", json.dumps(body).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "latest"}
    (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (root / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "1.0.0"}))
    return root


def _config(diff_ids: Sequence[str]) -> bytes:
    config: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created_by": "script/bench images"} for _ in diff_ids],
    }
    return json.dumps(config).encode()


def _blob(root: Path, media_type: str, data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    (root / "blobs/sha256" / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def add_file(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file of the mode 644, which is TarInfo's own."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))
