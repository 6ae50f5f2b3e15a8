# SPDX-License-Identifier: Apache-2.0
"""What a network will be: the subnets that it names, or free ones, and all that its declaration says."""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ..errors import Conflict
from ..linux.rtnetlink import RouteSocket
from . import overlaydevice, specs, subnets
from .config import NetworkConfig
from .macvlans import require_parent
from .overlay import device_name
from .records import IPNetwork, Network, Subnet
from .rules import parse_rules
from .subnets import Occupied


def plan_subnets(
    name: str,
    given: Mapping[str, Any],
    others: Collection[Network],
    netlink: RouteSocket,
    config: NetworkConfig,
) -> tuple[Subnet | None, Subnet | None]:
    """The IPv4 and the IPv6 subnet of the network `name`, whose normal form is `given`; None for none.

    They overlap neither `others` nor what the host has routes to, but for those through the agent's own
    links (of `others`, or left by an agent that was killed) and the parent of a macvlan network. Raises
    Conflict, NotFound.
    """
    own = config.bridge_prefix, device_name(config.bridge_prefix)
    links = {link.name for link in netlink.links() if link.name.startswith(own)}
    if "parent" in given:
        links.add(require_parent(netlink, name, given["parent"]).name)
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


def own_links(networks: Iterable[Network]) -> list[str]:
    """The interfaces whose routes are those of networks of ours."""
    found = []
    for network in networks:
        found += [network.bridge] if network.bridge else []
        found += [device_name(network.bridge)] if network.overlay is not None else []
    return found


def _choose(version: int, occupied: Collection[Occupied], config: NetworkConfig) -> IPNetwork:
    if version == 6:
        return subnets.choose_subnet(subnets.local_prefix(config.instance, subnets.machine_id()), occupied)
    prefix = ipaddress.IPv4Network(config.network_prefix)
    return subnets.choose_subnet(prefix, occupied, subnets.start_of(config.instance))


def decide(
    name: str,
    given: Mapping[str, Any],
    planned: tuple[Subnet | None, Subnet | None],
    number: int,
    bridge: str,
    netlink: RouteSocket,
) -> Network:
    """The network of a normal form that is about to be made; `planned` are its subnets, of which an overlay
    has a slice here, and `bridge` is the name for its bridge, if it has one. Raises InvalidSpec.
    """
    ipv4, ipv6 = planned
    driver, mtu = given.get("driver", "bridge"), given.get("mtu")
    overlay = overlaydevice.seen_from_here(netlink, given, name)
    if overlay is not None:
        ipv4 = Subnet(overlay.here.slice, ipaddress.IPv4Address(overlay.here.gateway))
        mtu = mtu or overlay.mtu(overlaydevice.underlay_mtu(netlink, overlay))
    return Network(
        name=name,
        number=number,
        driver=driver,
        ipv4=ipv4,
        ipv6=ipv6,
        nat=given.get("nat", True),
        internal=given.get("internal", False),
        labels=given.get("labels", {}),
        bridge=bridge if driver != "macvlan" else "",
        created_at=time.time(),
        reserved=tuple(map(ipaddress.ip_address, given.get("reserved", ()))),
        mtu=mtu,
        parent=given.get("parent", ""),
        mode=given.get("mode", "bridge") if driver == "macvlan" else "",
        rules=parse_rules(given.get("rules", ()), "network rules"),
        reachable_from=tuple(given.get("reachable_from", ())),
        overlay=overlay,
    )


def changed(before: Network, given: Mapping[str, Any], netlink: RouteSocket) -> Network:
    """A network with what a normal form says of `specs.LIVE`.

    Raises Conflict if this host would have another slice of an overlay, whose addresses its containers have.
    """
    overlay = overlaydevice.seen_from_here(netlink, given, before.name)
    if before.overlay is not None and overlay is not None:
        old, new = before.overlay.here, overlay.here
        if (old.slice, old.address) != (new.slice, new.address):
            raise Conflict(
                f"network {before.name} cannot change this host's slice {old.slice} behind {old.address} to "
                f"{new.slice} behind {new.address}; remove it here first, or name the old slice"
            )
    mtu = before.mtu
    was = before.overlay.encryption if before.overlay is not None else ""
    if overlay is not None and overlay.encryption != was and "mtu" not in given:
        mtu = overlay.mtu(overlaydevice.underlay_mtu(netlink, overlay))
    return dataclasses.replace(
        before,
        mtu=mtu,
        nat=given.get("nat", True),
        labels=given.get("labels", {}),
        rules=parse_rules(given.get("rules", ()), "network rules"),
        reachable_from=tuple(given.get("reachable_from", ())),
        overlay=overlay,
    )
