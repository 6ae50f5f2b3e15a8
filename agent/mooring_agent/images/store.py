# SPDX-License-Identifier: Apache-2.0
"""The images of a host: their content, their names, their layers as snapshots."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from mooring_agent.errors import Conflict, InvalidSpec, MooringError, NotFound, Unavailable
from mooring_agent.images.catalogue import Catalogue
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.content import MEDIA_CONFIG, MEDIA_MANIFEST, ContentStore, Descriptor
from mooring_agent.images.image import Image, Progress, ProgressEvent, chain_id, no_progress
from mooring_agent.images.ingest import (
    IncomingLayer,
    commit_or_share,
    incoming_layer,
    is_there,
    open_source,
    unpack_again,
    watched,
)
from mooring_agent.images.layers import Limits
from mooring_agent.images.platform import OS, host_architecture
from mooring_agent.images.reference import Reference
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.templates import open_template
from mooring_agent.storage.snapshotter import SnapshotKind, Snapshotter

_log = logging.getLogger(__name__)

_REFERENCE = "org.opencontainers.image.ref.name"  # image-spec, annotations.md
_TEMPLATE = "mooring.template.key"  # on a layer's descriptor: what it was built from


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: long names taken away, IDs of images deleted."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Manifest:
    """What is kept of an image besides what everybody sees of it."""

    descriptor: Descriptor
    config: Descriptor
    layers: tuple[Descriptor, ...]

    def digests(self) -> set[str]:
        return {self.descriptor.digest, self.config.digest, *(layer.digest for layer in self.layers)}


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where a new image comes from, as it is written into its configuration."""

    architecture: str
    operating_system: str
    created_by: str
    comment: str = ""


