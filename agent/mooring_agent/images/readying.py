# SPDX-License-Identifier: Apache-2.0
"""Having the layers of an image as snapshots: a lookup, or unpacking them from their blobs again."""

from __future__ import annotations

from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Progress, ProgressEvent, no_progress
from mooring_agent.images.ingest import unpack_blob
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Stop


def ensure_layers(state: StoreState, holding: Holding, progress: Progress = no_progress) -> None:
    """Unpack the layers that are not there; raises Unavailable when a blob for that is damaged or gone."""
    below: str | None = None
    chains = holding.chains()
    stop = Stop(f"unpacking image {holding.image_id[7:19]}")
    with state.leases.hold("unpack") as lease:
        lease.add(*chains, *holding.digests())
        for index, (layer, chain) in enumerate(zip(holding.manifest.layers, chains, strict=True)):
            if not state.has_layer(chain):
                progress(ProgressEvent("unpack", index, len(chains), layer.digest))
                try:
                    with state.turns.turn(chain, stop), state.taking("layer"):
                        if not state.has_layer(chain):
                            diff_id = holding.config.diff_ids[index]
                            unpack_blob(state.content, state.snapshots, layer, below, chain, diff_id)
                except InvalidSpec as error:
                    raise Unavailable(error.message) from error
            below = chain
