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
from . import overlay, overlaydevice, specs, subnets
from .config import NetworkConfig
from .macvlans import require_parent
from .records import IPNetwork, Network, Subnet, read_reserved
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
    links (of `others`, or left by an agent that was killed) and the parent of a macvlan network. One of
    `others` that waits gives way to who names its subnet. Raises Conflict, NotFound, and InvalidSpec for an
    overlay without this host.
    """
    used = [other for other in others if not other.waiting]
    try:
        return _plan(name, given, others, netlink, config)
    except Conflict:
        if len(used) == len(others):
            raise
        return _plan(name, given, used, netlink, config)


def overlap(one: Network, other: Network) -> bool:
    """Whether two networks have addresses in common."""
    taken = _occupied_by([other])
    return any(subnets.first_overlap(subnet.cidr, taken) for subnet in one.subnets)


def _occupied_by(networks: Iterable[Network]) -> list[Occupied]:
    """The subnets of networks, of overlays those of all hosts."""
    found = []
    for network in networks:
        across = network.overlay.subnets if network.overlay is not None else ()
        own = (*(subnet.cidr for subnet in network.subnets), *across)
        found += [Occupied(subnet, f"network {network.name}") for subnet in own]
    return found


def _plan(
    name: str,
    given: Mapping[str, Any],
    others: Collection[Network],
    netlink: RouteSocket,
    config: NetworkConfig,
) -> tuple[Subnet | None, Subnet | None]:
    overlaydevice.seen_from_here(netlink, given, name)
    own = config.bridge_prefix, overlay.device_name(config.bridge_prefix)
    links = {link.name for link in netlink.links() if link.name.startswith(own)}
    links.update(other.bridge for other in others if other.bridge_name)
    if "parent" in given:
        links.add(require_parent(netlink, name, given["parent"]).name)
    planned: list[Subnet | None] = []
    for version in specs.SUFFIXES:
        if not specs.has_version(given, version):
            planned.append(None)
            continue
        occupied = [*_occupied_by(others), *subnets.occupied_by_host(netlink, links, version)]
        cidr: IPNetwork
        named = _named(name, given, version)
        if named is not None:
            cidr = named
            subnets.check_subnet(name, cidr, occupied)
        else:
            cidr = _choose(version, occupied, config)
        planned.append(specs.subnet_of(given, cidr))
    return planned[0], planned[1]


def _named(name: str, given: Mapping[str, Any], version: int) -> IPNetwork | None:
    """The subnet that a normal form names, or that all hosts of an overlay know without being told."""
    if given.get("driver") == "overlay":
        return overlay.subnets_of(given, name)[version == 6]
    subnet = given.get(f"subnet{specs.SUFFIXES[version]}")
    return None if subnet is None else specs.parse_subnet(subnet, version)


def own_links(networks: Iterable[Network]) -> list[str]:
    """The interfaces whose routes are those of networks of ours."""
    found = []
    for network in networks:
        found += [network.bridge] if network.bridge else []
        found += [overlay.device_name(network.bridge)] if network.overlay is not None else []
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
    reserved, names = read_reserved(given.get("reserved", ()))
    driver, mtu = given.get("driver", "bridge"), given.get("mtu")
    across = overlaydevice.seen_from_here(netlink, given, name)
    if across is not None:
        here = across.here
        ipv4 = None if here.slice is None else _on_bridge(here.slice)
        ipv6 = None if here.slice6 is None else _on_bridge(here.slice6)
        mtu = mtu or _mtu(name, across, overlaydevice.underlay_mtu(netlink, across))
    return Network(
        name=name,
        number=number,
        driver=driver,
        ipv4=ipv4,
        ipv6=ipv6,
        nat=given.get("nat", True),
        internal=given.get("internal", False),
        labels=given.get("labels", {}),
        bridge=given.get("bridge_name", bridge) if driver != "macvlan" else "",
        created_at=time.time(),
        reserved=reserved,
        reserved_names=names,
        mtu=mtu,
        parent=given.get("parent", ""),
        mode=given.get("mode", "bridge") if driver == "macvlan" else "",
        rules=parse_rules(given.get("rules", ()), "network rules"),
        reachable_from=tuple(given.get("reachable_from", ())),
        overlay=across,
        bridge_name=given.get("bridge_name", ""),
        port_isolation=given.get("port_isolation", False),
        interface_prefix=given.get("interface_prefix", ""),
        publish_address=given.get("publish_address", ""),
        attachable=given.get("attachable", False),
    )


def changed(before: Network, given: Mapping[str, Any], netlink: RouteSocket) -> Network:
    """A network with what a normal form says of `specs.LIVE`.

    Raises Conflict for what cannot change, such as this host's slice of an overlay, whose addresses its
    containers have.
    """
    for key, now, wanted in specs.fixed(before, given):
        if wanted != now:
            raise Conflict(
                f"network {before.name} cannot change its {key} from {now} to {wanted}; remove it first, or "
                "declare another network"
            )
    across = overlaydevice.seen_from_here(netlink, given, before.name)
    if before.overlay is not None and across is not None:
        old, new = before.overlay.here, across.here
        if (old.slices, old.address) != (new.slices, new.address):
            was, will = (" and ".join(map(str, one.slices)) for one in (old, new))
            raise Conflict(
                f"network {before.name} cannot change this host's slice {was} behind {old.address} to {will} "
                f"behind {new.address}; remove it here first, or name the old slice"
            )
    mtu = before.mtu
    encrypted = before.overlay.encryption if before.overlay is not None else ""
    if across is not None and across.encryption != encrypted and "mtu" not in given:
        mtu = _mtu(before.name, across, overlaydevice.underlay_mtu(netlink, across))
    return dataclasses.replace(
        before,
        mtu=mtu,
        nat=given.get("nat", True),
        labels=given.get("labels", {}),
        rules=parse_rules(given.get("rules", ()), "network rules"),
        reachable_from=tuple(given.get("reachable_from", ())),
        overlay=across,
        attachable=given.get("attachable", False),
    )


def _on_bridge(slice: IPNetwork) -> Subnet:
    return Subnet(slice, ipaddress.ip_address(overlay.gateway_of(slice)))


def _mtu(name: str, across: overlay.Overlay, underlay: int) -> int:
    """What an overlay may send at once where its underlay takes `underlay` bytes. Raises Conflict if IPv6
    needs more.
    """
    mtu = across.mtu(underlay)
    if across.subnet6 is not None and mtu < specs.SMALLEST_MTU6:
        raise Conflict(
            f"network {name} has IPv6, which needs an MTU of {specs.SMALLEST_MTU6} bytes, but the interface "
            f"with {across.here.address} takes {underlay}, which leaves {mtu}; raise that, or leave IPv6 out"
        )
    return mtu
