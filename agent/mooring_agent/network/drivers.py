# SPDX-License-Identifier: Apache-2.0
"""All kinds of networks, by the names that specs give them."""

from __future__ import annotations

from .bridges import BridgeDriver
from .driver import Driver
from .macvlans import MacvlanDriver
from .overlays import OverlayDriver
from .portguard import PortGuard


def make_drivers(guard: PortGuard) -> dict[str, Driver]:
    """A driver of each kind; `guard` keeps the ports of bridges."""
    return {"bridge": BridgeDriver(guard), "macvlan": MacvlanDriver(), "overlay": OverlayDriver(guard)}
