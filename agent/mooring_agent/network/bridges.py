# SPDX-License-Identifier: Apache-2.0
"""Networks of a bridge of their own: made, compared, repaired.

A bridge of Linux has at most 1,023 ports. A network that needs more gets further bridges, each joined to the
first one by a veth pair (a trunk), so that all are one Ethernet. The first one alone has addresses and is
what the firewall knows; what goes from one bridge to another, or to the host, crosses one trunk or two.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import zlib
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import Conflict, MooringError
from ..linux import bridging, rtnetlink
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import Address, Link, RouteSocket
from . import sysctls, veths
from .driver import Sight
from .portguard import PortGuard
from .records import Endpoint, IPAddress, Network
from .veths import Cable

MOST_PORTS = 1000
"""How many cables lead to a bridge; the others of the kernel's 1,023 are for trunks."""

_ENOUGH_PORTS = 900
"""A bridge with as many gets no further ones when its ports are counted, so that counting stays rare."""


def present(netlink: RouteSocket, names: Collection[str]) -> list[int]:
    """The indices of those of the bridges that are there."""
    found = []
    for name in names:
        try:
            found.append(netlink.index(name))
        except OSError:
            continue
    return found


@dataclass(slots=True)
class _Room:
    """The bridge to which the next cables lead, and how many until its ports are counted again."""

    bridge: int
    left: int


