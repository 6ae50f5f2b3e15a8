# SPDX-License-Identifier: Apache-2.0
"""What may be said of a network, checked and brought into one form without looking at the host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import InvalidSpec
from . import overlay
from .records import IPAddress, IPNetwork, Network, Subnet
from .rules import parse_networks, parse_rules, require_known

DEFAULT_NETWORK = "bridge"
BUILT_IN = ("host", "none")
DRIVERS = ("bridge", "macvlan", "overlay")
MACVLAN_MODES = ("bridge", "private", "vepa", "passthru")
OPTIONS = ("bridge_name", "port_isolation", "interface_prefix", "publish_address")
"""What a network may have beside its addresses, fixed while it exists."""
KEYS = (
    "driver", "ipv4", "ipv6", "subnet", "gateway", "ip_range", "subnet6", "gateway6", "ip_range6", "reserved",
    "nat", "internal", "mtu", "parent", "mode", "hosts", "host", "vni", "slice_prefix", "encryption", "port",
    "reachable_from", "rules", "labels", *OPTIONS, "attachable",
)  # fmt: skip
PREFIXES = {4: (8, 30), 6: (16, 126)}
"""The widest and the narrowest subnet of each IP version."""
MTUS = (68, 65535)  # RFC 791, and the kernel's ETH_MAX_MTU
SMALLEST_MTU6 = 1280  # RFC 8200, section 5
LIVE = ("nat", "labels", "rules", "reachable_from", "hosts", "encryption", "port", "attachable")
"""Options that change while a network exists."""

OF_OVERLAYS = ("hosts", "host", "vni", "slice_prefix", "encryption", "port")
SUFFIXES = {4: "", 6: "6"}
"""How the options of each IP version end: `subnet`, `subnet6`."""

LINK_SYSCTL = re.compile(r"net\.(ipv4|ipv6|mpls)\.(conf|neigh)\.IFNAME\.([a-z0-9_]+)")
"""A kernel setting of one interface, with IFNAME in the place of its name, as Docker writes it."""
LINK_SYSCTL_EXPECTED = (
    "a setting of an interface such as net.ipv4.conf.IFNAME.rp_filter, with IFNAME as it stands"
)

NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_. -]{0,62}[a-zA-Z0-9_.-])?")
"""The syntax of a network's name, as wide as Docker's clients use it."""
NAME_EXPECTED = (
    "at most 64 letters, digits, '_', '.', '-' and spaces, beginning with a letter or a digit and not ending "
    "with a space"
)
_IFNAME = re.compile(r"[^\s/:%\"'\\{};]{1,15}")
_LONGEST_PREFIX = 12  # of the kernel's 15 characters
_EXAMPLES = {4: "10.210.7.0/24", 6: "fd12:3456:789a::/64"}


def check_name(name: object) -> str:
    """The name itself. Raises InvalidSpec unless it can name a network that is declared."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidSpec(f"network name {name!r} is not usable: expected {NAME_EXPECTED}")
    if name in BUILT_IN:
        raise InvalidSpec(f"network name {name!r} is not usable: it is built in; choose another name")
    return name


