# SPDX-License-Identifier: Apache-2.0
"""Images as a tar archive: an OCI layout, and beside it the manifest.json that `docker load` reads.

It is what Docker 25 and later write, so older ones, podman and skopeo (docker-archive: and oci-archive:) read
it too. The same images give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.content import MEDIA_INDEX, ContentStore, Descriptor
from mooring_agent.images.image import Image
from mooring_agent.images.manifests import Manifest
from mooring_agent.images.reference import Reference
from mooring_agent.images.state import StoreState
from mooring_agent.images.tar_writer import END, member_header, padding

_LAYOUT = {"imageLayoutVersion": "1.0.0"}


@dataclass(frozen=True, slots=True)
class Saved:
    """One image to write: its manifest and the long names that it has in the archive."""

    manifest: Manifest
    names: tuple[str, ...]


def select(state: StoreState, references: Sequence[str], get: Callable[[str], Image]) -> list[Saved]:
    """What is meant by names and IDs, each image once; called with the store's lock held."""
    manifests: dict[str, Manifest] = {}
    names: dict[str, list[str]] = {}
    for reference in references:
        meant: list[str | None] = list(_meant(state, reference))
        for name in meant or [None]:
            holding = state.holdings.by_name(name) if name is not None else None
            if holding is None:
                holding = state.holdings.of_image(get(reference).id)[-1]
            digest = holding.manifest.descriptor.digest
            manifests[digest] = holding.manifest
            names.setdefault(digest, []).extend([name] if name is not None else [])
    return [Saved(manifest, tuple(dict.fromkeys(names[digest]))) for digest, manifest in manifests.items()]


def _meant(state: StoreState, reference: str) -> list[str]:
    """The long names that a word stands for; none if it is an ID."""
    try:
        wanted = Reference.parse(reference)
    except InvalidSpec:
        return []
    exact = str(wanted)
    if exact.rpartition("/")[2] == reference.rpartition("/")[2] or wanted.digest is not None:
        return [exact] if state.holdings.by_name(exact) is not None else []
    return [
        name
        for image in state.holdings.catalogue.images()
        for name in image.references
        if Reference.parse(name).repository == wanted.repository
    ]


def write_archive(content: ContentStore, images: Sequence[Saved], *, docker: bool) -> Iterator[bytes]:
    """Yield the archive; with `docker` it has a manifest.json. Raises Unavailable for a damaged blob."""
    written: set[str] = set()
    yield member_header(tar.TarEntry(b"blobs/", tar.DIRECTORY, mode=0o755))
    yield member_header(tar.TarEntry(b"blobs/sha256/", tar.DIRECTORY, mode=0o755))
    for image in images:
        for blob in (image.manifest.descriptor, image.manifest.config, *image.manifest.layers):
            if blob.digest not in written:
                written.add(blob.digest)
                yield member_header(_file(_path(blob), blob.size))
                yield from content.chunks(blob)
                yield padding(blob.size)
    yield from _document("index.json", _index(images))
    if docker:
        yield from _document("manifest.json", [_docker_entry(image) for image in images])
    yield from _document("oci-layout", _LAYOUT)
    yield END


def _index(images: Sequence[Saved]) -> dict[str, Any]:
    entries: list[Descriptor] = []
    for image in images:
        bare = replace(image.manifest.descriptor, annotations={}, platform=None)
        named = [replace(bare, annotations=_annotations(name)) for name in image.names]
        entries += named or [bare]
    return {
        "schemaVersion": 2,
        "mediaType": MEDIA_INDEX,
        "manifests": [entry.to_json() for entry in entries],
    }


def _annotations(name: str) -> dict[str, str]:
    tag = Reference.parse(name).tag
    found = {"io.containerd.image.name": name}
    return found | ({"org.opencontainers.image.ref.name": tag} if tag else {})


def _docker_entry(image: Saved) -> dict[str, Any]:
    tags = [Reference.parse(name).familiar for name in image.names if Reference.parse(name).tag]
    return {
        "Config": _path(image.manifest.config),
        "RepoTags": tags or None,
        "Layers": [_path(layer) for layer in image.manifest.layers],
    }


def _document(name: str, value: object) -> Iterator[bytes]:
    data = json.dumps(value, separators=(",", ":")).encode()
    yield member_header(_file(name, len(data)))
    yield data + padding(len(data))


def _file(name: str, size: int) -> tar.TarEntry:
    return tar.TarEntry(name.encode(), tar.REGULAR, mode=0o644, size=size, stored=size)


def _path(blob: Descriptor) -> str:
    return f"blobs/sha256/{blob.digest[7:]}"
