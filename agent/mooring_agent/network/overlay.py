# SPDX-License-Identifier: Apache-2.0
"""Networks across hosts: each host has a slice of each subnet, and VXLAN leads to the slices of the others,
or WireGuard where the network is encrypted.

Nothing is asked, learned or flooded (docs/decisions/0013-overlay.md): every host is told of all hosts, and
works out the same slices, MACs and routes from that. On a host the network is a bridge like any other, with
its slices as subnets; what is for another slice is routed through a VXLAN device to that host's device, whose
MAC and underlay address are known. So a host that comes or goes changes one route and one neighbour of each
IP version and one forwarding entry on each of the others, and nothing that is used by anybody else. Where the
network is encrypted, it changes one peer of a WireGuard device (docs/decisions/0015-overlay-encryption.md).
"""

from __future__ import annotations

import hashlib
import ipaddress
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidSpec
from . import encryption

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
Subnets = tuple[ipaddress.IPv4Network | None, ipaddress.IPv6Network | None]
"""What is shared of IPv4 and of IPv6, None of a version that the network does not have."""

OUTER_BYTES = {4: 50, 6: 70}
"""What a frame grows by underway: Ethernet, VXLAN, UDP and the underlay's IP header."""

NARROWEST_SLICE = 28
NARROWEST_SLICE6 = 124
USUAL_SLICE6 = 64
"""What one link has of IPv6 (RFC 4291, 2.5.1), where the subnet has room for it."""
_MOST_VNI = 2**24 - 1
_MOST_SLICE = 2**24 - 1
_SLICE_BITS = 8
_MOST_SLICE_BITS = 24


@dataclass(frozen=True, slots=True)
class Host:
    """A host of an overlay: its underlay address, its slices of the subnets, at least one of both, and its
    public key in base64 if the network is encrypted.
    """

    name: str
    address: Address
    slice: ipaddress.IPv4Network | None
    slice6: ipaddress.IPv6Network | None = None
    public_key: str = ""

    @property
    def slices(self) -> tuple[IPNetwork, ...]:
        """Its slices, that of IPv4 first."""
        return tuple(one for one in (self.slice, self.slice6) if one is not None)

    @property
    def mac(self) -> str:
        """The MAC of its VXLAN device: locally administered, and told by its slice; by that of IPv6 where it
        has no other, of which the last 32 bits of the prefix tell all slices of a subnet apart.
        """
        if self.slice is not None:
            return (b"\x02v" + self.slice.network_address.packed).hex(":")
        [slice6] = self.slices
        number = int(slice6.network_address) >> (128 - slice6.prefixlen)
        return (b"\x02w" + (number & 2**32 - 1).to_bytes(4)).hex(":")


@dataclass(frozen=True, slots=True)
class Overlay:
    """A network across `hosts`, seen from the host `own`.

    It has a VNI if it is not encrypted; else `encryption` says how it is, and `port` is the UDP port for it.
    """

    subnet: ipaddress.IPv4Network | None
    vni: int
    hosts: tuple[Host, ...]
    own: str
    subnet6: ipaddress.IPv6Network | None = None
    encryption: str = ""
    port: int = 0

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """What its hosts share, that of IPv4 first."""
        return tuple(one for one in (self.subnet, self.subnet6) if one is not None)

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
            "subnet": _text(self.subnet),
            "subnet6": _text(self.subnet6),
            "vni": self.vni or None,
            "host": self.own,
            "hosts": {
                host.name: {
                    "address": str(host.address),
                    "slice": _text(host.slice),
                    "slice6": _text(host.slice6),
                    **({"public_key": host.public_key} if host.public_key else {}),
                }
                for host in self.hosts
            },
            "encryption": self.encryption or None,
            "port": self.port or None,
        }

    def mtu(self, underlay: int) -> int:
        """What containers may send at once where the underlay takes `underlay` bytes."""
        outer = encryption.OUTER_BYTES if self.encryption else OUTER_BYTES
        return underlay - outer[self.here.address.version]