def normalise_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, in normal form and nothing added. Raises InvalidSpec."""
    require_known(spec, KEYS, "a network")
    given = {key: value for key, value in spec.items() if value is not None}
    normal: dict[str, Any] = {}
    if "driver" in given:
        normal["driver"] = _word("driver", given["driver"], DRIVERS)
    for key in ("ipv4", "ipv6", "nat", "internal", "port_isolation", "attachable"):
        if key in given:
            normal[key] = _truth(key, given[key])
    for version in (4, 6):
        normal |= _subnet_options(given, version)
    if "reserved" in given:
        normal["reserved"] = _reserved(given["reserved"], normal)
    if "mtu" in given:
        normal["mtu"] = _mtu(given["mtu"])
    for key, read in _NAMES.items():
        if key in given:
            normal[key] = read(key, given[key])
    if "mode" in given:
        normal["mode"] = _word("mode", given["mode"], MACVLAN_MODES)
    if "reachable_from" in given:
        normal["reachable_from"] = list(parse_networks(given["reachable_from"], "network reachable_from"))
    if "rules" in given:
        normal["rules"] = [rule.dump() for rule in parse_rules(given["rules"], "network rules")]
    if "labels" in given:
        normal["labels"] = _labels(given["labels"])
    _check_versions(normal)
    _check_driver(normal, given)
    if normal.get("driver") == "overlay":
        normal |= overlay.normalise(given)
    if "subnet6" in normal:
        normal.pop("ipv6", None)  # which says the same
    return normal


def has_version(normal: Mapping[str, Any], version: int) -> bool:
    """Whether a network with this normal form has addresses of an IP version: IPv4 unless told otherwise,
    IPv6 if it is asked for or has a subnet.
    """
    return bool(normal.get(f"ipv{version}", version == 4 or "subnet6" in normal))


def subnet_of(normal: Mapping[str, Any], cidr: IPNetwork) -> Subnet:
    """A network's subnet `cidr` with what its normal form says of it; the gateway is the first address unless
    another one is named.
    """
    suffix = SUFFIXES[cidr.version]
    gateway, ip_range = normal.get(f"gateway{suffix}"), normal.get(f"ip_range{suffix}")
    return Subnet(
        cidr=cidr,
        gateway=usable(cidr)[0] if gateway is None else ipaddress.ip_address(gateway),
        ip_range=None if ip_range is None else ipaddress.ip_network(ip_range),
    )


def fixed(network: Network, normal: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What cannot change while a network exists: (option, as it is, as `normal` has it)."""
    now = network.view()
    now |= dict.fromkeys(("host", "vni")) if network.overlay is None else network.overlay.view()
    defaults: dict[str, Any] = {"reserved": [], "internal": False, "port_isolation": False}
    defaults |= dict.fromkeys(("mtu", "ip_range", "ip_range6", "bridge_name", "interface_prefix"))
    defaults["publish_address"] = None
    for version in (4, 6):
        yield f"ipv{version}", now[f"subnet{SUFFIXES[version]}"] is not None, has_version(normal, version)
    for key in KEYS:
        if key in ("slice_prefix", *LIVE) or (network.overlay is not None and key not in normal):
            continue
        if key not in ("ipv4", "ipv6"):
            yield key, now[key], normal.get(key, defaults.get(key, now[key]))


def parse_subnet(text: object, version: int = 4) -> IPNetwork:
    """A subnet of an IP version that containers can live in. Raises InvalidSpec."""
    example = _EXAMPLES[version]
    try:
        interface = ipaddress.ip_interface(text) if isinstance(text, str) and "/" in text else None
    except ValueError:
        interface = None
    if interface is None or "%" in str(text):
        raise InvalidSpec(f"subnet {text!r} is not usable: expected a network such as {example}")
    if interface.version != version:
        other = "; give it as subnet6" if version == 4 else "; give it as subnet"
        raise InvalidSpec(
            f"subnet {text} is not usable: expected an IPv{version} network such as {example}{other}"
        )
    subnet = interface.network
    if interface.ip != subnet.network_address:
        raise InvalidSpec(
            f"subnet {text} is not usable: it has bits set beyond its prefix; expected {subnet}"
        )
    widest, narrowest = PREFIXES[version]
    if not widest <= subnet.prefixlen <= narrowest:
        raise InvalidSpec(f"subnet {subnet} is not usable: expected a prefix from /{widest} to /{narrowest}")
    if _has_a_meaning(subnet):
        raise InvalidSpec(
            f"subnet {subnet} is not usable: its addresses have a meaning of their own; expected unicast "
            f"ones such as {example}"
        )
    return subnet


def usable(subnet: IPNetwork) -> tuple[IPAddress, IPAddress]:
    """The first and the last address of a subnet that an interface can have: not its own, which in IPv6 is
    that of all routers (RFC 4291, 2.6.1), and in IPv4 not the broadcast address.
    """
    last = subnet.broadcast_address - 1 if subnet.version == 4 else subnet.broadcast_address
    return subnet.network_address + 1, last


