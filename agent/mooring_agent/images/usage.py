# SPDX-License-Identifier: Apache-2.0
"""How much of the disk images take, and what the layers of one came to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mooring_agent.images.image import Image
from mooring_agent.images.state import StoreState


@dataclass(frozen=True, slots=True)
class ImageUsage:
    """One image, in bytes of unpacked layers: all, those that other images have too, its own alone."""

    image: Image
    size: int
    shared: int
    unique: int
    containers: int


@dataclass(frozen=True, slots=True)
class DiskUsage:
    """All images: bytes of the unpacked layers, each once, of the blobs, and of layers no container needs."""

    images: tuple[ImageUsage, ...]
    layers: int
    blobs: int
    reclaimable: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One step of an image: when (seconds since the epoch), by what, and the bytes of its layer."""

    created_at: float
    created_by: str
    author: str
    comment: str
    size: int
    empty: bool


def measure(state: StoreState, containers: Mapping[str, int]) -> DiskUsage:
    """See ImageStore.usage."""
    with state.lock:
        images = state.holdings.catalogue.images()
        chains: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for image in images:
            holding = state.holdings.of_image(image.id)[-1]
            chains[image.id] = list(dict.fromkeys(holding.chains()))
            for chain, layer in zip(holding.chains(), holding.manifest.layers, strict=True):
                sizes[chain] = state.layer_size(chain, layer)
        blobs = sum(map(state.content.size, state.content.digests()))
    users = Counter(chain for found in chains.values() for chain in found)
    needed = {chain for image_id, found in chains.items() if containers.get(image_id) for chain in found}
    usages = []
    for image in images:
        size = sum(sizes[chain] for chain in chains[image.id])
        shared = sum(sizes[chain] for chain in chains[image.id] if users[chain] > 1)
        usages.append(ImageUsage(image, size, shared, size - shared, containers.get(image.id, 0)))
    reclaimable = sum(size for chain, size in sizes.items() if chain not in needed)
    return DiskUsage(tuple(usages), sum(sizes.values()), blobs, reclaimable)


def tell_history(history: tuple[Mapping[str, Any], ...], sizes: list[int]) -> tuple[HistoryEntry, ...]:
    """The steps of an image, newest first; `sizes` are those of its layers, bottom first.

    Layers beyond what the history tells have steps without words.
    """
    left = list(reversed(sizes))
    found = []
    for entry in history:
        empty = bool(entry.get("empty_layer"))
        found.append(
            HistoryEntry(
                created_at=_moment(entry.get("created")),
                created_by=entry.get("created_by") or "",
                author=entry.get("author") or "",
                comment=entry.get("comment") or "",
                size=left.pop() if left and not empty else 0,
                empty=empty,
            )
        )
    found += [HistoryEntry(0.0, "", "", "", size, False) for size in reversed(left)]
    return tuple(reversed(found))


def _moment(text: str | None) -> float:
    """A time of a history, 0 for one that is not told or not well formed: it is only shown."""
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return 0.0
