# SPDX-License-Identifier: Apache-2.0
"""The parts of an image store that its works share, and the collector that takes what nothing needs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path

from mooring_agent.errors import Conflict, Unavailable
from mooring_agent.failpoints import reached
from mooring_agent.images.build.cache import BuildCache
from mooring_agent.images.content import ContentStore, Descriptor
from mooring_agent.images.holdings import Holding, Holdings
from mooring_agent.images.image import Image
from mooring_agent.images.ingest import is_there
from mooring_agent.images.leases import Leases
from mooring_agent.images.origins import Origins
from mooring_agent.images.turns import Turns
from mooring_agent.storage.snapshotter import SnapshotInfo, SnapshotKind, Snapshotter

_log = logging.getLogger(__name__)


class StoreState:
    """Content, names, leases and layers of one store. `lock` is held by whoever changes names or collects.

    A thing is added in this order: a lease takes its digest, then it is looked for under `lock` and made if
    it is absent. So the collector, which holds `lock`, sees it either leased or not there.
    """

    def __init__(self, root: Path, snapshots: Snapshotter, in_use: Callable[[], AbstractSet[str]]) -> None:
        """Open the store below `root`; `in_use` tells the IDs of the images that containers use."""
        self.lock = threading.RLock()
        self.content = ContentStore(root)
        self.snapshots = snapshots
        self.in_use = in_use
        self.leases = Leases(root / "leases")
        self.turns = Turns()
        self.build_cache = BuildCache(root / "build-cache")
        self.origins = Origins(self.content)
        self.holdings = Holdings(self.content, self.layer_size)
        self.collect()

    def has_layer(self, chain: str) -> bool:
        """Whether the snapshot of a chain ID is there."""
        return is_there(self.snapshots, chain)

    def layer_size(self, chain: str, layer: Descriptor) -> int:
        """Bytes that a layer occupies unpacked, or, if it is not, those of its blob."""
        return self.snapshots.usage(chain).bytes if self.has_layer(chain) else layer.size

    def register(self, holding: Holding, names: tuple[str, ...]) -> Image:
        """Hold an image whose parts are all there and leased, under names, in one step on the disk."""
        return self.register_all([(holding, names)])[0]

    def register_all(self, holdings: list[tuple[Holding, tuple[str, ...]]]) -> list[Image]:
        """Hold several images, all or none; raises Unavailable when the disk is full."""
        with self.lock:
            for holding, names in holdings:
                self.holdings.put(holding, names)
            self.save()
            reached("images-registered")
            return [self.holdings.catalogue.get(holding.image_id) for holding, _ in holdings]

    def save(self) -> None:
        """Write the index; what was changed in memory is undone when that fails (Unavailable)."""
        with self.taking("image"):
            self.holdings.save()

    @contextmanager
    def taking(self, what: str) -> Iterator[None]:
        """Raise Unavailable for what the disk refuses."""
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"{self.content.root} takes no {what} ({error.strerror or error}): free some space, then try "
                "again"
            ) from error

    def collect(self, *, measure: bool = False) -> int:
        """Delete the blobs and layers that no image has and no lease holds; returns the bytes of them.

        Layers count only if `measure` is set: it takes time. One that a container is built on stays until
        that is gone. Downloads that broke off stay for a day, as do the leases of work that did.
        """
        with self.lock:
            self.leases.expire()
            leased = self.leases.resources() | self.build_cache.resources()
            keep = self.holdings.digests() | leased
            freed = 0
            for digest in self.content.digests() - keep:
                freed += self.content.size(digest)
                self.content.remove(digest)
                reached("images-collect-blob")
            needed = self.holdings.chains() | leased
            for key in _topmost_first(self.snapshots.list()):
                if key not in needed:
                    size = self.snapshots.usage(key).bytes if measure else 0
                    try:
                        self.snapshots.remove(key)
                    except Conflict:
                        continue  # a container is built on it: it goes when that has gone
                    except Unavailable as error:
                        _log.warning("layer %s stays for now: %s", key, error)
                        continue
                    freed += size
                    reached("images-collect-layer")
            return freed

    def drop_unfinished(self) -> int:
        """Give up what broken-off work left to go on with; returns the bytes of the downloads."""
        with self.lock:
            self.leases.expire(0)
            # Who has a turn asks for the lock before it opens what is here, so it is in use or seen as taken.
            return self.content.drop_partials(0, except_for=self.turns.taken())


def _topmost_first(snapshots: Iterable[SnapshotInfo]) -> list[str]:
    """The committed snapshots, each before its parent."""
    parents = {each.key: each.parent for each in snapshots if each.kind is SnapshotKind.COMMITTED}

    def depth(key: str) -> int:
        count, below = 0, parents[key]
        while below is not None:
            count, below = count + 1, parents.get(below)
        return count

    return sorted(parents, key=depth, reverse=True)
