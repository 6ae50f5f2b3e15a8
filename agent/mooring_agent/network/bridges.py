# SPDX-License-Identifier: Apache-2.0
"""A network's bridge: made, compared, repaired. Each function leaves alone what is already right."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from ..errors import Conflict, MooringError
from ..linux import rtnetlink
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import Address, Link, RouteSocket
from .records import Endpoint, Network, mac_address

SYSCTL = Path("/proc/sys/net")
# Documentation/networking/ip-sysctl.rst
FORWARD = SYSCTL / "ipv4/ip_forward"


def ensure(socket: RouteSocket, network: Network) -> int:
    """Make the bridge what it should be, and return its index.

    Raises Conflict if something else has its name, MooringError if the kernel refuses.
    """
    try:
        link = socket.link(network.bridge)
        if link is None:
            add = rtnetlink.bridge_add(network.bridge, mac_address(network.gateway))
            link = rtnetlink.parse_link(socket.execute(add, rtnetlink.link_get(network.bridge))[0])
        elif link.kind != "bridge":
            raise Conflict(
                f"network {network.name} needs the interface name {network.bridge}, which a "
                f"{link.kind or 'physical'} interface of the host has; remove or rename that one"
            )
        socket.execute(*_corrections(network, link, socket.addresses()))
    except NetlinkError as error:
        raise MooringError(
            f"bridge {network.bridge} of network {network.name} cannot be made: {error.strerror}"
        ) from error
    for path, value in _sysctls(network.bridge):
        _write(path, value)
    return link.ifindex


def plug_in(socket: RouteSocket, network: Network, endpoints: Collection[Endpoint]) -> None:
    """Make those outer ends of `endpoints` that are there ports of the bridge again."""
    bridge = socket.link(network.bridge)
    if bridge is None:
        return
    for port in _strays(socket, bridge.ifindex, endpoints):
        socket.execute(
            rtnetlink.link_set(port.ifindex, master=bridge.ifindex, up=True),
            rtnetlink.bridge_port_set(port.name, hairpin=True),
        )


def differences(socket: RouteSocket, network: Network, endpoints: Collection[Endpoint] = ()) -> list[str]:
    """What of the bridge is not as it should be, a sentence each."""
    name = f"bridge {network.bridge} of network {network.name}"
    link = socket.link(network.bridge)
    if link is None or link.kind != "bridge":
        return [f"{name} is missing"]
    found = []
    if list(_corrections(network, link, socket.addresses())):
        found.append(
            f"{name} is down or has not the address {network.gateway}/{network.subnet.prefixlen} alone"
        )
    for path, value in _sysctls(network.bridge):
        if _read(path) not in (None, value):
            found.append(f"{name} needs {value} in {path}")
    found += (f"{name} has lost its port {port.name}" for port in _strays(socket, link.ifindex, endpoints))
    return found


def _corrections(network: Network, link: Link, addresses: Collection[Address]) -> Iterator[bytes]:
    mac = mac_address(network.gateway)
    if link.mac != mac:
        yield rtnetlink.link_set(link.ifindex, mac=mac)
    if not link.up:
        yield rtnetlink.link_set(link.ifindex, up=True)
    wanted = Address(link.ifindex, str(network.gateway), network.subnet.prefixlen)
    present = [address for address in addresses if address.ifindex == link.ifindex]
    for address in present:
        if address != wanted:
            yield rtnetlink.address_delete(link.ifindex, address.address, address.prefix_length)
    if wanted not in present:
        broadcast = str(network.subnet.broadcast_address)
        yield rtnetlink.address_add(link.ifindex, wanted.address, wanted.prefix_length, broadcast)


def _strays(socket: RouteSocket, bridge: int, endpoints: Collection[Endpoint]) -> list[Link]:
    names = {endpoint.host_ifname for endpoint in endpoints}
    if not names:
        return []
    return [link for link in socket.links() if link.name in names and link.master != bridge]


def _sysctls(bridge: str) -> list[tuple[Path, str]]:
    return [
        (FORWARD, "1"),
        # The host's 127.0.0.1 leads to published ports; the chain "guard" keeps everybody else away from it.
        (SYSCTL / f"ipv4/conf/{bridge}/route_localnet", "1"),
        # No router advertisement from a container shall change the host's routes.
        (SYSCTL / f"ipv6/conf/{bridge}/accept_ra", "0"),
    ]


def _read(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except FileNotFoundError:  # a kernel without IPv6
        return None


def _write(path: Path, value: str) -> None:
    """Write a kernel setting, but only if it has another value."""
    if _read(path) in (None, value):
        return
    try:
        path.write_text(value)
    except OSError as error:
        raise MooringError(
            f"{path} cannot be set to {value}, which networks need: {error.strerror}; set it on the host"
        ) from None
