# SPDX-License-Identifier: Apache-2.0
"""The networks of a container: names or mappings; "host", "none" and "container:NAME" stand alone."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.declared import Declared, Part, option
from mooring_agent.engine.resources.namespaces import CONTAINER, joined
from mooring_agent.engine.resources.options import Bool, Choice, Items, Pairs, Text, WordSet, refusal
from mooring_agent.errors import InvalidSpec
from mooring_agent.network.naming.zone import LABELS_EXPECTED, can_be_told
from mooring_agent.network.specs import LINK_SYSCTL, LINK_SYSCTL_EXPECTED

_LINK_LOCAL = (ipaddress.ip_network("169.254.0.0/16"), ipaddress.ip_network("fe80::/64"))
_DOCKERS = "com.docker.network."
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")


def is_alone(name: str) -> bool:
    """Whether a container with this network has no address of its own: it has the host's, another
    container's, or none.
    """
    return name in ("host", "none") or name.startswith(CONTAINER)


def is_fixed(name: str) -> bool:
    """Whether a container with this network has no network namespace of its own, so that it cannot leave it
    while it lives.
    """
    return name == "host" or name.startswith(CONTAINER)


def _network(text: str, where: str) -> str:
    if text.startswith(CONTAINER):
        return joined(text, where)
    return names.network_name(text, where)


def _ipv4(text: str, where: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise refusal(where, text, 'an IPv4 address such as "10.210.0.7"') from None


def _ipv6(text: str, where: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError:
        address = None
    if address is None or address.scope_id is not None:
        raise refusal(where, text, 'an IPv6 address such as "fd12:3456:789a::7"')
    return str(address)


def _link_local(text: str, where: str) -> str:
    """An address of 169.254.0.0/16 (RFC 3927) or fe80::/64 (RFC 4291, 2.5.6)."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if (
        address is None
        or "%" in text
        or not any(address in net for net in _LINK_LOCAL if net.version == address.version)
    ):
        raise refusal(where, text, 'a link-local address such as "169.254.8.8" or "fe80::8"')
    return str(address)


def _mac(text: str, where: str) -> str:
    """A MAC that one interface can have: not one of groups (the lowest bit of its first byte, IEEE 802)."""
    mac = text.strip().lower().replace("-", ":")
    if not _MAC.fullmatch(mac) or int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise refusal(where, text, 'the MAC address of one interface such as "02:42:0a:d2:00:07"')
    return mac


def _alias(text: str, where: str) -> str:
    """A name that can be looked up; service names may have underscores."""
    if not can_be_told(text):
        raise refusal(where, text, LABELS_EXPECTED)
    return text


class LinkSysctls(Pairs):
    """Kernel settings of the container's interface on a network."""

    def __init__(self) -> None:
        super().__init__("kernel settings of an interface")

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`."""
        pairs = super().parse(value, where) or {}
        # Older docker clients write everything in small letters.
        given = {name.replace(".ifname.", ".IFNAME."): setting for name, setting in pairs.items()}
        for name in given:
            if LINK_SYSCTL.fullmatch(name) is None:
                raise refusal(f"a name in {where}", name, LINK_SYSCTL_EXPECTED)
        return {name: setting.strip() for name, setting in given.items()}


class DriverOptions(Pairs):
    """Options for a driver of somebody else's, which no driver here has: they are kept and shown again."""

    def __init__(self) -> None:
        super().__init__("options of a driver")

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`. What Docker's own drivers understand asks for something, and is refused."""
        pairs = super().parse(value, where) or {}
        for name in pairs:
            if name.startswith(_DOCKERS):
                raise refusal(f"a name in {where}", name, f"none of {_DOCKERS}…, which no driver here has")
        return pairs


