# SPDX-License-Identifier: Apache-2.0
"""Small images, made in memory, to push and to pull."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mooring_agent.images.content import MEDIA_CONFIG, MEDIA_LAYER, MEDIA_MANIFEST, Descriptor
from mooring_agent.images.platform import host_architecture

MEDIA_LAYER_GZIP = f"{MEDIA_LAYER}+gzip"


@dataclass(frozen=True, slots=True)
class MadeImage:
    """An image in memory: its manifest's bytes, and blobs by digest."""

    manifest: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    blobs: dict[str, bytes]

    @property
    def digest(self) -> str:
        """That of the manifest."""
        return digest_of(self.manifest)

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        """Of everything that the manifest names."""
        return (*self.layers, self.config)


def make_image(*files: dict[str, bytes]) -> MadeImage:
    """An image for this host with a layer for each mapping from names to contents."""
    archives = [_archive(layer) for layer in files]
    packed = [gzip.compress(archive, compresslevel=1, mtime=0) for archive in archives]
    layers = tuple(describe(blob, MEDIA_LAYER_GZIP) for blob in packed)
    config = json.dumps(
        {
            "architecture": host_architecture(),
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(archive) for archive in archives]},
        }
    ).encode()
    described = describe(config, MEDIA_CONFIG)
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_MANIFEST,
            "config": described.to_json(),
            "layers": [layer.to_json() for layer in layers],
        }
    ).encode()
    blobs = {digest_of(blob): blob for blob in (*packed, config)}
    return MadeImage(manifest, described, layers, blobs)


def describe(data: bytes, media_type: str = MEDIA_LAYER) -> Descriptor:
    """The descriptor of some bytes."""
    return Descriptor(media_type, digest_of(data), len(data))


def opener(data: bytes, piece: int = 1 << 20) -> Callable[[int], Iterator[bytes]]:
    """What a push reads a blob with."""

    def open_chunks(offset: int) -> Iterator[bytes]:
        for start in range(offset, len(data), piece):
            yield data[start : start + piece]

    return open_chunks


def digest_of(data: bytes) -> str:
    """`sha256:…`."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _archive(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()
