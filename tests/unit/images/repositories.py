# SPDX-License-Identifier: Apache-2.0
"""Repositories in memory that images are pulled from and pushed to, and images to put into them."""

from __future__ import annotations

import gzip
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from mooring_agent.errors import NotFound, Unavailable
from mooring_agent.images.content import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    Descriptor,
    digest_of,
)
from mooring_agent.images.manifests import DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST
from mooring_agent.images.platform import host_architecture
from unit.images.archives import archive, member

CHUNK = 1000


def describe(media_type: str, data: bytes, **more: Any) -> Descriptor:
    return Descriptor(media_type, digest_of(data), len(data), **more)


def layer(number: int, size: int = 5000) -> bytes:
    """A layer of one file whose content does not pack, another one for each number."""
    seed = hashlib.sha256(b"%d" % number).digest()
    noise = b"".join(hashlib.sha256(seed + b"%d" % block).digest() for block in range(size // 32))
    return archive(member(f"file-{number}", data=noise))


def to_json(value: Any) -> bytes:
    return json.dumps(value, indent=1).encode()


@dataclass
class Built:
    """An image as bytes: what a registry has of it."""

    manifest: Descriptor
    blobs: dict[str, bytes]
    config: Descriptor
    layers: tuple[Descriptor, ...]


def build(
    *layers: bytes,
    docker: bool = False,
    pack: Callable[[bytes], bytes] = lambda data: gzip.compress(data, 1, mtime=0),
    architecture: str | None = None,
    runtime: dict[str, Any] | None = None,
    **changed: Any,
) -> Built:
    """An image of the given layers; `changed` replaces fields of the manifest."""
    document = {
        "architecture": architecture or host_architecture(),
        "os": "linux",
        "created": "2024-05-06T07:08:09.123456789Z",
        "config": runtime or {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
        "history": [{"created_by": f"step {number}"} for number in range(len(layers))],
    }
    body = to_json(document)
    packed = [pack(data) for data in layers]
    kind = "application/vnd.docker.image.rootfs.diff.tar.gzip" if docker else f"{MEDIA_LAYER}+gzip"
    descriptors = tuple(describe(kind, data) for data in packed)
    config_descriptor = describe(DOCKER_CONFIG if docker else MEDIA_CONFIG, body)
    media_type = DOCKER_MANIFEST if docker else MEDIA_MANIFEST
    manifest = to_json(
        {
            "schemaVersion": 2,
            "mediaType": media_type,
            "config": config_descriptor.to_json(),
            "layers": [each.to_json() for each in descriptors],
        }
        | changed
    )
    blobs = {digest_of(data): data for data in (body, manifest, *packed)}
    return Built(describe(media_type, manifest), blobs, config_descriptor, descriptors)


def index_of(*entries: Descriptor, docker: bool = False, **more: Any) -> tuple[Descriptor, bytes]:
    media_type = DOCKER_LIST if docker else MEDIA_INDEX
    body = to_json(
        {"schemaVersion": 2, "mediaType": media_type, "manifests": [each.to_json() for each in entries]}
        | more
    )
    return describe(media_type, body), body


@dataclass
class Repository:
    """What a registry has under one name; counts what is fetched, and fails as told."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    others: dict[str, Repository] = field(default_factory=dict)  # that blobs are mounted from
    sent: Counter[str] = field(default_factory=Counter)  # bytes by digest that went out
    received: Counter[str] = field(default_factory=Counter)
    breaks: dict[str, list[int]] = field(default_factory=dict)  # digest → bytes after which it breaks off
    damaged: set[str] = field(default_factory=set)  # digests whose last byte is another
    gates: dict[str, threading.Event] = field(default_factory=dict)  # digest → set before its last chunk goes
    reached: dict[str, threading.Event] = field(default_factory=dict)  # digest → set when that waits
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, built: Built, *tags: str) -> Built:
        self.blobs |= built.blobs
        self.types[built.manifest.digest] = built.manifest.media_type
        self.tags |= dict.fromkeys(tags, built.manifest.digest)
        return built

    def add_index(self, found: tuple[Descriptor, bytes], *tags: str) -> Descriptor:
        descriptor, body = found
        self.blobs[descriptor.digest] = body
        self.types[descriptor.digest] = descriptor.media_type
        self.tags |= dict.fromkeys(tags, descriptor.digest)
        return descriptor

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        digest = self.tags.get(reference, reference)
        if digest not in self.types:
            raise NotFound(f"no manifest {reference}")
        with self.lock:
            self.sent[digest] += len(self.blobs[digest])
        return Descriptor(self.types[digest], digest, len(self.blobs[digest])), self.blobs[digest]

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        data = self.blobs.get(descriptor.digest)
        if data is None:
            raise NotFound(f"no blob {descriptor.digest}")
        if descriptor.digest in self.damaged:
            data = data[:-1] + bytes([data[-1] ^ 1])
        limits = self.breaks.get(descriptor.digest, [])
        limit = limits.pop(0) if limits else len(data)
        for start in range(offset, len(data), CHUNK):
            chunk = data[start : min(start + CHUNK, offset + limit)]
            if start + CHUNK >= len(data) and descriptor.digest in self.gates:
                self.reached.setdefault(descriptor.digest, threading.Event()).set()
                assert self.gates[descriptor.digest].wait(30)
            if chunk:
                with self.lock:
                    self.sent[descriptor.digest] += len(chunk)
                yield chunk
            if start + len(chunk) >= offset + limit < len(data):
                raise Unavailable("the registry closed the connection")

    def mistrust(self, digest: str) -> bool:
        return False

    def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    def mount_blob(self, digest: str, from_repository: str) -> bool:
        other = self.others.get(from_repository)
        if other is None or digest not in other.blobs:
            return False
        self.blobs[digest] = other.blobs[digest]
        return True

    def push_blob(self, descriptor: Descriptor, open_chunks: Callable[[int], Iterator[bytes]]) -> None:
        data = b"".join(open_chunks(0))
        assert digest_of(data) == descriptor.digest
        with self.lock:
            self.received[descriptor.digest] += len(data)
            self.blobs[descriptor.digest] = data

    def push_manifest(self, reference: str, media_type: str, body: bytes) -> str:
        digest = digest_of(body)
        document = json.loads(body)
        for each in (document["config"], *document["layers"]):
            assert each["digest"] in self.blobs, "a manifest comes after what it names"
        self.blobs[digest], self.types[digest] = body, media_type
        if not reference.startswith("sha256:"):
            self.tags[reference] = digest
        return digest
