# SPDX-License-Identifier: Apache-2.0
"""The configuration of a name server, dnsmasq(8): a pure function from a view to its file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...errors import InvalidSpec
from .realms import Realm, View
from .zone import NO_ROUTE, reverse_zones

PACKAGE = "dnsmasq-base"
OLDEST = (2, 88)
"""The first dnsmasq that forgets what a file of --hostsdir no longer says."""

HOST_RESOLVERS = Path("/etc/resolv.conf")
"""Who is asked about the outside. It is read again whenever it changes, and may name a server on loopback."""

_CACHE_ENTRIES = 1000
_FORWARDED_AT_ONCE = 1000
_LEASES = 65536
_LEASE_TIME = "1h"
_PLAIN_PATH = re.compile(r"[\w/.+:@~-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server has its files. `hosts` and `reservations` are directories of the networks, by bridge."""

    directory: Path
    networks: Path
    user: str

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.directory / "dnsmasq.conf"

    @property
    def pid(self) -> Path:
        """What it writes of itself."""
        return self.directory / "pid"

    @property
    def local(self) -> Path:
        """Names about which nobody else is asked."""
        return self.directory / "local"

    @property
    def log(self) -> Path:
        """What it has to say."""
        return self.directory / "log"

    def hosts(self, bridge: str) -> Path:
        """Where the names of a network are, a file a container."""
        return self.networks / bridge / "hosts"

    def reservations(self, bridge: str) -> Path:
        """Where the addresses of a network are, a file an address."""
        return self.networks / bridge / "dhcp"


def check_path(path: Path) -> None:
    """Raise InvalidSpec for a directory that a configuration cannot name."""
    if not _PLAIN_PATH.fullmatch(str(path)):
        raise InvalidSpec(
            f"path {path} is not usable in the configuration of dnsmasq: expected letters, digits and "
            "'/.+:@~-' only; choose another --run-root"
        )


def configuration(view: View, place: Place, port: int) -> str:
    """The file of a view's server, which listens on `port` of the bridges. Raises InvalidSpec for a place
    that such a file cannot name.
    """
    check_path(place.directory)
    return "".join(f"{line}\n" for line in _lines(view, place, port))


def _lines(view: View, place: Place, port: int) -> Iterator[str]:
    yield f"# The names of {' and '.join(realm.name for realm in view.realms)}, as the agent has them told"
    yield f"user={place.user}"
    yield f"pid-file={place.pid}"
    yield f"log-facility={place.log}"
    yield f"port={port}"
    # Questions count by the interface that they come in by, so no network can ask another one's server.
    yield "bind-dynamic"
    yield "except-interface=lo"
    yield from (f"interface={realm.bridge}" for realm in view.realms)
    yield "no-hosts"
    yield from (f"hostsdir={place.hosts(realm.bridge)}" for realm in view.realms)
    yield f"servers-file={place.local}"
    yield f"cache-size={_CACHE_ENTRIES}"
    yield f"dns-forward-max={_FORWARDED_AT_ONCE}"
    # A name without a dot is a container's or nobody's: what is missing here is not asked elsewhere.
    yield "domain-needed"
    for realm in view.realms:
        for subnet in realm.whole or realm.subnets:
            yield from (f"local=/{zone}/" for zone in reverse_zones(subnet))
    if not view.outside:
        yield "no-resolv"
        yield "local=/#/"
    elif view.servers:
        yield "no-resolv"
        yield from (f"server={server}" for server in view.servers)
    else:
        yield f"resolv-file={HOST_RESOLVERS}"
    if view.plain:
        yield from _addresses(view.realms[0], place)


def _addresses(realm: Realm, place: Place) -> Iterator[str]:
    """A DHCP server that knows reserved addresses only, and believes no client's name."""
    subnets = [subnet for subnet in realm.subnets if subnet.version == 4]
    if not subnets:
        return
    gateway = next(gateway for gateway in realm.gateways if gateway.version == 4)
    yield f"dhcp-range={subnets[0].network_address},static,{subnets[0].netmask},{_LEASE_TIME}"
    yield f"dhcp-hostsdir={place.reservations(realm.bridge)}"
    yield f"dhcp-leasefile={place.directory / 'leases'}"
    yield f"dhcp-lease-max={_LEASES}"
    yield "dhcp-authoritative"
    yield "dhcp-ignore-names"
    yield "no-ping"
    yield "quiet-dhcp"
    yield f"dhcp-option=option:dns-server,{gateway}"
    yield f"dhcp-option=option:router,{gateway}" if not realm.internal else "dhcp-option=option:router"
    yield f"dhcp-option=tag:{NO_ROUTE},option:router"
    if realm.mtu is not None:
        yield f"dhcp-option=option:mtu,{realm.mtu}"
