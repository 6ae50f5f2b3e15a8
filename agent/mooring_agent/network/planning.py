# SPDX-License-Identifier: Apache-2.0
"""Which subnets a network gets that is about to be made: those that it names, or free ones."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Mapping
from typing import Any

from ..errors import Conflict
from ..linux.rtnetlink import RouteSocket
from . import specs, subnets
from .config import NetworkConfig
from .records import IPNetwork, Network, Subnet
from .subnets import Occupied


def plan_subnets(
    name: str,
    given: Mapping[str, Any],
    others: Collection[Network],
    own_links: Collection[str],
    netlink: RouteSocket,
    config: NetworkConfig,
) -> tuple[Subnet | None, Subnet | None]:
    """The IPv4 and the IPv6 subnet of the network `name`, whose normal form is `given`; None for none.

    They overlap neither `others` nor what the host has routes to, but for those through `own_links` and the
    parent of a macvlan network. Raises Conflict.
    """
    links = {*own_links, given.get("parent", "")} - {""}
    planned: list[Subnet | None] = []
    for version, suffix in specs.SUFFIXES.items():
        if not specs.has_version(given, version):
            planned.append(None)
            continue
        occupied = [
            Occupied(subnet.cidr, f"network {other.name}") for other in others for subnet in other.subnets
        ]
        occupied += (
            Occupied(other.overlay.subnet, f"network {other.name}")
            for other in others
            if other.overlay is not None and version == 4
        )
        occupied += subnets.occupied_by_host(netlink, links, version)
        cidr: IPNetwork
        if f"subnet{suffix}" in given:
            cidr = specs.parse_subnet(given[f"subnet{suffix}"], version)
            subnets.check_subnet(name, cidr, occupied)
        else:
            cidr = _choose(version, occupied, config)
        planned.append(specs.subnet_of(given, cidr))
    return planned[0], planned[1]


def _choose(version: int, occupied: Collection[Occupied], config: NetworkConfig) -> IPNetwork:
    if version == 6:
        return subnets.choose_subnet(subnets.local_prefix(config.instance, subnets.machine_id()), occupied)
    prefix = ipaddress.IPv4Network(config.network_prefix)
    return subnets.choose_subnet(prefix, occupied, subnets.start_of(config.instance))


def check_slice(before: Network, after: Network) -> None:
    """Raise Conflict if this host would have another slice of an overlay, whose addresses its containers have."""
    if before.overlay is None or after.overlay is None:
        return
    old, new = before.overlay.here, after.overlay.here
    if (old.slice, old.address) != (new.slice, new.address):
        raise Conflict(
            f"network {before.name} cannot change this host's slice {old.slice} behind {old.address} to "
            f"{new.slice} behind {new.address}; remove it here first, or name the old slice"
        )
