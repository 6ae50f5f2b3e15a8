# SPDX-License-Identifier: Apache-2.0
"""What all stages of one build share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from mooring_agent.images.build.cache import Record
from mooring_agent.images.build.cachemounts import CacheMounts
from mooring_agent.images.build.cachesources import Made
from mooring_agent.images.build.context import Context
from mooring_agent.images.build.layering import Layer, Layering
from mooring_agent.images.build.options import BuildOptions
from mooring_agent.images.build.reporting import Reporting
from mooring_agent.images.build.roots import Roots
from mooring_agent.images.build.running import Runner
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.dockerfile.plan import PlannedStage
from mooring_agent.images.dockerfile.stages import Dockerfile
from mooring_agent.images.image import chain_id
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import rfc3339
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Stop


@dataclass(slots=True)
class Work:
    """One build. `args` are the build arguments and SOURCE_DATE_EPOCH, `latest` what that says; `chains` are
    those of what the plan names, stages by number and images by name; `used` are the arguments that an ARG
    has named. `sources` are images that stand for the cache.
    """

    state: StoreState
    lease: Lease
    layering: Layering
    options: BuildOptions
    dockerfile: Dockerfile
    context: Context
    roots: Roots
    runner: Runner
    cache_mounts: CacheMounts
    reporting: Reporting
    stop: Stop
    scratch: Path
    held: ExitStack
    args: Mapping[str, str]
    latest: int | None
    globals: Mapping[str, str]
    images: Mapping[str, str]
    sources: tuple[Made, ...] = ()
    stages: dict[int, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)

    def global_value(self, name: str) -> str | None:
        """An argument that stands before the first FROM, or that says what is built for what."""
        return self.globals.get(name)

    def origin(self, stage: PlannedStage, name: str) -> tuple[Tree, str]:
        """The tree of `from=`, "" for the context, and what to call it."""
        if not name:
            return self.context.tree, "the build context"
        if name in stage.origins:
            return self.roots.tree(self.stages[stage.origins[name]]), f"stage {name}"
        return self.roots.tree(self.images[name]), f"image {name}"

    def opened(self, directory: Path) -> Tree:
        """The tree of a directory, closed at the end of the build."""
        tree = Tree((directory,))
        self.held.callback(tree.close)
        return tree

    def moment(self, created: str) -> str:
        """A time for the history: what was found, but not later than it may be."""
        if self.latest is not None:
            return rfc3339(self.latest)
        return created or rfc3339(time.time())

    def cached(self, key: str) -> Record | None:
        """What the cache has of a key, if all of that is there; held by the lease then."""
        with self.state.lock:
            record = self.state.build_cache.find(key)
            if record is None or record.layer is None:
                return record
            if not self.state.content.has(record.layer.digest) or not self.state.has_layer(record.chain):
                self.state.build_cache.remove([key])
                return None
            self.lease.add(*record.resources())
            return record

    def keep(self, key: str, parent: str, layer: Layer | None, description: str, created: str = "") -> Record:
        """Put what an instruction came to into the cache; `created` is now unless it is known."""
        chain, size = "", 0
        if layer is not None:
            chain = (chain_id([parent, layer.diff_id]) or "") if parent else layer.diff_id
            size = self.state.snapshots.usage(chain).bytes
        record = Record(
            key=key,
            parent=parent,
            layer=layer.descriptor if layer is not None else None,
            diff_id=layer.diff_id if layer is not None else "",
            chain=chain,
            created=self.moment(created),
            size=size,
            description=" ".join(description.split()),
        )
        with self.state.taking("record of the build cache"):
            self.state.build_cache.put(record)
        return record
