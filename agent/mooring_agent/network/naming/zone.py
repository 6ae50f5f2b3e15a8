# SPDX-License-Identifier: Apache-2.0
"""What dnsmasq reads of containers, as text: names, reserved addresses, names that are not asked elsewhere.

Pure functions, and the last to look at a name: what could be read as more than one raises InvalidSpec here,
whoever has let it pass before.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

from ...errors import InvalidSpec
from ..records import IPNetwork
from .realms import Home

# A label as people use them: RFC 1123, 2.1, and the underscores of service names.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
LONGEST_NAME = 253  # RFC 1035, 2.3.4: 255 octets, of which each label takes one more than its letters
LABELS_EXPECTED = (
    "a name of labels of at most 63 letters, digits, '-' and '_', with dots between them, at most "
    f"{LONGEST_NAME} characters long, and not localhost"
)
_MAC = re.compile(r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}")
_RESERVED = "localhost"  # RFC 6761, 6.3: always the loopback address


def can_be_told(name: str) -> bool:
    """Whether a name can be looked up: labels of at most 63 letters, digits, '-' and '_', none empty."""
    lower = name.lower()
    return (
        len(lower) <= LONGEST_NAME
        and _NAME.fullmatch(lower) is not None
        and lower.rpartition(".")[2] != _RESERVED
    )


def hosts_text(home: Home) -> str:
    """A container in one realm as hosts(5): a line an address. An address is called by the first name.

    Raises InvalidSpec for what is no name or address.
    """
    names = " ".join(dict.fromkeys(_told(name) for name in home.names))
    return "".join(f"{_address(address)}\t{names}\n" for address in home.addresses) if names else ""


def reservation(home: Home, address: str) -> str:
    """The reservation of an IPv4 address for a MAC, as --dhcp-host of dnsmasq(8) takes it.

    The tag keeps a client from a second default route.
    """
    if not _MAC.fullmatch(home.mac):
        raise InvalidSpec(f"MAC {home.mac!r} is not usable: expected six pairs of hexadecimal digits")
    tag = "" if home.default_route else f"set:{NO_ROUTE},"
    return f"{home.mac},{tag}{ipaddress.IPv4Address(address)}\n"


NO_ROUTE = "noroute"


def dotted(names: Iterable[str]) -> Iterator[str]:
    """The names that others could know, too: those of more than one label."""
    return (_told(name) for name in names if "." in name)


def local_names(names: Iterable[str]) -> str:
    """Lines for --servers-file of dnsmasq(8), so that nobody else is asked about these names.

    Else a question for an IPv6 address of a container that has none would go on to the host's resolvers, and
    come back with somebody else's. Names below them are not ours.
    """
    lines = []
    for name in sorted(set(names)):
        lines += [f"server=/{_told(name)}/", f"server=/*.{name.lower()}/#"]
    return "".join(f"{line}\n" for line in lines)


def reverse_zones(subnet: IPNetwork) -> list[str]:
    """The zones below in-addr.arpa (RFC 1035, 3.5) or ip6.arpa (RFC 3596, 2.5) that a subnet consists of.

    Of a prefix that ends within an octet (a nibble) they are several, at most 128 (8).
    """
    step = 8 if subnet.version == 4 else 4
    aligned = -(-subnet.prefixlen // step) * step
    zones = []
    for part in subnet.subnets(new_prefix=aligned):
        labels = part.network_address.reverse_pointer.split(".")
        zones.append(".".join(labels[(part.max_prefixlen - aligned) // step :]))
    return zones


def _told(name: str) -> str:
    if not can_be_told(name):
        raise InvalidSpec(f"name {name!r} cannot be given to a container: expected {LABELS_EXPECTED}")
    return name.lower()


def _address(address: str) -> str:
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        raise InvalidSpec(f"address {address!r} is not usable: expected an IPv4 or IPv6 address") from None