class Links(Pairs):
    """Further names of other containers: alias → container."""

    def __init__(self) -> None:
        super().__init__("aliases")

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`."""
        pairs = super().parse(value, where) or {}
        return {
            _alias(alias, f"a name in {where}"): names.resource_name("container", target, f"{where}.{alias}")
            for alias, target in pairs.items()
        }


# What only a network of its own has to give.
_OF_ITS_OWN = (
    *("ipv4_address", "ipv6_address", "mac_address", "aliases", "links", "default_route", "sysctls"),
    *("link_local", "driver_opts"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkAttachment(Declared):
    """One network that a container is attached to.

    The default route leads through the first one with a gateway to the outside, or the one that says so.
    `links` are further names that others of this network have as long as this container is attached; whoever
    is called so has them, now or later.
    `link_local` are further addresses for this network alone, `driver_opts` what is kept for drivers of
    somebody else's.
    """

    KIND: ClassVar[str] = "network"

    name: str = option(Text("the name of a network", _network), required=True)
    ipv4_address: str | None = option(Text("an IPv4 address", _ipv4))
    ipv6_address: str | None = option(Text("an IPv6 address", _ipv6))
    mac_address: str | None = option(Text("a MAC address", _mac))
    aliases: tuple[str, ...] = option(WordSet(Text("a host name", _alias)), default=())
    links: Mapping[str, str] = option(Links(), default={})
    default_route: bool = option(Bool(), default=False)
    spoofing: str = option(Choice("refused", "allowed"), default="refused")
    sysctls: Mapping[str, str] = option(LinkSysctls(), default={})
    link_local: tuple[str, ...] = option(WordSet(Text("a link-local address", _link_local)), default=())
    driver_opts: Mapping[str, str] = option(DriverOptions(), default={})

    def check(self, prefix: str) -> None:
        """Refuse addresses and names on networks that have none to give."""
        versions = [":" in address for address in self.link_local]
        if len(set(versions)) < len(versions):
            raise InvalidSpec(
                f"{prefix}link_local is {', '.join(self.link_local)}, expected at most one address of "
                "each IP version; remove the others"
            )
        asked = [name for name in _OF_ITS_OWN if getattr(self, name)] + (
            ["spoofing"] if self.spoofing != "refused" else []
        )
        if is_alone(self.name) and asked:
            raise InvalidSpec(
                f"{prefix}name is {self.name}, which has no addresses and names to give; "
                f"remove {' and '.join(asked)}, or attach a network of your own"
            )

    @property
    def is_static(self) -> bool:
        """Whether it asks for an address that somebody else could have."""
        return (self.ipv4_address, self.ipv6_address, self.mac_address) != (None, None, None)

    def __str__(self) -> str:
        """Return the network's name, and the addresses if some are asked for."""
        addresses = [address for address in (self.ipv4_address, self.ipv6_address) if address is not None]
        return self.name + (f"={','.join(addresses)}" if addresses else "")


class Attachments(Items[NetworkAttachment]):
    """The networks of a container, in order; none at all is the same as "none"."""

    def __init__(self) -> None:
        item = Part(NetworkAttachment, lambda text, where: {"name": text})
        super().__init__(item, unique=lambda network: network.name)

    def parse(self, value: object, where: str) -> tuple[NetworkAttachment, ...] | None:
        """See `Type.parse`."""
        networks = super().parse([value] if isinstance(value, str) else value, where) or (
            attached_to("none"),
        )
        alone = next((network.name for network in networks if is_alone(network.name)), None)
        if alone is not None and len(networks) > 1:
            raise InvalidSpec(
                f'{where} names "{alone}" beside other networks, expected it alone; remove one of them'
            )
        chosen = [network.name for network in networks if network.default_route]
        if len(chosen) > 1:
            raise InvalidSpec(
                f"{where} has default_route on {' and '.join(chosen)}, expected one at most; remove others"
            )
        return networks

    def takes_live(
        self, before: tuple[NetworkAttachment, ...] | None, after: tuple[NetworkAttachment, ...] | None
    ) -> bool:
        """See `Type.takes_live`: what has a network namespace of its own is attached and detached live."""
        return not any(is_fixed(network.name) for network in (*(before or ()), *(after or ())))


def preferred_networks(networks: Iterable[NetworkAttachment]) -> tuple[str, ...]:
    """The names of those that shall carry the default route."""
    return tuple(network.name for network in networks if network.default_route)


def attached_to(name: str) -> NetworkAttachment:
    """Return the attachment to a network with nothing else asked for."""
    return NetworkAttachment.parse({"name": name})
