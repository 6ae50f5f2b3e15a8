# SPDX-License-Identifier: Apache-2.0
"""What may be said of a network, checked and brought into one form without looking at the host."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec

DEFAULT_NETWORK = "bridge"
BUILT_IN = ("host", "none")
DRIVERS = ("bridge",)
KEYS = ("driver", "subnet", "gateway", "nat", "internal", "labels")
LONGEST_PREFIX = 30
SHORTEST_PREFIX = 8

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}")


def check_name(name: object) -> str:
    """The name itself. Raises InvalidSpec unless it can name a network that is declared."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidSpec(
            f"network name {name!r} is not usable: expected at most 64 letters, digits, '_', '.' and '-', "
            "beginning with a letter or a digit"
        )
    if name in BUILT_IN:
        raise InvalidSpec(f"network name {name!r} is not usable: it is built in; choose another name")
    return name


def normalise_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """What was given, in normal form and nothing added. Raises InvalidSpec."""
    for key in spec:
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(KEYS)}"
            raise InvalidSpec(f"a network has no option {key!r}: {hint}")
    given = {key: value for key, value in spec.items() if value is not None}
    normal: dict[str, Any] = {}
    if "driver" in given:
        normal["driver"] = _driver(given["driver"])
    if "subnet" in given:
        normal["subnet"] = str(parse_subnet(given["subnet"]))
    if "gateway" in given:
        normal["gateway"] = _gateway(given["gateway"], normal.get("subnet"))
    for key in ("nat", "internal"):
        if key in given:
            if not isinstance(given[key], bool):
                raise InvalidSpec(f"network option {key} is {given[key]!r}: expected true or false")
            normal[key] = given[key]
    if "labels" in given:
        normal["labels"] = _labels(given["labels"])
    return normal


def parse_subnet(text: object) -> ipaddress.IPv4Network:
    """A subnet that containers can live in. Raises InvalidSpec."""
    try:
        interface = ipaddress.ip_interface(text) if isinstance(text, str) and "/" in text else None
    except ValueError:
        interface = None
    if interface is None:
        raise InvalidSpec(f"subnet {text!r} is not usable: expected a network such as 10.210.7.0/24")
    if interface.version != 4:
        raise InvalidSpec(f"subnet {text} is not usable: expected an IPv4 network such as 10.210.7.0/24")
    subnet = interface.network
    if interface.ip != subnet.network_address:
        raise InvalidSpec(
            f"subnet {text} is not usable: it has bits set beyond its prefix; expected {subnet}"
        )
    if not SHORTEST_PREFIX <= subnet.prefixlen <= LONGEST_PREFIX:
        raise InvalidSpec(
            f"subnet {subnet} is not usable: expected a prefix from /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}"
        )
    if (
        subnet.is_loopback
        or subnet.is_multicast
        or subnet.is_reserved
        or subnet.network_address.packed[0] == 0
    ):
        raise InvalidSpec(
            f"subnet {subnet} is not usable: its addresses have a meaning of their own; expected unicast "
            "ones such as 10.210.7.0/24"
        )
    return subnet


def _driver(value: object) -> str:
    if value not in DRIVERS:
        raise InvalidSpec(f"network driver {value!r} is unknown: expected {' or '.join(DRIVERS)}")
    return str(value)


def _gateway(value: object, subnet: str | None) -> str:
    if subnet is None:
        raise InvalidSpec(f"gateway {value} is given without a subnet: name the subnet that it belongs to")
    network = ipaddress.IPv4Network(subnet)
    try:
        gateway = ipaddress.IPv4Address(value if isinstance(value, str) else str(value))
    except ValueError:
        raise InvalidSpec(f"gateway {value!r} is not usable: expected an IPv4 address of {subnet}") from None
    if gateway not in network or gateway in (network.network_address, network.broadcast_address):
        raise InvalidSpec(
            f"gateway {gateway} is not usable: expected an address of {subnet} from "
            f"{network.network_address + 1} to {network.broadcast_address - 1}"
        )
    return str(gateway)


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(
        isinstance(key, str) and key and isinstance(text, str) for key, text in value.items()
    ):
        raise InvalidSpec(f"network labels are {value!r}: expected a mapping of texts to texts")
    return dict(sorted(value.items()))
