# SPDX-License-Identifier: Apache-2.0
"""How large the build cache is, and making it smaller."""

from __future__ import annotations

import time
from dataclasses import dataclass

from mooring_agent.images.build.cache import Record
from mooring_agent.images.build.cachemounts import CacheMount, CacheMounts
from mooring_agent.images.state import StoreState


@dataclass(frozen=True, slots=True)
class CachedStep:
    """What is kept of one instruction: bytes of its layer, when it was last used (seconds since the epoch),
    and whether an image has the layer anyway.
    """

    record: Record
    used_at: float
    in_image: bool


@dataclass(frozen=True, slots=True)
class CacheUsage:
    """The whole cache. `size` counts what is in no image: layers, each once, and cache mounts."""

    steps: tuple[CachedStep, ...]
    mounts: tuple[CacheMount, ...]
    size: int


@dataclass(frozen=True, slots=True)
class CachePruned:
    """Keys of records and names of cache mounts that went, and the bytes of disk that this freed."""

    deleted: tuple[str, ...]
    freed: int


def measure_cache(state: StoreState, mounts: CacheMounts) -> CacheUsage:
    """What the cache has."""
    with state.lock:
        chains = state.holdings.chains()
        records = state.build_cache.list()
    steps = tuple(CachedStep(record, used_at, record.chain in chains) for record, used_at in records)
    layers = {step.record.chain: step.record.size for step in steps if not step.in_image}
    found = tuple(mounts.list())
    return CacheUsage(steps, found, sum(layers.values()) + sum(mount.size for mount in found))


def prune_cache(
    state: StoreState,
    mounts: CacheMounts,
    *,
    unused_for: float = 0.0,
    keep_bytes: int = 0,
    everything: bool = True,
) -> CachePruned:
    """Delete what was not used for so many seconds, the longest unused first, until `keep_bytes` are left.

    Without `everything` records of layers that an image has stay: they cost nothing. A cache mount that a
    build uses stays.
    """
    usage = measure_cache(state, mounts)
    before = time.time() - unused_for
    left, freed = usage.size, 0
    deleted: list[str] = []
    candidates: list[tuple[float, CachedStep | CacheMount]] = [
        *((step.used_at, step) for step in usage.steps),
        *((mount.used_at, mount) for mount in usage.mounts),
    ]
    for used_at, one in sorted(candidates, key=lambda each: each[0]):
        if used_at > before or (keep_bytes and left <= keep_bytes):
            continue
        if isinstance(one, CacheMount):
            if mounts.remove(one):
                deleted.append(one.path.name)
                left -= one.size
                freed += one.size
        elif everything or not one.in_image:
            state.build_cache.remove([one.record.key])
            deleted.append(one.record.key)
            left -= 0 if one.in_image else one.record.size
    return CachePruned(tuple(deleted), freed + state.collect(measure=True))
