# SPDX-License-Identifier: Apache-2.0
"""Making images here: from an archive or a directory, from a template, from a container's changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from mooring_agent.errors import InvalidSpec
from mooring_agent.failpoints import reached
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.content import MEDIA_CONFIG, MEDIA_MANIFEST, Descriptor
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Image, Progress, ProgressEvent
from mooring_agent.images.ingest import IncomingLayer, commit_or_share, incoming_layer, watched
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.platform import OS, Platform, host_architecture
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.rootfs_sources import open_rootfs
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.state import StoreState
from mooring_agent.images.templates import open_template
from mooring_agent.images.turns import Stop

_TEMPLATE = "mooring.template.key"  # on a layer's descriptor: what it was built from
_BUILT = "mooring.template.built"  # and when, in seconds since the epoch


@dataclass(frozen=True, slots=True)
class NewImage:
    """What is written into the configuration of a new image; `history` in the words of the image-spec."""

    platform: Platform
    config: Mapping[str, Any]
    history: tuple[Mapping[str, Any], ...]
    author: str = ""
    created: str = field(default_factory=lambda: rfc3339(time.time()))


@dataclass(frozen=True, slots=True)
class _Order:
    """What is to be made of one layer; `created` in seconds since the epoch, None: now."""

    names: tuple[str, ...]
    config: ImageConfig
    platform: Platform
    made_by: str
    comment: str = ""
    created: float | None = None


def rfc3339(moment: float) -> str:
    """A time in seconds since the epoch as RFC 3339 writes it."""
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


def step(created: str, **texts: str) -> dict[str, Any]:
    """One entry of an image's history; empty texts are left out."""
    return {"created": created} | {key: value for key, value in texts.items() if value}


def write_image(
    state: StoreState,
    lease: Lease,
    layers: Iterable[Descriptor],
    diff_ids: Iterable[str],
    new: NewImage,
    names: tuple[str, ...],
) -> Image:
    """Write configuration and manifest of an image whose layers are here and leased, and register it."""
    document: dict[str, Any] = {"created": new.created}
    if new.author:
        document["author"] = new.author
    document |= {
        **new.platform.to_json(),
        "config": dict(new.config),
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [dict(entry) for entry in new.history],
    }
    with state.lock, state.taking("image"):
        # Nothing is collected while the lock is held, so the two are safe before the lease has them.
        config = state.content.add(MEDIA_CONFIG, document)
        manifest = state.content.add(
            MEDIA_MANIFEST,
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_MANIFEST,
                "config": config.to_json(),
                "layers": [layer.to_json() for layer in layers],
            },
        )
        lease.add(config.digest, manifest.digest)
        return state.register(state.holdings.read(manifest), names)


