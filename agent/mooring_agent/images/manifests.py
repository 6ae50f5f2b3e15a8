# SPDX-License-Identifier: Apache-2.0
"""Manifests, indexes and configurations of images: of OCI (image-spec) and of Docker (schema 2).

Pure: bytes in, facts out. The bytes come from anywhere, so every field that is used is checked, and what has
two meanings is refused (CVE-2021-41190). The bytes themselves are kept as they are by whoever calls.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.images.content import (
    MAX_DOCUMENT,
    MEDIA_CONFIG,
    MEDIA_INDEX,
    MEDIA_LAYER,
    MEDIA_MANIFEST,
    Descriptor,
    check_annotations,
    check_digest,
)
from mooring_agent.images.platform import Platform, host_platform, listed

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFEST_TYPES = (MEDIA_MANIFEST, DOCKER_MANIFEST, MEDIA_INDEX, DOCKER_LIST)
"""What may be asked for and is understood, best first."""

_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_LAYERS = frozenset(
    name + packing
    for name, packings in (
        (MEDIA_LAYER, ("", "+gzip", "+zstd")),
        (_DOCKER_LAYER, ("", ".gzip", ".zstd")),
    )
    for packing in packings
)
_FOREIGN = (  # image-spec, "Non-distributable Layers"; Docker's for Windows
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_SCHEMA_1 = "application/vnd.docker.distribution.manifest.v1+"
_UNTYPED = ("", "application/json", "text/plain", "application/octet-stream")
_MAX_LAYERS = 1000
_MAX_MANIFESTS = 10_000
_MAX_HISTORY = 100_000
_ATTESTATION = "vnd.docker.reference.type"  # BuildKit's, on an index's entry that is about another one
_UNKNOWN = "unknown"  # the platform of such an entry


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its configuration and its layers, bottom first."""

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    def digests(self) -> frozenset[str]:
        """The blobs that the image is made of."""
        return frozenset((self.descriptor.digest, self.config.digest, *(each.digest for each in self.layers)))


@dataclass(frozen=True, slots=True)
class Index:
    """Images of several platforms under one name."""

    descriptor: Descriptor
    manifests: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What is used of an image's configuration (image-spec, config.md); `created_at` in seconds."""

    platform: Platform
    created_at: float
    author: str
    config: Mapping[str, Any] = field(hash=False)
    history: tuple[Mapping[str, Any], ...] = field(hash=False)
    diff_ids: tuple[str, ...]


def parse_manifest(body: bytes, descriptor: Descriptor) -> Manifest | Index:
    """Read a manifest or an index; the descriptor's media type is what it was announced as.

    Raises InvalidSpec for what is not well formed, is ambiguous, or is no image.
    """
    digest = descriptor.digest
    document = _object(body, f"manifest {digest}")
    media_type = _media_type(document, descriptor)
    if ("manifests" in document or "fsLayers" in document) and ("layers" in document or "config" in document):
        raise InvalidSpec(f"manifest {digest} is an image and an index at once: it is refused as ambiguous")
    whole = Descriptor(media_type, digest, descriptor.size, descriptor.annotations, descriptor.platform)
    try:
        if media_type in (MEDIA_INDEX, DOCKER_LIST):
            entries = _list(document, "manifests", _MAX_MANIFESTS)
            return Index(whole, tuple(Descriptor.from_json(entry) for entry in entries))
        check_annotations(document.get("annotations"))
        config = Descriptor.from_json(document.get("config"))
        _check_image(document, config, digest)
        layers = tuple(Descriptor.from_json(entry) for entry in _list(document, "layers", _MAX_LAYERS))
    except InvalidSpec as error:
        if not error.message.startswith("manifest "):
            error.put_before(f"manifest {digest} is not well formed: ")
        raise
    for layer in layers:
        _check_layer(layer, digest)
    return Manifest(whole, config, layers)


def parse_config(body: bytes, digest: str) -> ConfigFile:
    """Read an image's configuration; raises InvalidSpec naming the field that is wrong."""
    document = _object(body, f"image configuration {digest}")
    try:
        rootfs = document.get("rootfs")
        if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
            raise InvalidSpec("rootfs is not of type layers")
        diff_ids = tuple(check_digest(value) for value in _list(rootfs, "diff_ids", _MAX_LAYERS))
        history = _list(document, "history", _MAX_HISTORY)
        for entry in history:
            if not isinstance(entry, dict):
                raise InvalidSpec("history has an entry that is no JSON object")
            for key in ("created", "created_by", "author", "comment"):
                _text(entry, key)
            if not isinstance(entry.get("empty_layer", False), bool):
                raise InvalidSpec("history has an empty_layer that is neither true nor false")
        return ConfigFile(
            platform=Platform(
                _text(document, "os") or "linux",
                _text(document, "architecture"),
                _text(document, "variant"),
                _text(document, "os.version"),
            ),
            created_at=_moment(_text(document, "created")),
            author=_text(document, "author"),
            config=_runtime_config(document.get("config") or {}),
            history=tuple(history),
            diff_ids=diff_ids,
        )
    except InvalidSpec as error:
        error.put_before(f"image configuration {digest} is not well formed: ")
        raise


def choose(index: Index, wanted: Platform | None = None, name: str = "") -> Descriptor:
    """Return the image of an index for a platform, or this host's; the first of those that fit best.

    Raises NotFound (`no_platform`) that names the platform and lists what there is.
    """
    platform = wanted or host_platform()
    images = [entry for entry in index.manifests if is_image(entry)]
    for candidate in platform.runs():
        for entry in images:
            if entry.platform is not None and _same(entry.platform.normal(), candidate):
                return entry
    unnamed = [entry for entry in images if entry.platform is None]
    if len(images) == len(unnamed) == 1:  # its configuration will tell
        return unnamed[0]
    there = listed(entry.platform for entry in images if entry.platform is not None)
    raise NotFound(
        f"image {name or index.descriptor.digest} has nothing for {platform}: there is {there}; "
        "use an image for this platform, or ask for one of these",
        code="no_platform",
    )


