# SPDX-License-Identifier: Apache-2.0
"""What the part that gives names knows: networks that have a server, and who is at home there."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from ..records import IPAddress, IPNetwork, Network
from ..specs import DEFAULT_NETWORK


@dataclass(frozen=True, slots=True)
class Realm:
    """A network whose containers know each other by name.

    `gateways` are the host's addresses on its bridge, the first one is where containers ask. Names of the
    outside are not told on an `internal` one, since questions leave a host as well as packets do. `mtu` is in
    bytes, None where the kernel's own holds.
    """

    name: str
    bridge: str
    gateways: tuple[IPAddress, ...]
    subnets: tuple[IPNetwork, ...]
    internal: bool
    mtu: int | None = None
    whole: tuple[IPNetwork, ...] = ()


@dataclass(frozen=True, slots=True)
class Home:
    """A container's place in a realm, which `bridge` identifies, and what it is called there.

    `default_route` says whether that of IPv4 leads through here.
    """

    bridge: str
    addresses: tuple[str, ...]
    mac: str
    names: tuple[str, ...]
    default_route: bool = True


@dataclass(frozen=True, slots=True)
class Resident:
    """A container in all of its realms, that of its default route first.

    `outside` says whether any of its networks, those without names included, leads out. `servers` are those
    that it wants to ask about the outside, instead of the host's.
    """

    container_id: str
    homes: tuple[Home, ...]
    outside: bool = True
    servers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class View:
    """What a container can look up: the names of some realms, and those of the `outside`, if it is not kept
    from it, by its own servers or by the host's. A server answers for one view; containers with the same one
    share it.
    """

    realms: tuple[Realm, ...]
    outside: bool
    servers: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is that of a network as such: its server has port 53 and gives addresses, too."""
        return self == _plain(self.realms[0])

    @property
    def bridges(self) -> set[str]:
        """The bridges of its realms."""
        return {realm.bridge for realm in self.realms}

    @property
    def served(self) -> tuple[View, ...]:
        """The views whose servers are needed by who has this one: those of its networks give addresses."""
        return (self,) if self.plain else (self, *map(_plain, self.realms))

    @property
    def key(self) -> str:
        """Its name among the views of an agent, fit to name a directory."""
        if self.plain:
            return self.realms[0].bridge
        told = "\n".join((*(realm.bridge for realm in self.realms), str(self.outside), *self.servers))
        return "view-" + hashlib.sha256(told.encode()).hexdigest()[:16]


def _plain(realm: Realm) -> View:
    return View((realm,), not realm.internal)


def realm_of(network: Network) -> Realm | None:
    """The realm that a network is; None for one whose containers ask the host's resolvers.

    Those are networks without a bridge, whose gateway is not this host, and the default network, where names
    are unknown to Docker, too.
    """
    if not network.bridge or network.name == DEFAULT_NETWORK:
        return None
    return Realm(
        name=network.name,
        bridge=network.bridge,
        gateways=tuple(subnet.gateway for subnet in network.subnets),
        subnets=tuple(subnet.cidr for subnet in network.subnets),
        internal=network.internal,
        mtu=network.mtu,
        whole=() if network.overlay is None else network.overlay.subnets,
    )


def view_of(resident: Resident, realms: dict[str, Realm]) -> View | None:
    """What a container can look up, of the realms by their bridges; None if it is in none of them."""
    mine = {home.bridge: realms[home.bridge] for home in resident.homes if home.bridge in realms}
    if not mine:
        return None
    ordered = tuple(mine[bridge] for bridge in sorted(mine))
    return View(ordered, resident.outside, resident.servers if resident.outside else ())
