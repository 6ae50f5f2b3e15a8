# SPDX-License-Identifier: Apache-2.0
"""Networks on a network that the host is connected to: each container has an interface with a MAC of its own
beside the host's, `parent` (Documentation/networking/ipvlan.rst compares it with its sibling).

The host itself and its macvlan containers do not reach each other over the parent: the kernel keeps them
apart.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Collection

from ..errors import Conflict, NotFound, Unavailable
from ..linux import rtnetlink
from ..linux.rtnetlink import Link, RouteSocket
from .driver import Sight
from .records import Endpoint, IPAddress, Network
from .veths import Cable

_MODES = {
    "private": rtnetlink.MACVLAN_MODE_PRIVATE,
    "vepa": rtnetlink.MACVLAN_MODE_VEPA,
    "bridge": rtnetlink.MACVLAN_MODE_BRIDGE,
    "passthru": rtnetlink.MACVLAN_MODE_PASSTHRU,
}


def require_parent(netlink: RouteSocket, network: str, parent: str) -> Link:
    """The parent of a network. Raises NotFound if the host has no such interface."""
    link = netlink.link(parent)
    if link is None:
        raise NotFound(
            f"interface {parent}, the parent of network {network}, does not exist on this host; create it "
            "first, or choose another parent"
        )
    return link


class MacvlanDriver:
    """See `driver.Driver`. Nothing of such a network is on the host but its parent, which is not ours."""

    filtered = False

    def links(self, netlink: RouteSocket, network: Network) -> list[str]:
        """See `Driver.links`."""
        return []

    def reserved(self, netlink: RouteSocket, network: Network) -> Collection[IPAddress]:
        """See `Driver.reserved`: the host's own addresses on the parent."""
        link = netlink.link(network.parent)
        if link is None:
            return ()
        families = [socket.AF_INET] * bool(network.ipv4) + [socket.AF_INET6] * bool(network.ipv6)
        return [
            ipaddress.ip_address(address.address)
            for family in families
            for address in netlink.addresses(family)
            if address.ifindex == link.ifindex
        ]

    def ensure(self, netlink: RouteSocket, network: Network) -> None:
        """See `Driver.ensure`."""
        require_parent(netlink, network.name, network.parent)

    def restore(self, netlink: RouteSocket, network: Network, endpoints: Collection[Endpoint]) -> None:
        """See `Driver.restore`: the kernel removes the containers' interfaces with their parent."""

    def differences(
        self, netlink: RouteSocket, sight: Sight, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """See `Driver.differences`."""
        link = sight.link(network.parent)
        if link is None:
            return [f"interface {network.parent}, the parent of network {network.name}, is missing"]
        return (
            [] if link.up else [f"interface {network.parent}, the parent of network {network.name}, is down"]
        )

    def lays_ahead(self, network: Network) -> bool:
        """See `Driver.lays_ahead`: with passthru there is one interface in all."""
        return network.mode != "passthru"

    def lay(self, netlink: RouteSocket, network: Network, host_ifname: str, pid: int, ifname: str) -> Cable:
        """See `Driver.lay`."""
        parent = require_parent(netlink, network.name, network.parent)
        if not parent.up:
            raise Unavailable(
                f"interface {network.parent}, the parent of network {network.name}, is down: bring it up"
            )
        try:
            netlink.execute(
                rtnetlink.macvlan_add(
                    ifname, parent=parent.ifindex, mode=_MODES[network.mode], mtu=network.mtu, pid=pid
                )
            )
        except OSError as error:
            if error.errno == errno.EINVAL and network.mode == "passthru":
                raise Conflict(
                    f"network {network.name} hands its parent {network.parent} through to one container, and "
                    "another one has it; stop that one first, or choose the mode bridge"
                ) from error
            if error.errno == errno.EBUSY:
                raise Conflict(
                    f"interface {network.parent}, the parent of network {network.name}, is in use by "
                    "something else, such as a bridge; choose another parent"
                ) from error
            raise
        inside = rtnetlink.socket_inside(pid)
        try:
            return Cable(network.name, "", inside, ifname, inside.index(ifname))
        except OSError:
            inside.close()
            raise

    def forget(self, network: Network) -> None:
        """See `Driver.forget`."""
