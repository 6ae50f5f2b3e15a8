# SPDX-License-Identifier: Apache-2.0
"""Networks across hosts: each host has a slice of the subnet, and VXLAN leads to the slices of the others.

Nothing is asked, learned or flooded (docs/decisions/0013-overlay.md): every host is told of all hosts, and
works out the same slices, MACs and routes from that. On a host the network is a bridge like any other, with
its slice as subnet; what is for another slice is routed through a VXLAN device to that host's device, whose
MAC and underlay address are known. So a host that comes or goes changes one route, one neighbour and one
forwarding entry on each of the others, and nothing that is used by anybody else.
"""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidSpec

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

OUTER_BYTES = {4: 50, 6: 70}
"""What a frame grows by underway: Ethernet, VXLAN, UDP and the underlay's IP header."""

NARROWEST_SLICE = 28
_MOST_VNI = 2**24 - 1
_SLICE_BITS = 8


@dataclass(frozen=True, slots=True)
class Host:
    """A host of an overlay: its underlay address, and its slice of the subnet."""

    name: str
    address: Address
    slice: ipaddress.IPv4Network

    @property
    def gateway(self) -> str:
        """The address of its bridge."""
        return str(self.slice.network_address + 1)

    @property
    def mac(self) -> str:
        """The MAC of its VXLAN device: locally administered, and told by its slice."""
        return (b"\x02v" + self.slice.network_address.packed).hex(":")


@dataclass(frozen=True, slots=True)
class Overlay:
    """A network across `hosts`, seen from the host `own`."""

    subnet: ipaddress.IPv4Network
    vni: int
    hosts: tuple[Host, ...]
    own: str

    @property
    def here(self) -> Host:
        """This host."""
        return next(host for host in self.hosts if host.name == self.own)

    @property
    def others(self) -> tuple[Host, ...]:
        """All but this one."""
        return tuple(host for host in self.hosts if host.name != self.own)

    def view(self) -> dict[str, Any]:
        """The overlay as JSON; `restored` reads it."""
        return {
            "subnet": str(self.subnet),
            "vni": self.vni,
            "host": self.own,
            "hosts": {
                host.name: {"address": str(host.address), "slice": str(host.slice)} for host in self.hosts
            },
        }

    def mtu(self, underlay: int) -> int:
        """What containers may send at once where the underlay takes `underlay` bytes."""
        return underlay - OUTER_BYTES[self.here.address.version]


def restored(view: Mapping[str, Any]) -> Overlay:
    """The overlay of a view."""
    hosts = tuple(
        Host(name, ipaddress.ip_address(said["address"]), ipaddress.IPv4Network(said["slice"]))
        for name, said in view["hosts"].items()
    )
    return Overlay(ipaddress.IPv4Network(view["subnet"]), view["vni"], hosts, view["host"])


def normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options hosts, host, vni and slice_prefix of an overlay in normal form. Raises InvalidSpec."""
    where = "an overlay network"
    if "subnet" not in given:
        raise InvalidSpec(f"{where} needs the option subnet, which all its hosts share; name one")
    subnet = ipaddress.IPv4Network(given["subnet"])
    hosts = given.get("hosts")
    if not isinstance(hosts, Mapping) or not hosts:
        raise InvalidSpec(
            f"{where} needs the option hosts, which is {hosts!r}: expected a mapping of names of hosts to "
            "their addresses, such as {web1: 192.0.2.11}"
        )
    normal: dict[str, Any] = {"hosts": {}}
    for host, said in hosts.items():
        normal["hosts"][str(host)] = _host(f"{where}: host {host}", said)
    versions = {ipaddress.ip_address(said["address"]).version for said in normal["hosts"].values()}
    if len(versions) > 1:
        raise InvalidSpec(f"{where} has hosts with IPv4 and others with IPv6 addresses, expected one of both")
    addresses = [said["address"] for said in normal["hosts"].values()]
    if len(set(addresses)) < len(addresses):
        twice = next(address for address in addresses if addresses.count(address) > 1)
        raise InvalidSpec(f"{where} has two hosts with the address {twice}, expected one each")
    if "host" in given:
        if given["host"] not in normal["hosts"]:
            raise InvalidSpec(
                f"{where} says that this host is {given['host']!r}, which is not among its hosts "
                f"({', '.join(normal['hosts'])}); add it, or remove the network here"
            )
        normal["host"] = given["host"]
    if "vni" in given:
        normal["vni"] = _number(f"{where}: vni", given["vni"], 1, _MOST_VNI)
    if "slice_prefix" in given:
        least, most = subnet.prefixlen + 1, 30
        normal["slice_prefix"] = _number(f"{where}: slice_prefix", given["slice_prefix"], least, most)
    slices(subnet, normal, where)
    return normal


def overlay_of(given: Mapping[str, Any], name: str, is_ours: Callable[[str], bool]) -> Overlay:
    """The overlay of a normal form, seen from here: this host is the one that is named, or that has one of
    our addresses. Raises InvalidSpec if that is none or not one.
    """
    subnet = ipaddress.IPv4Network(given["subnet"])
    found = slices(subnet, given, f"network {name}")
    own = given.get("host")
    if own is None:
        ours = [host.name for host in found if is_ours(str(host.address))]
        if len(ours) != 1:
            which = f"several of ours: {', '.join(ours)}" if ours else "none of ours"
            raise InvalidSpec(
                f"network {name} names the hosts {', '.join(host.name for host in found)}, whose addresses "
                f"are {which}; say which is this one with the option host"
            )
        own = ours[0]
    elif not is_ours(str(next(host.address for host in found if host.name == own))):
        raise InvalidSpec(
            f"network {name} says that this host is {own}, but no interface has its address "
            f"{given['hosts'][own]['address']}; expected one of the host's own addresses"
        )
    return Overlay(subnet, given.get("vni") or vni_of(name), found, own)


def vni_of(name: str) -> int:
    """The number of a network whose declaration gives none: the same on all hosts."""
    return zlib.crc32(name.encode()) % _MOST_VNI + 1


def slices(subnet: ipaddress.IPv4Network, given: Mapping[str, Any], where: str) -> tuple[Host, ...]:
    """The hosts with their slices, in the order of the addresses.

    A slice is the one that is asked for, or that the last bits of the host's address tell: so it stays when
    others come and go. Raises InvalidSpec if two hosts would have the same.
    """
    prefix = given.get("slice_prefix") or max(
        min(subnet.prefixlen + _SLICE_BITS, NARROWEST_SLICE), subnet.prefixlen + 1
    )
    if not subnet.prefixlen < prefix <= 30:
        raise InvalidSpec(
            f"{where} has the subnet {subnet}, which is too small to be shared; expected one of at most "
            f"/{NARROWEST_SLICE - 1}"
        )
    count = 1 << (prefix - subnet.prefixlen)
    found: dict[int, Host] = {}
    for name, said in given["hosts"].items():
        address = ipaddress.ip_address(said["address"])
        chosen = said.get("slice")
        if chosen is not None and chosen >= count:
            raise InvalidSpec(
                f"{where}: host {name} has the slice {chosen}, expected one from 0 to {count - 1}: {subnet} "
                f"has {count} of /{prefix}"
            )
        position = int(address) % count if chosen is None else chosen
        if position in found:
            raise InvalidSpec(
                f"{where}: hosts {found[position].name} and {name} would both have slice {position} of "
                f"{count}; give one of them another one: {name}: {{address: {address}, slice: NUMBER}}"
            )
        start = int(subnet.network_address) + (position << (32 - prefix))
        found[position] = Host(name, address, ipaddress.IPv4Network((start, prefix)))
    return tuple(host for _, host in sorted(found.items()))


def device_name(bridge: str) -> str:
    """The name of the VXLAN device beside a network's bridge."""
    return f"mo{bridge[2:]}"


def _host(where: str, said: object) -> dict[str, Any]:
    given = {"address": said} if isinstance(said, str) else said
    if not isinstance(given, Mapping) or not set(given) <= {"address", "slice"} or "address" not in given:
        raise InvalidSpec(f"{where} is {said!r}, expected an address, or a mapping of address and slice")
    try:
        address = ipaddress.ip_address(given["address"])
    except ValueError:
        address = None
    zoned = "%" in str(given["address"])
    if address is None or zoned or address.is_multicast or address.is_unspecified or address.is_loopback:
        raise InvalidSpec(
            f"{where} has the address {given['address']!r}, expected that of an interface of it"
        )
    normal: dict[str, Any] = {"address": str(address)}
    if given.get("slice") is not None:
        normal["slice"] = _number(f"{where}: slice", given["slice"], 0, 2**24)
    return normal


def _number(where: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str) and value.isdigit():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidSpec(f"{where} is {value!r}, expected a number from {least} to {most}")
    return value
