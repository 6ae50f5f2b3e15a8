# SPDX-License-Identifier: Apache-2.0
"""Rules of a network: what its containers may be asked, and whom they may ask. Parsing is pure.

A rule says allow or deny, in or out, and for which protocol, ports, containers of the network and peers. They
are asked in order, and the first that fits decides; what fits none is allowed, as far as the network itself
allows it. They are about what begins a connection: answers pass.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidSpec

ACTIONS = ("allow", "deny")
DIRECTIONS = ("in", "out")
PROTOCOLS = ("any", "tcp", "udp", "sctp", "icmp")
WITH_PORTS = ("tcp", "udp", "sctp")
KEYS = ("action", "direction", "protocol", "ports", "peer", "containers")
HOST = "host"
_CONTAINER, _NETWORK = "container:", "network:"
# Networks may have spaces in their names, containers may not.
_NAMES = {
    _CONTAINER: re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}"),
    _NETWORK: re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9_. -]{0,126}[a-zA-Z0-9_.-])?"),
}
_PORTS = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PEERS = (
    'an address or a subnet such as "10.0.0.0/8", "container:NAME", "network:NAME" or "host"; without it the '
    "rule is about anybody"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. `ports` are ranges, both ends included, none is all; `peer` is "" for anybody; `containers`
    are those of the network that the rule is about, none is all.
    """

    action: str
    direction: str
    protocol: str = "any"
    ports: tuple[tuple[int, int], ...] = ()
    peer: str = ""
    containers: tuple[str, ...] = ()

    @property
    def peer_container(self) -> str | None:
        """The name of the container that is the peer."""
        return self.peer.removeprefix(_CONTAINER) if self.peer.startswith(_CONTAINER) else None

    @property
    def peer_network(self) -> str | None:
        """The name of the network that is the peer."""
        return self.peer.removeprefix(_NETWORK) if self.peer.startswith(_NETWORK) else None

    def dump(self) -> dict[str, Any]:
        """The rule as JSON; what is not said is left out."""
        data: dict[str, Any] = {"action": self.action, "direction": self.direction}
        if self.protocol != "any":
            data["protocol"] = self.protocol
        if self.ports:
            data["ports"] = [first if first == last else f"{first}-{last}" for first, last in self.ports]
        if self.peer:
            data["peer"] = self.peer
        if self.containers:
            data["containers"] = list(self.containers)
        return data

    def __str__(self) -> str:
        """The rule in words: "deny out tcp 25 to 0.0.0.0/0 for mail"."""
        words = [self.action, self.direction]
        if self.protocol != "any":
            words.append(self.protocol)
        words += (str(port) for port in self.dump().get("ports", ()))
        if self.peer:
            words += ("from" if self.direction == "in" else "to", self.peer)
        if self.containers:
            words += ("for", "+".join(self.containers))
        return " ".join(words)


def parse_rules(value: object, where: str) -> tuple[Rule, ...]:
    """Rules as a user wrote them. Raises InvalidSpec, whose sentence begins with `where`."""
    if not isinstance(value, list | tuple):
        raise InvalidSpec(f"{where} is {value!r}, expected a list of rules")
    return tuple(_rule(item, f"{where}[{number}]") for number, item in enumerate(value))


def parse_networks(value: object, where: str) -> tuple[str, ...]:
    """Names of networks, in which neither order nor repetition has a meaning. Raises InvalidSpec."""
    return _names(value, where, "network")