def parse_address(text: object, subnet: IPNetwork, what: str) -> IPAddress:
    """An address that an interface in `subnet` can have; `what` begins the sentence of the InvalidSpec."""
    try:
        address = ipaddress.ip_address(text if isinstance(text, str) else str(text))
    except ValueError:
        address = None
    if address is None or address.version != subnet.version or "%" in str(text):
        raise InvalidSpec(
            f"{what} {text!r} is not usable: expected an IPv{subnet.version} address of {subnet}"
        )
    first, last = usable(subnet)
    if not int(first) <= int(address) <= int(last):
        raise InvalidSpec(
            f"{what} {address} is not usable: expected an address of {subnet} from {first} to {last}"
        )
    return address


def _has_a_meaning(subnet: IPNetwork) -> bool:
    """IANA's registries of special-purpose addresses (RFC 6890), as far as no interface may have them."""
    first = subnet.network_address
    if isinstance(first, ipaddress.IPv4Address):
        return subnet.is_loopback or subnet.is_multicast or subnet.is_reserved or first.packed[0] == 0
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    return (
        subnet.is_multicast
        or subnet.is_link_local
        or int(first) < 2**120  # ::/8: unspecified, loopback, and IPv4 in other clothes
        or mapped.supernet_of(ipaddress.IPv6Network(subnet))
    )


def _subnet_options(given: Mapping[str, Any], version: int) -> dict[str, Any]:
    suffix = SUFFIXES[version]
    subnet = None
    normal: dict[str, Any] = {}
    if f"subnet{suffix}" in given:
        subnet = parse_subnet(given[f"subnet{suffix}"], version)
        normal[f"subnet{suffix}"] = str(subnet)
    for key in (f"gateway{suffix}", f"ip_range{suffix}"):
        if key in given:
            if subnet is None:
                raise InvalidSpec(
                    f"{key} {given[key]} is given without a subnet: name the subnet{suffix} of it"
                )
            what = _ip_range if key.startswith("ip_range") else _gateway
            normal[key] = what(given[key], subnet, key)
    return normal


def _gateway(value: object, subnet: IPNetwork, key: str) -> str:
    return str(parse_address(value, subnet, key))


def _ip_range(value: object, subnet: IPNetwork, key: str) -> str:
    try:
        found = ipaddress.ip_network(value if isinstance(value, str) else str(value))
    except ValueError:
        found = None
    zoned = "%" in str(value)
    if found is None or zoned or found.version != subnet.version or not _within(found, subnet):
        raise InvalidSpec(
            f"{key} {value!r} is not usable: expected a network within {subnet}, such as "
            f"{next(subnet.subnets())}"
        )
    return str(found)


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return int(outer.network_address) <= int(inner.network_address) and int(inner.broadcast_address) <= int(
        outer.broadcast_address
    )


def _reserved(value: object, normal: Mapping[str, Any]) -> list[str]:
    if not isinstance(value, list | tuple):
        raise InvalidSpec(f"network option reserved is {value!r}: expected a list of addresses")
    subnets = {
        subnet.version: subnet
        for subnet in (ipaddress.ip_network(normal[key]) for key in ("subnet", "subnet6") if key in normal)
    }
    found: dict[IPAddress, str] = {}
    for item in value:
        name, mark, text = item.rpartition("=") if isinstance(item, str) else ("", "", item)
        if mark and not name.strip():
            raise InvalidSpec(f"reserved address {item!r} has no name: expected ADDRESS or NAME=ADDRESS")
        version = 6 if ":" in str(text) else 4
        if version not in subnets:
            raise InvalidSpec(
                f"reserved address {text} is given without a subnet: name the subnet{SUFFIXES[version]} that "
                "it belongs to"
            )
        address = parse_address(text, subnets[version], "reserved address")
        if found.setdefault(address, name) != name:
            raise InvalidSpec(f"reserved address {address} has two names: give it one of them")
    ordered = sorted(found, key=lambda one: (one.version, int(one)))
    return [f"{found[address]}={address}" if found[address] else str(address) for address in ordered]


def _check_versions(normal: Mapping[str, Any]) -> None:
    for version, suffix in SUFFIXES.items():
        subnet = f"subnet{suffix}"
        if subnet in normal and not has_version(normal, version):
            raise InvalidSpec(f"network option ipv{version} is false beside {subnet}: remove one of them")
    if not has_version(normal, 4) and not has_version(normal, 6):
        raise InvalidSpec("network option ipv4 is false without ipv6: a network needs addresses of one")
    if has_version(normal, 6) and normal.get("mtu", SMALLEST_MTU6) < SMALLEST_MTU6:
        raise InvalidSpec(
            f"network option mtu is {normal['mtu']}: expected at least {SMALLEST_MTU6}, which IPv6 needs"
        )


