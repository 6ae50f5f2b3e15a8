# SPDX-License-Identifier: Apache-2.0
"""What the network part knows: networks, endpoints on them, published ports. Plain frozen data."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

EVERY_ADDRESS = ""
"""`host_ip` of a port that is published on all addresses of the host, IPv4 and IPv6."""
EVERY_IPV4 = "0.0.0.0"
EVERY_IPV6 = "::"


@dataclass(frozen=True)
class Network:
    """A network with its bridge. `number` is unique within the agent, and part of the bridge's name."""

    name: str
    number: int
    driver: str
    subnet: ipaddress.IPv4Network
    gateway: ipaddress.IPv4Address
    nat: bool
    internal: bool
    labels: Mapping[str, str]
    bridge: str
    created_at: float

    @property
    def translated(self) -> bool:
        """Whether the containers' addresses are hidden behind the host's; never so on an internal network."""
        return self.nat and not self.internal

    def view(self) -> dict[str, Any]:
        """The network as JSON, the API's NetworkView."""
        return {
            "name": self.name,
            "driver": self.driver,
            "subnet": str(self.subnet),
            "gateway": str(self.gateway),
            "nat": self.nat,
            "internal": self.internal,
            "labels": dict(self.labels),
            "bridge": self.bridge,
            "created_at": self.created_at,
        }


@dataclass(frozen=True)
class Endpoint:
    """A container's place on a network; kept until `release`, so that its address survives every restart."""

    network: str
    container_id: str
    ipv4: str
    prefix_length: int
    gateway: str
    mac: str
    host_ifname: str


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


def mac_address(address: ipaddress.IPv4Address) -> str:
    """The MAC of whoever has this address on a network of ours: locally administered, always the same.

    So nobody's neighbour table is wrong when an address changes its owner.
    """
    return (b"\x02m" + address.packed).hex(":")
