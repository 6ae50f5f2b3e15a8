# SPDX-License-Identifier: Apache-2.0
"""Networks across hosts, as a driver: a bridge, and beside it a VXLAN device that leads to the others."""

from __future__ import annotations

from collections.abc import Collection

from ..linux.rtnetlink import RouteSocket
from . import overlaydevice
from .bridges import BridgeDriver
from .driver import Sight
from .overlay import Overlay, device_name
from .records import Endpoint, Network


class OverlayDriver(BridgeDriver):
    """See `driver.Driver`."""

    def links(self, netlink: RouteSocket, network: Network) -> list[str]:
        """See `Driver.links`."""
        return [device_name(network.bridge), *super().links(netlink, network)]

    def ensure(self, netlink: RouteSocket, network: Network) -> None:
        """See `Driver.ensure`."""
        super().ensure(netlink, network)
        overlay, mtu = _of(network)
        overlaydevice.ensure(netlink, network.name, network.bridge, overlay, mtu)

    def differences(
        self, netlink: RouteSocket, sight: Sight, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """See `Driver.differences`."""
        overlay, mtu = _of(network)
        return super().differences(netlink, sight, network, endpoints) + overlaydevice.differences(
            netlink, network.name, network.bridge, overlay, mtu
        )


def _of(network: Network) -> tuple[Overlay, int]:
    """The overlay of a network with this driver, and its MTU: both are settled when it is made."""
    assert network.overlay is not None
    assert network.mtu is not None
    return network.overlay, network.mtu
