# SPDX-License-Identifier: Apache-2.0
"""Which subnet a new network takes, and with what it would clash. Pure but for what looks at the host."""

from __future__ import annotations

import hashlib
import ipaddress
import socket
import zlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from ..errors import Conflict
from ..linux.rtnetlink import RT_TABLE_LOCAL, RouteSocket
from ..linux.subnetroutes import RTN_UNREACHABLE
from .records import IPNetwork

PREFIX_LENGTHS = {4: 24, 6: 64}
"""How large a subnet is that nobody has named."""

SPLIT_DEFAULT_PREFIX_LENGTH = 1
"""0.0.0.0/1 and 128.0.0.0/1 are how VPN clients spell a default route."""

MACHINE_ID = Path("/etc/machine-id")  # machine-id(5)
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_UNIQUE_LOCAL = b"\xfd"  # RFC 4193, 3.1


@dataclass(frozen=True, slots=True)
class Occupied:
    """A range of addresses that is in use, and by what."""

    subnet: IPNetwork
    by: str


def first_overlap(subnet: IPNetwork, occupied: Iterable[Occupied]) -> Occupied | None:
    """The first of `occupied` that shares an address with `subnet`."""
    return next((entry for entry in occupied if _overlap(entry.subnet, subnet)), None)


def choose_subnet(prefix: IPNetwork, occupied: Collection[Occupied], start: int = 0) -> IPNetwork:
    """The next free /24 (IPv6: /64) of `prefix`, looking from the `start`-th on, round. Raises Conflict."""
    length = PREFIX_LENGTHS[prefix.version]
    count = 1 << (length - prefix.prefixlen)
    base = int(prefix.network_address)
    for step in range(count):
        number = base + ((start + step) % count << (prefix.max_prefixlen - length))
        subnet = (
            ipaddress.IPv4Network((number, length))
            if prefix.version == 4
            else ipaddress.IPv6Network((number, length))
        )
        if first_overlap(subnet, occupied) is None:
            return subnet
    clash = first_overlap(prefix, occupied)
    hint = "start the agent with another --network-prefix, or name a subnet"
    raise Conflict(
        f"no free /{length} is left in {prefix}, among others because of "
        f"{clash.by if clash else 'the host'}; {hint if prefix.version == 4 else 'name a subnet6'}"
    )


def check_subnet(network: str, subnet: IPNetwork, occupied: Iterable[Occupied]) -> None:
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


def local_prefix(instance: str, machine: str) -> ipaddress.IPv6Network:
    """Where an agent takes its IPv6 subnets from: a unique local /48 (RFC 4193), always the same for one
    agent of one host, and another one on every host, so that hosts may be routed to each other.
    """
    global_id = hashlib.sha256(f"mooring\0{machine}\0{instance}".encode()).digest()[:5]
    return ipaddress.IPv6Network((_UNIQUE_LOCAL + global_id + bytes(10), 48))


def machine_id(path: Path = MACHINE_ID) -> str:
    """What identifies this host for good; its name where it has no machine-id(5)."""
    try:
        return path.read_text(encoding="ascii").strip() or socket.gethostname()
    except (OSError, UnicodeDecodeError):
        return socket.gethostname()


def occupied_by_host(
    netlink: RouteSocket, own_links: Collection[str] = (), version: int = 4
) -> list[Occupied]:
    """What the host's routes and addresses of an IP version occupy; default routes and what leads through
    `own_links` don't count.
    """
    names = {link.ifindex: link.name for link in netlink.links()}
    found = []
    for route in netlink.routes(_FAMILIES[version]):
        name = names.get(route.ifindex, "")
        if route.kind == RTN_UNREACHABLE:  # nobody is there
            continue
        if route.prefix_length <= SPLIT_DEFAULT_PREFIX_LENGTH or name in own_links:
            continue
        subnet = ipaddress.ip_network((route.destination, route.prefix_length))
        if route.table == RT_TABLE_LOCAL or subnet.is_multicast or _is_link_local(subnet):
            continue
        through = f" through {name}" if name else ""
        found.append(Occupied(subnet, f"the host's route {subnet}{through}"))
    for address in netlink.addresses(_FAMILIES[version]):
        name = names.get(address.ifindex, "")
        interface = ipaddress.ip_interface((address.address, address.prefix_length))
        if name not in own_links and not _is_link_local(interface.network):
            found.append(Occupied(interface.network, f"the host's address {interface} of {name}"))
    return found


def _is_link_local(subnet: IPNetwork) -> bool:
    """Whether every interface has addresses of this subnet, so that nobody has it: fe80::/64."""
    return subnet.version == 6 and subnet.is_link_local


def _overlap(one: IPNetwork, other: IPNetwork) -> bool:
    return one.version == other.version and not (
        int(one.broadcast_address) < int(other.network_address)
        or int(other.broadcast_address) < int(one.network_address)
    )
