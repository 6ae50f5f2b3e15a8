# SPDX-License-Identifier: Apache-2.0
"""What the network part knows: networks, endpoints on them, published ports. Plain frozen data."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .overlay import Overlay
from .rules import Rule

EVERY_ADDRESS = ""
"""`host_ip` of a port that is published on all addresses of the host, IPv4 and IPv6."""
EVERY_IPV4 = "0.0.0.0"
EVERY_IPV6 = "::"

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class Subnet:
    """The addresses of one IP version on a network.

    `gateway` is the host's own address on a bridge, and that of a router on a macvlan network. Containers
    that ask for no address of their own get one of `ip_range`, if there is one, else of all.
    """

    cidr: IPNetwork
    gateway: IPAddress
    ip_range: IPNetwork | None = None


@dataclass(frozen=True, slots=True)
class Network:
    """A network. `number` is unique within the agent, and part of the name of its bridge, if it has one.

    It has addresses of at least one IP version. `reserved` are never given to containers; some have names in
    `reserved_names`, for people. `mtu` is in bytes,
    None is the kernel's own (1500). `parent` and `mode` are those of a macvlan network, "" elsewhere.
    `rules` are asked in order; containers of the networks `reachable_from` may begin connections to its own.
    Of an `overlay` the subnets are this host's slices. One that is `waiting` has no part of the host yet, and
    gets it when somebody comes onto it.

    `bridge_name` is the name of its bridge where its declaration says one. With `port_isolation` its
    containers do not reach each other. Interfaces of containers are called `interface_prefix` ("" for eth)
    and a number. Ports that are published at no address of the host in particular are published at
    `publish_address`. `attachable` is kept for Docker's clients, who ask for it and look for it; every
    network is.
    """

    name: str
    number: int
    driver: str
    ipv4: Subnet | None
    ipv6: Subnet | None
    nat: bool
    internal: bool
    labels: Mapping[str, str]
    bridge: str
    created_at: float
    reserved: tuple[IPAddress, ...] = ()
    mtu: int | None = None
    parent: str = ""
    mode: str = ""
    rules: tuple[Rule, ...] = ()
    reachable_from: tuple[str, ...] = ()
    overlay: Overlay | None = None
    reserved_names: Mapping[IPAddress, str] = field(default_factory=dict)
    waiting: bool = False
    bridge_name: str = ""
    port_isolation: bool = False
    interface_prefix: str = ""
    publish_address: str = ""
    attachable: bool = False

    @property
    def subnets(self) -> tuple[Subnet, ...]:
        """Its subnets, that of IPv4 first."""
        return tuple(subnet for subnet in (self.ipv4, self.ipv6) if subnet is not None)

    @property
    def translated(self) -> bool:
        """Whether the containers' addresses are hidden behind the host's; never so on an internal network."""
        return self.nat and not self.internal

    @property
    def spelled_reserved(self) -> list[str]:
        """Its reserved addresses, as NAME=ADDRESS where they have names."""
        names = self.reserved_names
        return [f"{names[one]}={one}" if one in names else str(one) for one in self.reserved]

    @property
    def unpublished(self) -> str:
        """Why no port of the host can lead to its containers, "" if one can."""
        if self.driver == "macvlan":
            return f"network {self.name} is a macvlan, whose containers are reached at their own addresses"
        return f"network {self.name} is internal, so that nothing enters it" if self.internal else ""

    @property
    def mac(self) -> str:
        """The MAC of its bridge."""
        return mac_address(self.subnets[0].gateway)

    def view(self) -> dict[str, Any]:
        """The network as JSON, the API's NetworkView; null where there is none."""
        return {
            "name": self.name,
            "driver": self.driver,
            **_subnet_view(self.ipv4, ""),
            **_subnet_view(self.ipv6, "6"),
            "reserved": self.spelled_reserved,
            "nat": self.nat,
            "internal": self.internal,
            "mtu": self.mtu,
            "parent": self.parent or None,
            "mode": self.mode or None,
            **({} if self.overlay is None else _shared(self.overlay)),
            "rules": [rule.dump() for rule in self.rules],
            "reachable_from": list(self.reachable_from),
            "overlay": None if self.overlay is None else self.overlay.view(),
            "bridge_name": self.bridge_name or None,
            "port_isolation": self.port_isolation,
            "interface_prefix": self.interface_prefix or None,
            "publish_address": self.publish_address or None,
            "attachable": self.attachable,
            "labels": dict(self.labels),
            "bridge": self.bridge or None,
            "created_at": self.created_at,
        }


