# SPDX-License-Identifier: Apache-2.0
"""All kinds of networks, by the names that specs give them."""

from __future__ import annotations

from .bridges import BridgeDriver
from .driver import Driver
from .macvlans import MacvlanDriver
from .overlaykeys import OverlayKeys
from .overlays import OverlayDriver
from .portguard import PortGuard


def make_drivers(guard: PortGuard, keys: OverlayKeys) -> dict[str, Driver]:
    """A driver of each kind; `guard` keeps the ports of bridges, `keys` are those of encrypted networks."""
    return {
        "bridge": BridgeDriver(guard),
        "macvlan": MacvlanDriver(),
        "overlay": OverlayDriver(guard, keys),
    }
