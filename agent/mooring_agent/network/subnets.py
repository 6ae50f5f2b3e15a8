# SPDX-License-Identifier: Apache-2.0
"""Which subnet a new network takes, and with what it would clash. Pure but for `occupied_by_host`."""

from __future__ import annotations

import ipaddress
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import Conflict
from ..linux.rtnetlink import RT_TABLE_LOCAL, RouteSocket

NETWORK_PREFIX_LENGTH = 24
SPLIT_DEFAULT_PREFIX_LENGTH = 1
"""0.0.0.0/1 and 128.0.0.0/1 are how VPN clients spell a default route."""


@dataclass(frozen=True)
class Occupied:
    """A range of addresses that is in use, and by what."""

    subnet: ipaddress.IPv4Network
    by: str


def first_overlap(subnet: ipaddress.IPv4Network, occupied: Iterable[Occupied]) -> Occupied | None:
    """The first of `occupied` that shares an address with `subnet`."""
    return next((entry for entry in occupied if entry.subnet.overlaps(subnet)), None)


def choose_subnet(
    prefix: ipaddress.IPv4Network, occupied: Collection[Occupied], start: int = 0
) -> ipaddress.IPv4Network:
    """The next free /24 of `prefix`, looking from the `start`-th on, round. Raises Conflict."""
    count = 1 << (NETWORK_PREFIX_LENGTH - prefix.prefixlen)
    base = int(prefix.network_address)
    for step in range(count):
        number = base + ((start + step) % count << (32 - NETWORK_PREFIX_LENGTH))
        subnet = ipaddress.IPv4Network((number, NETWORK_PREFIX_LENGTH))
        if first_overlap(subnet, occupied) is None:
            return subnet
    clash = first_overlap(prefix, occupied)
    raise Conflict(
        f"no free /{NETWORK_PREFIX_LENGTH} is left in {prefix}, among others because of "
        f"{clash.by if clash else 'the host'}; start the agent with another --network-prefix, or "
        "name a subnet"
    )


def check_subnet(network: str, subnet: ipaddress.IPv4Network, occupied: Iterable[Occupied]) -> None:
    """Raise Conflict if a subnet that was asked for is in use."""
    clash = first_overlap(subnet, occupied)
    if clash is not None:
        raise Conflict(
            f"subnet {subnet} of network {network} overlaps {clash.by}; choose a subnet that nothing "
            "else uses"
        )


def start_of(instance: str, default: str = "mooring") -> int:
    """Where an agent begins to look: agents side by side on a host begin at different places."""
    return 0 if instance == default else zlib.crc32(instance.encode())


def occupied_by_host(netlink: RouteSocket, own_bridges: Collection[str] = ()) -> list[Occupied]:
    """What the host's routes and addresses occupy; default routes and `own_bridges` don't count."""
    names = {link.ifindex: link.name for link in netlink.links()}
    found = []
    for route in netlink.routes():
        name = names.get(route.ifindex, "")
        if route.prefix_length <= SPLIT_DEFAULT_PREFIX_LENGTH or name in own_bridges:
            continue
        if route.table == RT_TABLE_LOCAL:
            continue
        subnet = ipaddress.IPv4Network((route.destination, route.prefix_length))
        through = f" through {name}" if name else ""
        found.append(Occupied(subnet, f"the host's route {subnet}{through}"))
    for address in netlink.addresses():
        name = names.get(address.ifindex, "")
        if name not in own_bridges:
            interface = ipaddress.IPv4Interface((address.address, address.prefix_length))
            found.append(Occupied(interface.network, f"the host's address {interface} of {name}"))
    return found