def read_reserved(texts: Iterable[str]) -> tuple[tuple[IPAddress, ...], dict[IPAddress, str]]:
    """Reserved addresses and their names, from `Network.spelled_reserved`."""
    pairs = [(ipaddress.ip_address(text.rpartition("=")[2]), text.rpartition("=")[0]) for text in texts]
    return tuple(address for address, _ in pairs), {address: name for address, name in pairs if name}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A container's place on a network; kept until `release`, so that its addresses survive every restart.

    `host_ifname` is the outer end of its cable, "" where there is none (macvlan), and `ifname` the interface
    inside. Addresses and gateways are None for an IP version that the network does not have.
    """

    network: str
    container_id: str
    ipv4: str | None
    prefix_length: int
    gateway: str | None
    mac: str
    host_ifname: str
    ipv6: str | None = None
    prefix_length6: int = 0
    gateway6: str | None = None
    ifname: str = "eth0"

    @property
    def addresses(self) -> tuple[str, ...]:
        """Its addresses, that of IPv4 first."""
        return tuple(address for address in (self.ipv4, self.ipv6) if address is not None)


@dataclass(frozen=True)
class Publication:
    """A port of the host that leads to a port of a container, at its IPv4 and its IPv6 address if it has them
    ("" if not).

    `balance` says how new connections are spread over the containers that publish the same port, "" that it
    has one alone; `weight` is this one's share, 0 for one that gets no new connections. `seat` tells the
    members of a balanced port apart, and goes to who takes a place over, so that clients that are led by
    their address stay where they are.
    """

    protocol: str
    host_ip: str
    host_port: int
    container_id: str
    container_ip: str
    container_port: int
    container_ipv6: str = ""
    balance: str = ""
    weight: int = 1
    seat: str = ""

    @property
    def key(self) -> tuple[str, str, int]:
        """What identifies the port of the host."""
        return self.protocol, self.host_ip, self.host_port

    def __str__(self) -> str:
        """The port of the host in words."""
        where = "" if self.host_ip == EVERY_ADDRESS else f" of {self.host_ip}"
        return f"host port {self.host_port}/{self.protocol}{where}"


def mac_address(address: IPAddress) -> str:
    """The MAC of whoever has this address on a network of ours: locally administered, always the same.

    So nobody's neighbour table is wrong when an address changes its owner. That of an IPv6 address is made of
    the lower half folded to 32 bits, so that addresses which follow each other have different ones.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return (b"\x02m" + address.packed).hex(":")
    number = int(address) & 2**64 - 1
    return (b"\x02n" + ((number >> 32) ^ (number & 2**32 - 1)).to_bytes(4)).hex(":")


def _shared(overlay: Overlay) -> dict[str, str | None]:
    view = overlay.view()
    return {"subnet": view["subnet"], "subnet6": view["subnet6"]}


def _subnet_view(subnet: Subnet | None, suffix: str) -> dict[str, str | None]:
    if subnet is None:
        return {f"subnet{suffix}": None, f"gateway{suffix}": None, f"ip_range{suffix}": None}
    return {
        f"subnet{suffix}": str(subnet.cidr),
        f"gateway{suffix}": str(subnet.gateway),
        f"ip_range{suffix}": None if subnet.ip_range is None else str(subnet.ip_range),
    }