class BridgeDriver:
    """See `driver.Driver`. `guard` sees to it that containers speak in their own names."""

    filtered = True

    def __init__(self, guard: PortGuard) -> None:
        self._guard = guard
        self._rooms: dict[str, _Room] = {}

    def links(self, netlink: RouteSocket, network: Network) -> list[str]:
        """See `Driver.links`: the bridges; the trunks go with the further ones."""
        links = netlink.links()
        further, first = _further(network, links), _first(network, links)
        mine = [] if first is None else [first.name]
        return [*(_trunk(link.name)[0] for link in further), *(link.name for link in further), *mine]

    def reserved(self, netlink: RouteSocket, network: Network) -> Collection[IPAddress]:
        """See `Driver.reserved`."""
        return ()

    def ensure(self, netlink: RouteSocket, network: Network) -> None:
        """See `Driver.ensure`."""
        try:
            link = netlink.link(network.bridge)
            if link is None:
                add = rtnetlink.bridge_add(network.bridge, network.mac, network.mtu)
                link = rtnetlink.parse_link(netlink.execute(add, rtnetlink.link_get(network.bridge))[0])
            elif link.kind != "bridge":
                raise Conflict(
                    f"network {network.name} needs the interface name {network.bridge}, which a "
                    f"{link.kind or 'physical'} interface of the host has; remove or rename that one"
                )
            elif not _is_ours(network, link):
                raise Conflict(
                    f"network {network.name} is to have the bridge {network.bridge}, and the host has one of "
                    "that name, which is none of ours; choose another bridge_name, or remove that bridge"
                )
            if network.ipv6 is not None:
                sysctls.require_ipv6(network.name)
                sysctls.keep_router_advertisements()
            for path, value in _settings(network):
                sysctls.write(path, value)
            netlink.execute(*_corrections(network, link, _addresses(netlink, network)))
            if network.rules:
                sysctls.require_bridge_netfilter(network.name)
            for bridge in (link, *_further(network, netlink.links())):
                netlink.execute(bridging.bridge_netfilter(bridge.name, on=bool(network.rules)))
        except NetlinkError as error:
            raise MooringError(
                f"bridge {network.bridge} of network {network.name} cannot be made: {error.strerror}"
            ) from error
        room = self._rooms.get(network.name)
        if room is None or room.bridge != link.ifindex:
            self._rooms[network.name] = _Room(link.ifindex, 0)

    def restore(self, netlink: RouteSocket, network: Network, endpoints: Collection[Endpoint]) -> None:
        """See `Driver.restore`."""
        links = netlink.links()
        first = _first(network, links)
        if first is None:
            return
        for link in _further(network, links):
            if _trunk_broken(first, link, links):
                _join(netlink, network, first.ifindex, link.name, link.ifindex)
        for port in _strays(network, links, endpoints):
            bridge = self._bridge_with_room(netlink, network)
            try:
                netlink.execute(
                    rtnetlink.link_set(port.ifindex, master=bridge, up=True),
                    rtnetlink.bridge_port_set(port.name, hairpin=True, isolated=network.port_isolation),
                )
            except NetlinkError as error:
                # Its container, or a launcher that waited, may have ended meanwhile.
                if error.errno != errno.ENODEV or netlink.link(port.name) is not None:
                    raise

    def differences(
        self, netlink: RouteSocket, sight: Sight, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """See `Driver.differences`."""
        name = f"bridge {network.bridge} of network {network.name}"
        links, first = sight.links, _first(network, sight.links)
        if first is None or first.kind != "bridge":
            return [f"{name} is missing"]
        found = []
        if list(_corrections(network, first, _own(network, sight.addresses))):
            addresses = " and ".join(
                f"{subnet.gateway}/{subnet.cidr.prefixlen}" for subnet in network.subnets
            )
            found.append(f"{name} is down or has not the address {addresses} alone")
        for path, value in _settings(network):
            if sysctls.read(path) not in (None, value):
                found.append(f"{name} needs {value} in {path}")
        found += (
            f"{name} has lost its trunk to {link.name}"
            for link in _further(network, links)
            if _trunk_broken(first, link, links)
        )
        found += (f"{name} has lost its port {port.name}" for port in _strays(network, links, endpoints))
        return found

    def lays_ahead(self, network: Network) -> bool:
        """See `Driver.lays_ahead`."""
        return True

    def lay(self, netlink: RouteSocket, network: Network, host_ifname: str, pid: int, ifname: str) -> Cable:
        """See `Driver.lay`. Raises Conflict if even a further bridge has no room."""
        bridge = self._bridge_with_room(netlink, network)
        try:
            return veths.lay(netlink, bridge, network, host_ifname, pid, ifname, self._guard)
        except OSError as error:
            if error.errno != errno.EXFULL:
                raise
        self._rooms[network.name].left = 0
        try:
            bridge = self._bridge_with_room(netlink, network)
            return veths.lay(netlink, bridge, network, host_ifname, pid, ifname, self._guard)
        except OSError as error:
            if error.errno != errno.EXFULL:
                raise
            raise Conflict(
                f"network {network.name} is full: somebody else has taken the ports of its bridge "
                f"{network.bridge}; take them out of it, or declare another network"
            ) from error

    def forget(self, network: Network) -> None:
        """See `Driver.forget`."""
        self._rooms.pop(network.name, None)

    def _bridge_with_room(self, netlink: RouteSocket, network: Network) -> int:
        """The index of the bridge that the next cable leads to."""
        room = self._rooms[network.name]
        if room.left <= 0:
            room = self._rooms[network.name] = _find_room(netlink, network)
        room.left -= 1
        return room.bridge


def _find_room(netlink: RouteSocket, network: Network) -> _Room:
    links = netlink.links()
    ports = Counter(link.master for link in links)
    first = _first(network, links)
    if first is None:
        raise NetlinkError(errno.ENODEV, f"bridge {network.bridge} is missing")
    further = _further(network, links)
    for bridge in (first, *further):
        if ports[bridge.ifindex] < _ENOUGH_PORTS:
            return _Room(bridge.ifindex, MOST_PORTS - ports[bridge.ifindex])
    sysctls.make_room_for_neighbours()
    taken = {link.name for link in further}
    name = next(
        name for number in range(1, len(taken) + 2) if (name := f"{_stem(network)}x{number}") not in taken
    )
    # A MAC of its own, that no address stands for: else it would change with its ports.
    mac = (b"\x02x" + zlib.crc32(name.encode()).to_bytes(4)).hex(":")
    add = rtnetlink.bridge_add(name, mac, network.mtu)
    link = rtnetlink.parse_link(netlink.execute(add, rtnetlink.link_get(name))[0])
    if sysctls.has_ipv6():
        netlink.execute(rtnetlink.link_local_off(name))
    if network.rules:
        netlink.execute(bridging.bridge_netfilter(name, on=True))
    _join(netlink, network, first.ifindex, name, link.ifindex)
    return _Room(link.ifindex, MOST_PORTS)


def _join(netlink: RouteSocket, network: Network, first: int, name: str, further: int) -> None:
    """Lay the trunk between the first bridge of a network and a further one."""
    upper, lower = _trunk(name)
    if netlink.link(upper) is not None:
        netlink.execute(rtnetlink.link_delete(upper))
    netlink.execute(
        rtnetlink.veth_add(upper, master=first, peer_name=lower, peer_pid=os.getpid(), mtu=network.mtu)
    )
    if sysctls.has_ipv6():
        netlink.execute(rtnetlink.link_local_off(upper), rtnetlink.link_local_off(lower))
    netlink.execute(rtnetlink.link_set(netlink.index(lower), master=further, up=True))
    if network.port_isolation:  # what comes from a further bridge gets to the host alone, and back from there
        netlink.execute(rtnetlink.bridge_port_set(upper, hairpin=False, isolated=True))


def _trunk(name: str) -> tuple[str, str]:
    """The two ends of the trunk to the further bridge `name`: that on the first bridge, and that on it."""
    return f"{name}u", f"{name}d"


def _first(network: Network, links: Collection[Link]) -> Link | None:
    """Its own bridge, if it is there."""
    return next((link for link in links if link.name == network.bridge and _is_ours(network, link)), None)


def _is_ours(network: Network, link: Link) -> bool:
    """Whether a bridge of the right name is the network's. Nobody else gives names such as ours; of one that
    is declared the MAC tells, which is made of the gateway's address in a way of our own.
    """
    return not network.bridge_name or link.mac == network.mac


def _stem(network: Network) -> str:
    """What the names of its further bridges begin with; one that is declared leaves no room for more."""
    if not network.bridge_name:
        return network.bridge
    return f"mb{zlib.crc32(network.bridge.encode()):08x}"


def _further(network: Network, links: Collection[Link]) -> list[Link]:
    """The further bridges of a network."""
    pattern = re.compile(re.escape(_stem(network)) + r"x[0-9]+")
    return [link for link in links if link.kind == "bridge" and pattern.fullmatch(link.name)]


def _trunk_broken(first: Link, further: Link, links: Collection[Link]) -> bool:
    upper, lower = _trunk(further.name)
    wanted = {(upper, first.ifindex, True), (lower, further.ifindex, True)}
    return not wanted <= {(link.name, link.master, link.up) for link in links}


def _corrections(network: Network, link: Link, addresses: Collection[Address]) -> Iterator[bytes]:
    if link.mac != network.mac:
        yield rtnetlink.link_set(link.ifindex, mac=network.mac)
    if network.mtu is not None and link.mtu != network.mtu:
        yield rtnetlink.link_set(link.ifindex, mtu=network.mtu)
    if not link.up:
        yield rtnetlink.link_set(link.ifindex, up=True)
    wanted = {
        Address(link.ifindex, str(subnet.gateway), subnet.cidr.prefixlen): subnet
        for subnet in network.subnets
    }
    present = [address for address in addresses if address.ifindex == link.ifindex]
    for address in present:
        if address not in wanted:
            yield rtnetlink.address_delete(link.ifindex, address.address, address.prefix_length)
    for address, subnet in wanted.items():
        if address not in present:
            broadcast = str(subnet.cidr.broadcast_address) if subnet.cidr.version == 4 else None
            yield rtnetlink.address_add(link.ifindex, address.address, address.prefix_length, broadcast)


def _addresses(netlink: RouteSocket, network: Network) -> list[Address]:
    """The addresses of the host's links, without those that IPv6 gives to every link."""
    found = netlink.addresses(socket.AF_INET)
    if network.ipv6 is not None:
        found += netlink.addresses(socket.AF_INET6)
    return _own(network, found)


def _own(network: Network, addresses: Collection[Address]) -> list[Address]:
    """Those of the IP versions that the network is given addresses of, without what every link has."""
    return [
        one
        for one in addresses
        if ":" not in one.address or (network.ipv6 is not None and not one.address.startswith("fe80:"))
    ]


def _strays(network: Network, links: Collection[Link], endpoints: Collection[Endpoint]) -> list[Link]:
    names = {endpoint.host_ifname for endpoint in endpoints}
    if not names:
        return []
    bridges = {link.ifindex for link in _further(network, links)}
    bridges.update(first.ifindex for first in (_first(network, links),) if first is not None)
    return [link for link in links if link.name in names and link.master not in bridges]


def _settings(network: Network) -> Iterator[tuple[Path, str]]:
    if network.ipv4 is not None:
        yield sysctls.FORWARD, "1"
        # The host's 127.0.0.1 leads to published ports; the chain "guard" keeps everybody else away from it.
        yield sysctls.of_link(4, network.bridge, "route_localnet"), "1"
    # No router advertisement from a container shall change the host's routes.
    yield sysctls.of_link(6, network.bridge, "accept_ra"), "0"
    if network.ipv6 is not None:
        # Its link-local address is usable at once: with it the host asks for containers whom others look for.
        yield sysctls.of_link(6, network.bridge, "accept_dad"), "0"
        yield sysctls.of_link(6, network.bridge, "disable_ipv6"), "0"
        yield sysctls.FORWARD6, "1"
