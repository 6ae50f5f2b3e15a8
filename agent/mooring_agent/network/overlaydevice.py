# SPDX-License-Identifier: Apache-2.0
"""The VXLAN device beside the bridge of an overlay network, and all that it knows."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import Conflict, MooringError
from ..linux import rtnetlink, vxlan
from ..linux.netlink import NetlinkError, attributes
from ..linux.rtnetlink import Link, RouteSocket
from . import sysctls
from .overlay import Address, IPNetwork, Overlay, device_name, gateway_of, overlay_of


def seen_from_here(netlink: RouteSocket, given: Mapping[str, Any], name: str) -> Overlay | None:
    """The overlay that a network's normal form asks for; None for a network of another kind. Raises
    InvalidSpec.
    """
    if given.get("driver") != "overlay":
        return None
    families = socket.AF_INET, socket.AF_INET6
    ours = {found.address for family in families for found in netlink.addresses(family)}
    return overlay_of(given, name, ours.__contains__)


def underlay_mtu(netlink: RouteSocket, overlay: Overlay) -> int:
    """What the interface takes that has this host's address."""
    index = next(
        (
            found.ifindex
            for found in netlink.addresses(_family(overlay.here.address))
            if found.address == str(overlay.here.address)
        ),
        None,
    )
    return next((link.mtu for link in netlink.links() if link.ifindex == index), 1500)


def ensure(netlink: RouteSocket, network: str, bridge: str, overlay: Overlay, mtu: int) -> None:
    """Make the device and what it knows what they should be; what is right is not touched. Raises
    MooringError.
    """
    name = device_name(bridge)
    try:
        device = _device(netlink, name)
        if device is not None and not _is(device, overlay, mtu):
            if device[0].kind != "vxlan":
                raise Conflict(
                    f"network {network} needs the interface name {name}, which a "
                    f"{device[0].kind or 'physical'} interface of the host has; remove or rename that one"
                )
            netlink.execute(rtnetlink.link_delete(name))
            device = None
        if device is None:
            local = str(overlay.here.address)
            netlink.execute(
                vxlan.vxlan_add(name, vni=overlay.vni, local=local, mac=overlay.here.mac, mtu=mtu),
            )
            if os.path.exists(rtnetlink.IPV6_SETTINGS):
                netlink.execute(rtnetlink.link_local_off(name))  # while it is down, or it has one already
        for path, value in _settings(name, overlay):
            sysctls.write(path, value)
        index = netlink.index(name)
        if device is None:
            netlink.execute(rtnetlink.link_set(index, up=True))
        for message in _corrections(netlink, index, overlay):
            netlink.execute(message)
    except NetlinkError as error:
        raise MooringError(
            f"device {name} of the overlay network {network} cannot be made: {error.strerror}; it needs the "
            "kernel's module vxlan, and no other VXLAN device with the same number and port"
        ) from error


def differences(netlink: RouteSocket, network: str, bridge: str, overlay: Overlay, mtu: int) -> list[str]:
    """What is not as it should be, a sentence each."""
    name = device_name(bridge)
    device = _device(netlink, name)
    if device is None or not _is(device, overlay, mtu):
        return [f"device {name} of the overlay network {network} is missing or not as declared"]
    if list(_corrections(netlink, device[0].ifindex, overlay)):
        return [f"device {name} of the overlay network {network} does not lead to exactly its hosts"]
    return [
        f"device {name} of the overlay network {network} needs {value} in {path}"
        for path, value in _settings(name, overlay)
        if sysctls.read(path) not in (None, value)
    ]


def _settings(name: str, overlay: Overlay) -> Iterator[tuple[Path, str]]:
    # Routes are given; a router beyond the device is not believed.
    yield sysctls.of_link(6, name, "accept_ra"), "0"
    if overlay.subnet6 is not None:
        yield sysctls.of_link(6, name, "disable_ipv6"), "0"


def _device(netlink: RouteSocket, name: str) -> tuple[Link, tuple[int, str, int]] | None:
    try:
        payload = netlink.execute(rtnetlink.link_get(name))[0]
    except NetlinkError:
        return None
    found = attributes(payload, rtnetlink.LINK.size)
    data = vxlan.vxlan_data(found.get(rtnetlink.IFLA_LINKINFO, b""))
    return rtnetlink.parse_link(payload), data


def _is(device: tuple[Link, tuple[int, str, int]], overlay: Overlay, mtu: int) -> bool:
    link, data = device
    wanted = overlay.vni, str(overlay.here.address), vxlan.PORT
    return (link.kind, link.mac, link.mtu, link.up, data) == ("vxlan", overlay.here.mac, mtu, True, wanted)


def _corrections(netlink: RouteSocket, index: int, overlay: Overlay) -> Iterator[bytes]:
    """First what leads to hosts that came, and then what led to those that went."""
    entries = _of_device(netlink.dump(vxlan.forwarding_dump()), index)
    for host in overlay.others:
        if entries.pop(host.mac, None) != str(host.address):
            yield vxlan.forward_to(index, host.mac, str(host.address))
    gone: list[bytes] = []
    for which, subnet in enumerate(overlay.subnets):
        neighbours = _of_device(netlink.dump(vxlan.neighbour_dump(_family(subnet))), index)
        routes = {
            (route.destination, route.prefix_length): (route.gateway, route.source)
            for route in netlink.routes(_family(subnet))
            if route.ifindex == index
            and route.table == rtnetlink.RT_TABLE_MAIN
            and not ipaddress.ip_address(route.destination).is_link_local
        }
        own = gateway_of(overlay.here.slices[which])
        for host in overlay.others:
            slice = host.slices[which]
            where, gateway = (str(slice.network_address), slice.prefixlen), gateway_of(slice)
            if neighbours.pop(host.mac, None) != gateway:
                yield vxlan.neighbour_set(index, gateway, host.mac)
            if routes.pop(where, None) != (gateway, own):
                yield vxlan.route_set(index, *where, gateway, own)
        gone += (vxlan.route_delete(index, *where) for where in routes)
        gone += (vxlan.neighbour_delete(index, address) for address in neighbours.values())
    yield from gone
    for mac in entries:
        yield vxlan.forward_no_more(index, mac)


def _of_device(payloads: Iterable[bytes], index: int) -> dict[str, str]:
    """What is permanent on a device: addresses by MAC."""
    found = map(vxlan.parse_neighbour, payloads)
    return {
        one.mac: one.address for one in found if one is not None and one.ifindex == index and one.permanent
    }


def _family(where: Address | IPNetwork) -> int:
    return socket.AF_INET if where.version == 4 else socket.AF_INET6