def is_image(entry: Descriptor) -> bool:
    """Whether an entry of an index can be an image of its own, and no attestation or other artifact."""
    if entry.artifact_type or _ATTESTATION in entry.annotations:
        return False
    if entry.platform is not None and entry.platform.os == entry.platform.architecture == _UNKNOWN:
        return False
    return entry.media_type in MANIFEST_TYPES


def check_pair(manifest: Manifest, config: ConfigFile) -> None:
    """Raise InvalidSpec when a manifest and its configuration tell different numbers of layers."""
    if len(manifest.layers) != len(config.diff_ids):
        raise InvalidSpec(
            f"manifest {manifest.descriptor.digest} has {len(manifest.layers)} layers and its configuration "
            f"{len(config.diff_ids)}: the image is damaged, build or push it again"
        )


def oci_layer(layer: Descriptor) -> Descriptor:
    """The same layer as a manifest of OCI tells it."""
    if not layer.media_type.startswith(_DOCKER_LAYER):
        return layer
    packing = layer.media_type[len(_DOCKER_LAYER) :].replace(".", "+")
    return replace(layer, media_type=MEDIA_LAYER + packing)


def _same(entry: Platform, wanted: Platform) -> bool:
    return (entry.os, entry.architecture, entry.variant) == (wanted.os, wanted.architecture, wanted.variant)


def _media_type(document: dict[str, Any], descriptor: Descriptor) -> str:
    told, inner = descriptor.media_type, document.get("mediaType") or ""
    if not isinstance(inner, str):
        raise InvalidSpec(f"manifest {descriptor.digest} has a mediaType that is no text")
    media_type = inner if told in _UNTYPED else told
    if inner and inner != media_type:
        raise InvalidSpec(
            f"manifest {descriptor.digest} was announced as {media_type} and calls itself {inner}"
        )
    if media_type in MANIFEST_TYPES:
        return media_type
    if not media_type and document.get("schemaVersion") == 2:  # OCI before 1.1 did not ask for mediaType
        return MEDIA_INDEX if "manifests" in document else MEDIA_MANIFEST
    if media_type.startswith(_SCHEMA_1) or document.get("schemaVersion") == 1:
        raise InvalidSpec(
            f"manifest {descriptor.digest} is of Docker's schema 1, which is no longer supported: "
            "push the image again with a current tool"
        )
    raise InvalidSpec(
        f"manifest {descriptor.digest} is of type {media_type or 'unknown'}: expected an image or an index "
        "of OCI or Docker"
    )


def _check_image(document: dict[str, Any], config: Descriptor, digest: str) -> None:
    artifact = document.get("artifactType")
    if config.media_type in (MEDIA_CONFIG, DOCKER_CONFIG) and not artifact:
        return
    raise InvalidSpec(
        f"manifest {digest} is no image but an artifact of type {artifact or config.media_type}: "
        "expected an image's name"
    )


def _check_layer(layer: Descriptor, digest: str) -> None:
    if layer.media_type.startswith(_FOREIGN):
        raise InvalidSpec(
            f"layer {layer.digest} of manifest {digest} is not distributed by registries "
            f"({', '.join(layer.urls) or 'no address given'}): such layers are not supported, use another "
            "image"
        )
    if layer.media_type not in _LAYERS:
        raise InvalidSpec(
            f"manifest {digest} is no image: its layer {layer.digest} is of type {layer.media_type}, "
            "expected a tar archive, plain or packed with gzip or zstd"
        )


def _object(body: bytes, what: str) -> dict[str, Any]:
    if len(body) > MAX_DOCUMENT:
        raise InvalidSpec(f"{what} has {len(body)} bytes, more than the limit of {MAX_DOCUMENT}")
    try:
        value = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"{what} is no JSON ({str(error)[:200]})") from None
    if not isinstance(value, dict):
        raise InvalidSpec(f"{what} is no JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return value


def _no_constant(text: str) -> None:
    raise ValueError(f"{text} is no JSON number")


def _list(document: dict[str, Any], key: str, limit: int) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidSpec(f"{key} is no list")
    if len(value) > limit:
        raise InvalidSpec(f"{key} has {len(value)} entries, more than the limit of {limit}")
    return value


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InvalidSpec(f"{key} is no text")
    return value


def _moment(text: str) -> float:
    if not text:
        return 0.0
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidSpec(f"created {text[:80]!r} is no time as RFC 3339 writes it") from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _runtime_config(config: object) -> Mapping[str, Any]:
    """Check what is used of the `config` object: texts, lists of texts, and objects."""
    if not isinstance(config, dict):
        raise InvalidSpec("config is no JSON object")
    for key in ("Cmd", "Entrypoint", "Env", "OnBuild", "Shell"):
        value = config.get(key)
        if value is not None and not (
            isinstance(value, list) and all(isinstance(each, str) for each in value)
        ):
            raise InvalidSpec(f"config.{key} is no list of texts")
    for key in ("User", "WorkingDir", "StopSignal"):
        if not isinstance(config.get(key) or "", str):
            raise InvalidSpec(f"config.{key} is no text")
    for key in ("ExposedPorts", "Volumes", "Labels", "Healthcheck"):
        if not isinstance(config.get(key) or {}, dict):
            raise InvalidSpec(f"config.{key} is no JSON object")
    if not all(isinstance(text, str) for text in (config.get("Labels") or {}).values()):
        raise InvalidSpec("config.Labels is no object of texts")
    return config
