# SPDX-License-Identifier: Apache-2.0
"""Networks across hosts, as a driver: a bridge, and beside it a device that leads to the others, which is of
VXLAN, or of WireGuard where the network is encrypted.
"""

from __future__ import annotations

from collections.abc import Collection

from ..linux import rtnetlink, wireguard
from ..linux.rtnetlink import RouteSocket
from . import overlaydevice, overlaytunnel
from .bridges import BridgeDriver
from .driver import Sight
from .overlay import Overlay, device_name
from .overlaykeys import OverlayKeys
from .portguard import PortGuard
from .records import Endpoint, Network

_VXLAN = "vxlan"
_KINDS = (_VXLAN, wireguard.KIND)


class OverlayDriver(BridgeDriver):
    """See `driver.Driver`; `keys` are this host's own."""

    def __init__(self, guard: PortGuard, keys: OverlayKeys) -> None:
        super().__init__(guard)
        self._keys = keys

    def links(self, netlink: RouteSocket, network: Network) -> list[str]:
        """See `Driver.links`."""
        return [device_name(network.bridge), *super().links(netlink, network)]

    def ensure(self, netlink: RouteSocket, network: Network) -> None:
        """See `Driver.ensure`. A device of the other kind goes first: encryption has begun, or has ended."""
        (overlay, mtu), name = _of(network), device_name(network.bridge)
        if not overlay.encryption:
            super().ensure(netlink, network)
            _make_way(netlink, name, _VXLAN)
            overlaydevice.ensure(netlink, network.name, network.bridge, overlay, mtu)
            overlaytunnel.unseal(netlink, overlay)
            return
        private = overlaytunnel.private_key(netlink, network.name, name, overlay, self._keys)
        super().ensure(netlink, network)
        overlaytunnel.seal(netlink, network.name, overlay)
        _make_way(netlink, name, wireguard.KIND)
        overlaytunnel.ensure(netlink, network.name, name, overlay, mtu, private)

    def differences(
        self, netlink: RouteSocket, sight: Sight, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """See `Driver.differences`."""
        (overlay, mtu), name = _of(network), device_name(network.bridge)
        found = super().differences(netlink, sight, network, endpoints)
        if overlay.encryption:
            return found + overlaytunnel.differences(netlink, network.name, name, overlay, mtu)
        return found + overlaydevice.differences(netlink, network.name, network.bridge, overlay, mtu)

    def forget(self, network: Network) -> None:
        """See `Driver.forget`."""
        super().forget(network)
        with RouteSocket() as netlink:
            overlaytunnel.unseal(netlink, _of(network)[0])


def _make_way(netlink: RouteSocket, name: str, kind: str) -> None:
    """Remove the device of this name if it is one of ours, but of another kind."""
    link = netlink.link(name)
    if link is not None and link.kind in _KINDS and link.kind != kind:
        netlink.execute(rtnetlink.link_delete(name))


def _of(network: Network) -> tuple[Overlay, int]:
    """The overlay of a network with this driver, and its MTU: both are settled when it is made."""
    assert network.overlay is not None
    assert network.mtu is not None
    return network.overlay, network.mtu
