# SPDX-License-Identifier: Apache-2.0
"""Having the layers of an image as snapshots: a lookup, or unpacking them from their blobs again."""

from __future__ import annotations

from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Progress, no_progress
from mooring_agent.images.stacking import LayerStack, wanted_layers
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Stop


def ensure_layers(
    state: StoreState, holding: Holding, progress: Progress = no_progress, within: Stop | None = None
) -> None:
    """Unpack the layers that are not there, as a part of the work that `within` ends.

    Raises Unavailable when a blob for that is damaged or gone, Cancelled.
    """
    with state.leases.hold("unpack") as lease:
        lease.add(*holding.chains(), *holding.digests())
        if all(map(state.has_layer, holding.chains())):
            return
        stop = Stop(f"unpacking image {holding.image_id[7:19]}", within=within)
        wanted = wanted_layers(holding.manifest.layers, holding.config.diff_ids)
        try:
            LayerStack(state, lease, stop, progress, wanted).build()
        except InvalidSpec as error:
            raise Unavailable(error.message) from error