def restored(view: Mapping[str, Any]) -> Overlay:
    """The overlay of a view; one of before there was IPv6 says nothing of it."""
    hosts = tuple(
        Host(
            name,
            ipaddress.ip_address(said["address"]),
            _network4(said["slice"]),
            _network6(said.get("slice6")),
            said.get("public_key", ""),
        )
        for name, said in view["hosts"].items()
    )
    return Overlay(
        _network4(view["subnet"]),
        view["vni"] or 0,
        hosts,
        view["host"],
        _network6(view.get("subnet6")),
        view.get("encryption") or "",
        view.get("port") or 0,
    )


def gateway_of(slice: IPNetwork) -> str:
    """The address that the bridge of a slice's host has in it."""
    return str(slice.network_address + 1)


def normalise(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of an overlay alone (`specs.OF_OVERLAYS`) in normal form. Raises InvalidSpec."""
    where = "an overlay network"
    if "subnet" not in given and given.get("ipv4", True):
        raise InvalidSpec(f"{where} needs the option subnet, which all its hosts share; name one")
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
    subnets = subnets_of({**given, **normal}, "")
    for host, said in normal["hosts"].items():
        within = next((one for one in subnets if one and ipaddress.ip_address(said["address"]) in one), None)
        if within is not None:
            raise InvalidSpec(
                f"{where}: host {host} has the address {said['address']}, which is in the network's own "
                f"subnet {within}; expected that by which the others reach it without the network"
            )
    if "slice_prefix" in given:
        if subnets[0] is None:
            raise InvalidSpec(
                f"{where} has the option slice_prefix, which is about the slices of IPv4, but ipv4 is false; "
                "remove it"
            )
        least, most = subnets[0].prefixlen + 1, 30
        normal["slice_prefix"] = _number(f"{where}: slice_prefix", given["slice_prefix"], least, most)
    slices(subnets, normal, where)
    return normal | encryption.normalise(given, normal["hosts"], where)


def subnets_of(given: Mapping[str, Any], name: str) -> Subnets:
    """What a network called `name` shares between its hosts. IPv6 addresses that are asked for but not named
    are unique local ones (RFC 4193, 3.1), told by its name, so that all hosts know the same.
    """
    subnet6 = _network6(given.get("subnet6"))
    if subnet6 is None and given.get("ipv6"):
        global_id = hashlib.sha256(f"mooring overlay\0{name}".encode()).digest()[:5]
        subnet6 = ipaddress.IPv6Network((b"\xfd" + global_id + bytes(10), 48))
    return _network4(given.get("subnet")), subnet6


def overlay_of(given: Mapping[str, Any], name: str, is_ours: Callable[[str], bool]) -> Overlay:
    """The overlay of a normal form, seen from here: this host is the one that is named, or that has one of
    our addresses. Raises InvalidSpec if that is none or not one.
    """
    subnet, subnet6 = subnets_of(given, name)
    found = slices((subnet, subnet6), given, f"network {name}")
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
    if "encryption" in given:
        port = given.get("port", encryption.DEFAULT_PORT)
        return Overlay(subnet, 0, found, own, subnet6, given["encryption"], port)
    return Overlay(subnet, given.get("vni") or vni_of(name), found, own, subnet6)


def vni_of(name: str) -> int:
    """The number of a network whose declaration gives none: the same on all hosts."""
    return zlib.crc32(name.encode()) % _MOST_VNI + 1


def slices(subnets: Subnets, given: Mapping[str, Any], where: str) -> tuple[Host, ...]:
    """The hosts with their slices, in the order of the slices. Those of one host have the same number.

    It is the one that is asked for, or that the last bits of the host's address tell: so it stays when others
    come and go. Raises InvalidSpec if two hosts would have the same.
    """
    subnet, subnet6 = subnets
    bits = prefix = prefix6 = 0
    if subnet is not None:
        prefix = _prefix(subnet, given.get("slice_prefix"), where)
        bits = prefix - subnet.prefixlen
    if subnet6 is not None:
        bits = bits or _bits6(subnet6)
        prefix6 = _prefix6(subnet6, bits, where)
    count = 1 << bits
    shared = " and ".join(
        f"{whole} has {count} of /{each}" for whole, each in ((subnet, prefix), (subnet6, prefix6)) if whole
    )
    found: dict[int, Host] = {}
    for name, said in given["hosts"].items():
        address = ipaddress.ip_address(said["address"])
        chosen = said.get("slice")
        if chosen is not None and chosen >= count:
            raise InvalidSpec(
                f"{where}: host {name} has the slice {chosen}, expected one from 0 to {count - 1}: {shared}"
            )
        position = int(address) % count if chosen is None else chosen
        if position in found:
            raise InvalidSpec(
                f"{where}: hosts {found[position].name} and {name} would both have slice {position} of "
                f"{count}; give one of them another one: {name}: {{address: {address}, slice: NUMBER}}"
            )
        slice = slice6 = None
        if subnet is not None:
            start = int(subnet.network_address) + (position << (32 - prefix))
            slice = ipaddress.IPv4Network((start, prefix))
        if subnet6 is not None:
            start = int(subnet6.network_address) + (position << (128 - prefix6))
            slice6 = ipaddress.IPv6Network((start, prefix6))
        found[position] = Host(name, address, slice, slice6, said.get("public_key", ""))
    return tuple(host for _, host in sorted(found.items()))


def device_name(bridge: str) -> str:
    """The name of the device beside a network's bridge that leads to the other hosts."""
    return f"mo{bridge[2:]}"


def _prefix(subnet: ipaddress.IPv4Network, chosen: int | None, where: str) -> int:
    """The length of the prefix of an IPv4 subnet's slices."""
    prefix = chosen or max(min(subnet.prefixlen + _SLICE_BITS, NARROWEST_SLICE), subnet.prefixlen + 1)
    if not subnet.prefixlen < prefix <= 30:
        raise InvalidSpec(
            f"{where} has the subnet {subnet}, which is too small to be shared; expected one of at most "
            f"/{NARROWEST_SLICE - 1}"
        )
    return prefix


def _bits6(subnet: ipaddress.IPv6Network) -> int:
    """How many bits tell the slices of a network of IPv6 alone apart: what is between the subnet and its
    usual slices, so that many bits of the hosts' addresses count.
    """
    wanted = min(max(USUAL_SLICE6 - subnet.prefixlen, _SLICE_BITS), _MOST_SLICE_BITS)
    return max(min(wanted, NARROWEST_SLICE6 - subnet.prefixlen), 1)


def _prefix6(subnet: ipaddress.IPv6Network, bits: int, where: str) -> int:
    """The length of the prefix of an IPv6 subnet's slices, which `bits` tell apart."""
    prefix = max(subnet.prefixlen + bits, USUAL_SLICE6)
    if prefix > NARROWEST_SLICE6:
        raise InvalidSpec(
            f"{where} has the subnet6 {subnet}, which is too small to be shared by {1 << bits} slices; "
            f"expected one of at most /{NARROWEST_SLICE6 - bits}"
        )
    return prefix


def _network4(text: str | None) -> ipaddress.IPv4Network | None:
    return None if text is None else ipaddress.IPv4Network(text)


def _network6(text: str | None) -> ipaddress.IPv6Network | None:
    return None if text is None else ipaddress.IPv6Network(text)


def _text(subnet: IPNetwork | None) -> str | None:
    return None if subnet is None else str(subnet)


def _host(where: str, said: object) -> dict[str, Any]:
    given = {"address": said} if isinstance(said, str) else said
    keys = {"address", "slice", "public_key"}
    if not isinstance(given, Mapping) or not set(given) <= keys or "address" not in given:
        raise InvalidSpec(
            f"{where} is {said!r}, expected an address, or a mapping of address, slice and public_key"
        )
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
        normal["slice"] = _number(f"{where}: slice", given["slice"], 0, _MOST_SLICE)
    if given.get("public_key") is not None:
        normal["public_key"] = encryption.public_key(given["public_key"], where)
    return normal


def _number(where: str, value: object, least: int, most: int) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidSpec(f"{where} is {value!r}, expected a number from {least} to {most}")
    return value
