# SPDX-License-Identifier: Apache-2.0
"""The images of an archive: of an OCI layout, or of the manifest.json of `docker save`, or of both."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.images.archives.members import Member, Members
from mooring_agent.images.content import (
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_MANIFEST,
    Descriptor,
    digest_of,
)
from mooring_agent.images.ingest import LAYER_TYPES
from mooring_agent.images.manifests import Index, is_image, parse_manifest
from mooring_agent.images.reference import Reference
from mooring_agent.images.stream import CHUNK, detect

_CONTAINERD_NAME = "io.containerd.image.name"  # what containerd, docker and buildx write: a whole name
_REFERENCE = "org.opencontainers.image.ref.name"  # image-spec, annotations.md: a tag, or a whole name
_MAX_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class Archived:
    """One image of an archive: the digest of its manifest or index, and its long names."""

    digest: str
    names: tuple[str, ...]


class ArchiveSource:
    """An archive as a source of images: their documents, and where the files of their blobs are."""

    def __init__(self, members: Members) -> None:
        """Find the images; raises InvalidSpec for an archive that is damaged or has none."""
        self._members = members
        self._documents: dict[str, tuple[Descriptor, bytes]] = {}
        self.tags_by_config: dict[str, tuple[str, ...]] = {}
        entries = self._docker_entries() if "manifest.json" in members else []
        if "oci-layout" in members and "index.json" in members:
            self.images = self._of_layout()
            for entry in entries:
                member = members.get(_config(entry))
                self.tags_by_config[member.digest] = _tags(entry)
        elif entries:
            self.images = tuple(self._of_docker(entry) for entry in entries)
        else:
            old = " (it is from a Docker before 1.10)" if "repositories" in members else ""
            raise InvalidSpec(
                f"the archive has neither manifest.json nor an OCI layout{old}: expected one of 'docker "
                "save', or an OCI archive"
            )

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return a manifest or index by its digest."""
        found = self._documents.get(reference)
        if found is not None:
            return found
        member = self.file(reference)
        body = self._members.document(f"blobs/sha256/{member.digest[7:]}")
        return Descriptor("", member.digest, len(body)), body

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob."""
        with open(self.file(descriptor.digest).path, "rb") as file:
            file.seek(offset)
            while chunk := file.read(CHUNK):
                yield chunk

    def mistrust(self, digest: str) -> bool:
        """False: there is no other place."""
        return False

    def file(self, digest: str) -> Member:
        """The file that holds the bytes of a digest, which was verified; raises NotFound."""
        member = self._members.by_digest(digest)
        if member is None:
            raise NotFound(f"the archive has no blob {digest}, which an image in it needs: it is incomplete")
        return member

    def _of_layout(self) -> tuple[Archived, ...]:
        body = self._members.document("index.json")
        index = parse_manifest(body, Descriptor(MEDIA_INDEX, digest_of(body), len(body)))
        if not isinstance(index, Index) or len(index.manifests) > _MAX_IMAGES:
            raise InvalidSpec(f"index.json in the archive is no index of at most {_MAX_IMAGES} images")
        names: dict[str, list[str]] = {}
        for entry in index.manifests:
            if not is_image(entry):
                continue
            self._documents[entry.digest] = (
                replace(entry, annotations={}),
                self._members.document(f"blobs/sha256/{entry.digest[7:]}"),
            )
            names.setdefault(entry.digest, []).extend(_names(entry))
        if not names:
            raise InvalidSpec("the archive has no image: index.json names none")
        return tuple(Archived(digest, tuple(dict.fromkeys(found))) for digest, found in names.items())

    def _docker_entries(self) -> list[dict[str, Any]]:
        try:
            found = json.loads(self._members.document("manifest.json"))
        except (ValueError, RecursionError) as error:
            raise InvalidSpec(f"manifest.json in the archive is no JSON ({str(error)[:200]})") from None
        if (
            not isinstance(found, list)
            or len(found) > _MAX_IMAGES
            or not all(isinstance(entry, dict) for entry in found)
        ):
            raise InvalidSpec(f"manifest.json in the archive is no list of at most {_MAX_IMAGES} images")
        return found

    def _of_docker(self, entry: dict[str, Any]) -> Archived:
        """Make a manifest for an image that is told by its configuration and its layers."""
        config = self._members.get(_config(entry))
        layers = entry.get("Layers") or []
        if not isinstance(layers, list) or not all(isinstance(name, str) for name in layers):
            raise InvalidSpec("manifest.json in the archive has an image whose Layers are no list of names")
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_MANIFEST,
                "config": Descriptor(MEDIA_CONFIG, config.digest, config.size).to_json(),
                "layers": [_layer(self._members.get(name)).to_json() for name in layers],
            },
            separators=(",", ":"),
        ).encode()
        descriptor = Descriptor(MEDIA_MANIFEST, digest_of(body), len(body))
        self._documents[descriptor.digest] = descriptor, body
        return Archived(descriptor.digest, _tags(entry))


def _layer(member: Member) -> Descriptor:
    with open(member.path, "rb") as file:
        media_type = LAYER_TYPES.get(detect(file.read(6)))
    if media_type is None:
        raise InvalidSpec(
            f"layer {member.digest} in the archive is packed with bzip2 or xz: expected tar, gzip or zstd"
        )
    return Descriptor(media_type, member.digest, member.size)


def _config(entry: dict[str, Any]) -> str:
    name = entry.get("Config")
    if not isinstance(name, str) or not name:
        raise InvalidSpec("manifest.json in the archive has an image without Config")
    return name


def _tags(entry: dict[str, Any]) -> tuple[str, ...]:
    tags = entry.get("RepoTags") or []
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise InvalidSpec("manifest.json in the archive has an image whose RepoTags are no list of names")
    return tuple(dict.fromkeys(_tagged(tag) for tag in tags))


def _names(entry: Descriptor) -> list[str]:
    """The long names of an entry of index.json; a tag alone names nothing."""
    text = entry.annotations.get(_CONTAINERD_NAME) or entry.annotations.get(_REFERENCE, "")
    return [_tagged(text)] if ":" in text or "/" in text else []


def _tagged(text: str) -> str:
    name = Reference.parse(text)
    return str(name) if name.digest is None else f"{name.repository}@{name.digest}"
