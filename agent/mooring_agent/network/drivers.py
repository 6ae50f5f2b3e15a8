# SPDX-License-Identifier: Apache-2.0
"""All kinds of networks, by the names that specs give them."""

from __future__ import annotations

from .bridges import BridgeDriver
from .driver import Driver
from .macvlans import MacvlanDriver


def make_drivers() -> dict[str, Driver]:
    """A driver of each kind."""
    return {"bridge": BridgeDriver(), "macvlan": MacvlanDriver()}