def require_known(given: Iterable[object], known: Sequence[str], where: str) -> None:
    """Refuse a key of a mapping that is none of the known ones. Raises InvalidSpec."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(known)}"
            raise InvalidSpec(f"{where} has no option {key!r}: {hint}")


def _split(text: str, where: str) -> dict[str, Any]:
    """The keys of a rule in words, as `str` of a rule has them."""
    words = text.split()
    given: dict[str, Any] = {"action": "".join(words[:1]), "direction": "".join(words[1:2])}
    rest = words[2:]
    if rest and rest[0] in PROTOCOLS:
        given["protocol"] = rest.pop(0)
    ports = []
    while rest and _PORTS.fullmatch(rest[0]):
        ports.append(rest.pop(0))
    given["ports"] = ports
    for key, marks in (("peer", ("from", "to")), ("containers", ("for",))):
        if len(rest) > 1 and rest[0] in marks:
            value = rest[1]
            given[key] = value.split("+") if key == "containers" else value
            rest = rest[2:]
    if rest:
        raise InvalidSpec(
            f"{where} is {text!r}, whose {' '.join(rest)!r} is not understood; expected words such as "
            '"deny out tcp 25 to 10.0.0.0/8 for mail+web"'
        )
    return given


def _rule(item: object, where: str) -> Rule:
    if isinstance(item, str):
        item = _split(item, where)
    if not isinstance(item, Mapping):
        raise InvalidSpec(f"{where} is {item!r}, expected a mapping of {', '.join(KEYS)} to values")
    require_known(item, KEYS, where)
    given = {key: value for key, value in item.items() if value is not None}
    for key in ("action", "direction"):
        if key not in given:
            raise InvalidSpec(f"{where} needs the option {key}; add it")
    protocol = _word(given.get("protocol", "any"), f"{where}.protocol", PROTOCOLS)
    ports = _ports(given.get("ports", ()), f"{where}.ports")
    if ports and protocol not in WITH_PORTS:
        raise InvalidSpec(
            f"{where}.ports is set with the protocol {protocol}, which has no ports; expected the protocol "
            f"{', '.join(WITH_PORTS[:-1])} or {WITH_PORTS[-1]}"
        )
    direction = _word(given["direction"], f"{where}.direction", DIRECTIONS)
    peer = _peer(given.get("peer", ""), f"{where}.peer")
    if peer == HOST and direction == "in":
        raise InvalidSpec(
            f'{where}.peer is "host" with the direction "in", but the host always reaches its containers; '
            'expected the direction "out", or another peer'
        )
    return Rule(
        action=_word(given["action"], f"{where}.action", ACTIONS),
        direction=direction,
        protocol=protocol,
        ports=ports,
        peer=peer,
        containers=_names(given.get("containers", ()), f"{where}.containers", "container"),
    )


def _word(value: object, where: str, words: tuple[str, ...]) -> str:
    if value not in words:
        raise InvalidSpec(f"{where} is {value!r}, expected one of {', '.join(words)}")
    return str(value)


def _ports(value: object, where: str) -> tuple[tuple[int, int], ...]:
    items = value if isinstance(value, list | tuple) else [value]
    found = []
    for item in items:
        match = None if isinstance(item, bool) else _PORTS.fullmatch(str(item))
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        if not 1 <= first <= last <= 65535:
            raise InvalidSpec(f'{where} has {item!r}, expected a port from 1 to 65535 or a range "8000-8010"')
        found.append((first, last))
    return _merged(found)


def _merged(ranges: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """The ranges sorted, those that touch made one: nftables refuses overlaps in a set."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], last)
        else:
            merged.append((first, last))
    return tuple(merged)


def _peer(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise InvalidSpec(f"{where} is {value!r}, expected {_PEERS}")
    if value in ("", HOST):
        return value
    for kind in (_CONTAINER, _NETWORK):
        if value.startswith(kind):
            return kind + _named(value.removeprefix(kind), where, kind, f"{kind}NAME")
    if "%" in value:  # a zone of IPv6 would be any text
        raise InvalidSpec(f"{where} is {value!r}, expected {_PEERS}")
    try:
        return str(ipaddress.ip_network(value))
    except ValueError as error:
        reason = f" ({error})" if "host bits" in str(error) else ""
        raise InvalidSpec(f"{where} is {value!r}{reason}, expected {_PEERS}") from None


def _names(value: object, where: str, kind: str) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple):
        raise InvalidSpec(f"{where} is {value!r}, expected a list of names of {kind}s")
    return tuple(sorted({_named(name, where, f"{kind}:", f"the name of a {kind}") for name in names}))


def _named(value: object, where: str, kind: str, expected: str) -> str:
    if not isinstance(value, str) or not _NAMES[kind].fullmatch(value):
        raise InvalidSpec(f"{where} has {value!r}, expected {expected}")
    return value