class Maker:
    """Images of one layer, from archives, directories and templates."""

    def __init__(self, state: StoreState) -> None:
        self._state = state

    def import_rootfs(
        self,
        source: Path | BinaryIO,
        names: tuple[str, ...],
        config: ImageConfig,
        progress: Progress,
        *,
        metadata: Path | None,
        architecture: str | None,
        operating_system: str,
        comment: str,
        limits: Limits | None,
        cancelled: threading.Event | None,
    ) -> Image:
        """See ImageStore.import_rootfs."""
        title = str(source) if isinstance(source, Path) else "import from a stream"
        stop = Stop(f"the import of {source}" if isinstance(source, Path) else f"the {title}", cancelled)
        try:
            with (
                open_rootfs(source, self._state.content, metadata, progress, stop) as rootfs,
                incoming_layer(
                    self._state.content,
                    self._state.snapshots,
                    watched(rootfs.chunks, title, rootfs.total, progress, stop),
                    limits=limits,
                    pack=rootfs.pack,
                ) as layer,
            ):
                told = rootfs.metadata()
                known = architecture or told.check_architecture(layer.architecture) or host_architecture()
                order = _Order(
                    names,
                    config.over(ImageConfig(labels=told.labels)),
                    Platform(operating_system, known),
                    f"mooring import {title}",
                    comment,
                    told.created,
                )
                return self._publish(layer, order)
        except InvalidSpec as error:
            raise InvalidSpec(f"{title}: {error.message}", code=error.code) from error

    def from_template(
        self,
        template: TemplateSpec,
        names: tuple[str, ...],
        config: ImageConfig,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> Image:
        """See ImageStore.from_template."""
        source = open_template(template)
        whole = config.over(source.defaults)
        order = _Order(names, whole, Platform(OS, source.architecture), f"mooring {source.title}")
        stop = Stop(source.title, cancelled)
        with self._state.turns.turn(f"template {source.key}", stop):
            image = self._from_cache(source.key, template.max_age, order, stop)
            if image is not None:
                progress(ProgressEvent("done", detail=f"{source.title} is here already"))
                return image
            with (
                self._state.content.scratch() as scratch,
                closing(source.build(scratch, progress, stop)) as chunks,
                incoming_layer(
                    self._state.content,
                    self._state.snapshots,
                    watched(chunks, source.title, None, progress, stop),
                    pack=True,
                    annotations={_TEMPLATE: source.key, _BUILT: f"{time.time():.0f}"},
                ) as layer,
            ):
                return self._publish(layer, order)

    def _publish(self, layer: IncomingLayer, order: _Order) -> Image:
        """Make the image of a layer that came in, or find the equal one that is there."""
        try:
            with self._state.leases.hold(order.made_by) as lease:
                publish_layer(self._state, lease, layer, layer.diff_id)
                return self._register(lease, (layer.descriptor,), (layer.diff_id,), order)
        finally:
            self._state.collect()

    def _from_cache(self, key: str, max_age: float | None, order: _Order, stop: Stop) -> Image | None:
        state = self._state
        with state.leases.hold(order.made_by) as lease:
            with state.lock:
                built = [each for each in state.holdings.all() if _built_from(each, key)]
                holding = max(built, key=built_at, default=None)
                if holding is None or (max_age is not None and time.time() - built_at(holding) > max_age):
                    return None
                lease.add(*holding.chains(), *holding.digests())
            ensure_layers(state, holding, within=stop)
            return self._register(lease, holding.manifest.layers, holding.config.diff_ids, order)

    def _register(
        self,
        lease: Lease,
        layers: tuple[Descriptor, ...],
        diff_ids: tuple[str, ...],
        order: _Order,
    ) -> Image:
        state, platform, config = self._state, order.platform, order.config.to_oci()
        wanted = (diff_ids, config, platform.architecture, platform.os)
        with state.lock:
            for image in state.holdings.catalogue.images():
                if (image.diff_ids, image.config, image.architecture, image.os) == wanted:
                    if not set(order.names) <= set(image.references):
                        image = state.holdings.name(image, order.names)
                        state.save()
                    return image
            moment = rfc3339(time.time() if order.created is None else order.created)
            history = (step(moment, created_by=order.made_by, comment=order.comment),)
            new = NewImage(platform, config, history, created=moment)
            return write_image(state, lease, layers, diff_ids, new, order.names)


def _built_from(holding: Holding, key: str) -> bool:
    """Whether an image is the one layer that was built from a template's key."""
    return [layer.annotations.get(_TEMPLATE) for layer in holding.manifest.layers] == [key]


def built_at(holding: Holding) -> float:
    """When the layer of an image was built from a template, in seconds since the epoch; 0: not known."""
    times = [layer.annotations.get(_BUILT, "") for layer in holding.manifest.layers]
    return float(times[0]) if len(times) == 1 and times[0].isdecimal() else 0.0


def publish_layer(state: StoreState, lease: Lease, layer: IncomingLayer, chain: str) -> None:
    """Put a layer that came in into the store, held by the lease."""
    with state.lock, state.taking("layer"):
        lease.add(layer.descriptor.digest, chain)
        state.content.publish(layer.blob)
        reached("images-layer-published")
        commit_or_share(state.snapshots, layer.key, chain)
        reached("images-layer-committed")