class ImageStore:
    """Images on disk: an OCI image layout for the content, a snapshotter for the layers.

    All methods may be called from any thread. `get` is a lookup in memory. A process killed at any point
    leaves an image wholly there or not at all; what was half made is deleted when the store is opened
    again.
    """

    def __init__(
        self, root: Path, snapshotter: Snapshotter, *, in_use: Callable[[], AbstractSet[str]] = frozenset
    ) -> None:
        """Open the store below `root`, made if absent; `in_use` tells the IDs that containers use."""
        self._content = ContentStore(root)
        self._snapshots = snapshotter
        self._in_use = in_use
        self._lock = threading.RLock()
        self._catalogue = Catalogue()
        self._manifests: dict[str, _Manifest] = {}  # by image ID
        self._damaged: dict[str, str] = {}  # long name → why it cannot be used
        self._building: dict[str, threading.Lock] = {}  # template key → held while its layer is built
        self._load()
        with self._lock:
            self._collect()

    def get(self, reference: str) -> Image:
        """Return the image of a name, an ID or the beginning of an ID.

        Raises NotFound, Conflict (`ambiguous`) listing the candidates, or Unavailable when it is there but
        damaged.
        """
        try:
            return self._catalogue.get(reference)
        except NotFound:
            if self._damaged:
                reason = self._damaged.get(str(Reference.parse(reference)))
                if reason is not None:
                    raise Unavailable(reason) from None
            raise

    def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        with self._lock:
            return tuple(self._catalogue.images())

    def tag(self, image: str, reference: str) -> Image:
        """Give an image one more name; an image that bore it loses it."""
        name = _taggable(reference)
        with self._lock:
            return self._name(self.get(image), name)

    def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Take a name away, and with the last one the image and the layers that nothing else uses.

        Given an ID, an image with several names needs `force`. An image that a container uses is not
        deleted: Conflict, or with `force` it only loses its name.
        """
        used = self._in_use()
        with self._lock:
            image = self.get(reference)
            name = self._catalogue.named(reference)
            leaving = (name,) if name is not None else image.references
            staying = tuple(other for other in image.references if other not in leaving)
            if len(leaving) > 1 and not force:
                raise Conflict(
                    f"image {reference} has the names {_familiar(leaving)}: remove it by name or with force"
                )
            delete = not staying and image.id not in used
            if not staying and not delete and not (force and leaving):
                raise Conflict(
                    f"image {image.name} ({image.id[7:19]}) is in use by a container: remove that first"
                )
            if delete:
                self._catalogue.discard(image.id)
                del self._manifests[image.id]
            else:
                self._catalogue.put(replace(image, references=staying))
            self._save()
            if delete:
                self._collect()
            return Removed(leaving, (image.id,) if delete else ())

    def prune(self) -> Removed:
        """Delete the images that have no name and that no container uses."""
        used = self._in_use()
        with self._lock:
            unnamed = [
                image.id
                for image in self._catalogue.images()
                if not image.references and image.id not in used
            ]
            for image_id in unnamed:
                self._catalogue.discard(image_id)
                del self._manifests[image_id]
            if unnamed:
                self._save()
                self._collect()
            return Removed((), tuple(unnamed))

    def import_rootfs(
        self,
        source: Path | BinaryIO,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
        *,
        architecture: str | None = None,
        operating_system: str = OS,
        comment: str = "",
        limits: Limits | None = None,
    ) -> Image:
        """Make an image of one layer from a tar archive, plain or packed, a stream of one, or a directory.

        The architecture is found out from the programs in it unless given. Importing the same content with
        the same config again gives the same image. Raises InvalidSpec naming the source for what cannot be
        read as a root file system, Unavailable when the disk is full or the source fails.
        """
        name = _taggable(reference) if reference is not None else None
        title = str(source) if isinstance(source, Path) else "import from a stream"
        try:
            with (
                open_source(source, self._content.root) as (chunks, total, pack),
                incoming_layer(
                    self._content,
                    self._snapshots,
                    watched(chunks, title, total, progress),
                    limits=limits,
                    pack=pack,
                ) as layer,
            ):
                origin = _Origin(
                    architecture or layer.architecture or host_architecture(),
                    operating_system,
                    created_by=f"mooring import {title}",
                    comment=comment,
                )
                return self._publish(layer, name, config or ImageConfig(), origin)
        except InvalidSpec as error:
            raise InvalidSpec(f"{title}: {error.message}", code=error.code) from error

    def from_template(
        self,
        template: TemplateSpec,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
    ) -> Image:
        """Make an image from a template; what was built before from the same things is not built again.

        Raises MissingProgram naming the package that the host lacks.
        """
        name = _taggable(reference) if reference is not None else None
        source = open_template(template)
        whole = (config or ImageConfig()).over(source.defaults)
        origin = _Origin(source.architecture, OS, created_by=f"mooring {source.title}")
        with self._lock:
            building = self._building.setdefault(source.key, threading.Lock())
        with building:
            image = self._from_cache(source.key, name, whole, origin)
            if image is not None:
                progress(ProgressEvent("done", detail=f"{source.title} is here already"))
                return image
            with (
                self._content.scratch() as scratch,
                closing(source.build(scratch, progress)) as chunks,
                incoming_layer(
                    self._content,
                    self._snapshots,
                    watched(chunks, source.title, None, progress),
                    pack=True,
                    annotations={_TEMPLATE: source.key},
                ) as layer,
            ):
                return self._publish(layer, name, whole, origin)

    def ensure_unpacked(self, image: Image, progress: Progress = no_progress) -> str:
        """Return the snapshot to prepare a container on; a lookup, unless layers have to be unpacked again.

        Raises Unavailable when a blob that is needed for that is damaged or gone, NotFound for an image
        without layers.
        """
        if image.chain_id is None:
            raise NotFound(f"image {image.name} has no layers, so there is nothing to run in it")
        if not is_there(self._snapshots, image.chain_id):
            manifest = self._manifests.get(image.id)
            if manifest is None:
                raise NotFound(f"no such image any more: {image.name}")
            for index, layer in enumerate(manifest.layers):
                below, chain = chain_id(image.diff_ids[:index]), chain_id(image.diff_ids[: index + 1])
                assert chain is not None
                if not is_there(self._snapshots, chain):
                    progress(ProgressEvent("unpack", index, len(image.diff_ids), layer.digest))
                    unpack_again(self._content, self._snapshots, layer, below, chain, image.diff_ids[index])
        return image.chain_id

    def _publish(self, layer: IncomingLayer, name: str | None, config: ImageConfig, origin: _Origin) -> Image:
        """Make the image of a layer that came in, or find the equal one that is there."""
        with self._lock:
            try:
                self._content.publish(layer.blob)
                commit_or_share(self._snapshots, layer.key, layer.diff_id)
                return self._register((layer.descriptor,), (layer.diff_id,), name, config, origin)
            except OSError as error:
                raise Unavailable(
                    f"{self._content.root} takes no image ({error.strerror or error}): free some space"
                ) from error
            finally:
                self._collect()

    def _from_cache(self, key: str, name: str | None, config: ImageConfig, origin: _Origin) -> Image | None:
        with self._lock:
            for image_id, manifest in self._manifests.items():
                if [layer.annotations.get(_TEMPLATE) for layer in manifest.layers] == [key]:
                    image = self._catalogue.get(image_id)
                    self.ensure_unpacked(image)
                    return self._register(manifest.layers, image.diff_ids, name, config, origin)
        return None

    def _register(
        self,
        layers: tuple[Descriptor, ...],
        diff_ids: tuple[str, ...],
        name: str | None,
        config: ImageConfig,
        origin: _Origin,
    ) -> Image:
        wanted = (diff_ids, config.to_oci(), origin.architecture, origin.operating_system)
        for image in self._catalogue.images():
            if (image.diff_ids, image.config, image.architecture, image.os) == wanted:
                return self._name(image, name)
        created = datetime.fromtimestamp(time.time(), UTC).isoformat().replace("+00:00", "Z")
        step = {"created": created, "created_by": origin.created_by, "comment": origin.comment}
        config_descriptor = self._content.add(
            MEDIA_CONFIG,
            {
                "created": created,
                "architecture": origin.architecture,
                "os": origin.operating_system,
                "config": config.to_oci(),
                "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
                "history": [{key: value for key, value in step.items() if value}],
            },
        )
        descriptor = self._content.add(
            MEDIA_MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_MANIFEST,
                "config": config_descriptor.to_json(),
                "layers": [layer.to_json() for layer in layers],
            },
        )
        image, manifest = self._read(descriptor, (name,) if name is not None else ())
        self._manifests[image.id] = manifest
        self._catalogue.put(image)
        self._save()
        return self._catalogue.get(image.id)

    def _name(self, image: Image, name: str | None) -> Image:
        if name is None or name in image.references:
            return image
        named = replace(image, references=tuple(sorted((*image.references, name))))
        self._catalogue.put(named)
        self._damaged.pop(name, None)
        self._save()
        return named

    def _save(self) -> None:
        """Write the index as memory has it; when that fails, memory goes back to what is on the disk."""
        manifests = []
        for image_id, manifest in self._manifests.items():
            names = self._catalogue.get(image_id).references
            manifests += [replace(manifest.descriptor, annotations={_REFERENCE: name}) for name in names]
            if not names:
                manifests.append(manifest.descriptor)
        try:
            self._content.write_index(manifests)
        except OSError:
            self._load()
            raise

    def _load(self) -> None:
        names: dict[str, list[str]] = {}
        descriptors: dict[str, Descriptor] = {}
        for descriptor in self._content.read_index():
            name = descriptor.annotations.get(_REFERENCE)
            names.setdefault(descriptor.digest, []).extend([name] if name is not None else [])
            descriptors[descriptor.digest] = replace(descriptor, annotations={})
        images: list[Image] = []
        manifests: dict[str, _Manifest] = {}
        damaged: dict[str, str] = {}
        for digest, descriptor in descriptors.items():
            try:
                image, manifest = self._read(descriptor, tuple(sorted(names[digest])))
            except (MooringError, KeyError, TypeError, ValueError) as error:
                _log.warning(
                    "image %s (%s) is damaged: %s", digest, ", ".join(names[digest]) or "no name", error
                )
                damaged |= {name: f"image {name} is damaged: {error}" for name in names[digest]}
                continue
            images.append(image)
            manifests[image.id] = manifest
        self._catalogue, self._manifests, self._damaged = Catalogue(images), manifests, damaged

    def _read(self, descriptor: Descriptor, names: tuple[str, ...]) -> tuple[Image, _Manifest]:
        """Read an image from its manifest."""
        document = self._content.document(descriptor)
        layers = tuple(Descriptor.from_json(layer) for layer in document["layers"])
        config_descriptor = Descriptor.from_json(document["config"])
        config = self._content.document(config_descriptor)
        diff_ids = tuple(config["rootfs"]["diff_ids"])
        if len(diff_ids) != len(layers):
            raise InvalidSpec(
                f"manifest {descriptor.digest} has {len(layers)} layers and its config {len(diff_ids)}"
            )
        chains = [chain_id(diff_ids[: count + 1]) for count in range(len(diff_ids))]
        image = Image(
            id=config_descriptor.digest,
            manifest_digest=descriptor.digest,
            references=names,
            created_at=datetime.fromisoformat(config["created"]).timestamp()
            if config.get("created")
            else 0.0,
            architecture=config["architecture"],
            os=config["os"],
            config=config.get("config") or {},
            history=tuple(config.get("history") or ()),
            diff_ids=diff_ids,
            chain_id=chains[-1] if chains else None,
            size=sum(self._size(chain, layer) for chain, layer in zip(chains, layers, strict=True)),
        )
        return image, _Manifest(descriptor, config_descriptor, layers)

    def _size(self, chain: str | None, layer: Descriptor) -> int:
        """Bytes that a layer occupies unpacked, or, if it is not, those of its blob."""
        if chain is None or not is_there(self._snapshots, chain):
            return layer.size
        return self._snapshots.usage(chain).bytes

    def _collect(self) -> None:
        """Delete blobs and layers that no image has and no container is built on."""
        keep = {digest for manifest in self._manifests.values() for digest in manifest.digests()}
        for digest in self._content.digests() - keep:
            self._content.remove(digest)
        needed = set()
        for image in self._catalogue.images():
            needed |= {chain_id(image.diff_ids[: count + 1]) for count in range(len(image.diff_ids))}
        for snapshot in reversed(self._snapshots.list()):  # newest first: children come before their parents
            if snapshot.kind is SnapshotKind.COMMITTED and snapshot.key not in needed:
                try:
                    self._snapshots.remove(snapshot.key)
                except Conflict:
                    continue  # a container is built on it: it goes when that has gone


def _taggable(reference: str) -> str:
    name = Reference.parse(reference)
    if name.digest is not None:
        raise InvalidSpec(f"image name {reference!r} has a digest in it: expected a name and a tag only")
    return str(name)


def _familiar(names: Sequence[str]) -> str:
    return ", ".join(Reference.parse(name).familiar for name in names)