def _check_driver(normal: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    driver = normal.get("driver", "bridge")
    if driver == "overlay":
        for key in ("gateway", "ip_range", "gateway6", "ip_range6", "reserved"):
            if normal.get(key):
                raise InvalidSpec(
                    f"network option {key} is given with driver overlay, whose hosts each have a slice of "
                    "the subnet: remove it"
                )
    for key in OF_OVERLAYS if driver != "overlay" else ():
        if key in given:
            raise InvalidSpec(
                f"network option {key} is given with driver {driver}: it belongs to overlay; remove it"
            )
    for key in ("bridge_name", "port_isolation", "publish_address") if driver != "bridge" else ():
        if normal.get(key):
            raise InvalidSpec(
                f"network option {key} is given with driver {driver}: it belongs to bridge; remove it"
            )
    if driver != "macvlan":
        for key in ("parent", "mode"):
            if key in normal:
                raise InvalidSpec(
                    f"network option {key} is given with driver {driver}: it belongs to macvlan; remove it"
                )
        return
    if "parent" not in normal:
        raise InvalidSpec(
            "a macvlan network needs the option parent: name the interface of the host that leads to it"
        )
    for version, suffix in SUFFIXES.items():
        if has_version(normal, version) and f"subnet{suffix}" not in normal:
            raise InvalidSpec(
                f"a macvlan network needs the option subnet{suffix}: name the subnet that its parent is in"
            )
    for key in ("nat", "internal", "rules", "reachable_from"):
        if normal.get(key):
            said = "true" if normal[key] is True else "set"
            raise InvalidSpec(
                f"network option {key} is {said} with driver macvlan, whose containers are on the network of "
                "its parent: remove it, or use a bridge"
            )


def _truth(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise InvalidSpec(f"network option {key} is {value!r}: expected true or false")
    return value


def _word(key: str, value: object, words: tuple[str, ...]) -> str:
    if value not in words:
        raise InvalidSpec(f"network {key} {value!r} is unknown: expected {' or '.join(words)}")
    return str(value)


def _mtu(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not MTUS[0] <= value <= MTUS[1]:
        raise InvalidSpec(
            f"network option mtu is {value!r}: expected a number of bytes from {MTUS[0]} to {MTUS[1]}"
        )
    return value


def _interface(key: str, value: object) -> str:
    """The name of an interface, dev_valid_name() in the kernel's net/core/dev.c, and no quotes."""
    if not isinstance(value, str) or not _IFNAME.fullmatch(value) or value in (".", ".."):
        example = (
            "of the host, such as eth0" if key == "parent" else "of at most 15 characters, such as br-shop"
        )
        raise InvalidSpec(f"network option {key} is {value!r}: expected the name of an interface {example}")
    return value


def _prefix(key: str, value: object) -> str:
    """What an interface's name begins with, before a number."""
    if not isinstance(value, str) or not _IFNAME.fullmatch(value) or len(value) > _LONGEST_PREFIX:
        raise InvalidSpec(
            f"network option {key} is {value!r}: expected what names of interfaces begin with, such as eth, "
            f"of at most {_LONGEST_PREFIX} characters"
        )
    return value


def _publish_address(key: str, value: object) -> str:
    try:
        return str(ipaddress.IPv4Address(value if isinstance(value, str) else str(value)))
    except ValueError:
        raise InvalidSpec(
            f"network option {key} is {value!r}: expected an IPv4 address of the host, such as 127.0.0.1"
        ) from None


_NAMES: dict[str, Callable[[str, object], str]] = {
    "parent": _interface,
    "bridge_name": _interface,
    "interface_prefix": _prefix,
    "publish_address": _publish_address,
}


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and key and isinstance(text, str) for key, text in value.items()
    ):
        raise InvalidSpec(f"network labels are {value!r}: expected a mapping of texts to texts")
    return dict(sorted(value.items()))
