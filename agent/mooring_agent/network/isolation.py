# SPDX-License-Identifier: Apache-2.0
"""The rules of networks in the kernel: an nftables table of their own, as text. Pure, nft(8).

It stands beside the table of `ruleset` and is asked before it. What a rule allows goes on to that one, which
keeps networks apart; what a rule denies is dropped. Each network with rules has two chains, found by the name
of its bridge. Names of containers and networks are sets, whose elements change as these come and go; the
chains do so only with the network's declaration.

Frames within a network do not leave its bridge, and are seen here only because the bridge hands them to
netfilter (`bridges`), which has to know connections: a rule is about what begins one.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .rules import HOST, Rule

FAMILY = "inet"
_DNS_AND_DHCP = "{ 53, 67, 547 }"
_NEIGHBOURS = "{ nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert }"  # the guard sees to the rest
_COMMENTED = re.compile(r'comment "([^"]*)"$')
_JUMP = re.compile(r'add element .* (leaving|entering) { "([^"]+)" : jump')
_LONGEST_COMMENT = 127  # NFTNL_UDATA_COMMENT_MAXLEN of libnftables, in bytes

_BASE = f"""\
map leaving {{
    comment "by its bridge: the rules for what a network's containers ask"
    type ifname : verdict
}}
map entering {{
    comment "by its bridge: the rules for what they are asked"
    type ifname : verdict
}}
map classes4 {{
    comment "by its address: the class of what a container sends"
    type ipv4_addr : classid
}}
map classes6 {{
    type ipv6_addr : classid
}}
chain classify {{
    type filter hook postrouting priority mangle; policy accept;
    meta priority set ip saddr map @classes4 comment "for the host's queues"
    meta priority set ip6 saddr map @classes6 comment "for the host's queues, IPv6"
}}
chain forward {{
    type filter hook forward priority filter - 1; policy accept;
    ct state established,related accept comment "answers"
    icmpv6 type {_NEIGHBOURS} accept comment "neighbours"
    iifname vmap @leaving comment "what they ask"
    oifname vmap @entering comment "what they are asked"
}}
chain input {{
    type filter hook input priority filter - 1; policy accept;
    ct state established,related accept comment "answers"
    meta l4proto {{ tcp, udp }} th dport {_DNS_AND_DHCP} accept comment "names and addresses"
    icmpv6 type {_NEIGHBOURS} accept comment "neighbours"
    iifname vmap @leaving comment "what they ask of the host"
}}
"""


class Ruled(Protocol):
    """What is needed of `records.Network`."""

    @property
    def number(self) -> int:
        """Unique within the agent."""

    @property
    def bridge(self) -> str:
        """The name of its bridge."""

    @property
    def rules(self) -> Sequence[Rule]:
        """Its rules, in order."""


Resolve = Callable[[str], Iterable[str]]
"""The addresses of a container, or the subnets of a network, by its name; none if there is no such."""


@dataclass(frozen=True, slots=True)
class Table:
    """What the table should hold: its chains and sets as text, and the elements of its sets."""

    text: str = ""
    elements: frozenset[tuple[str, str]] = field(default_factory=frozenset)


def build(
    networks: Iterable[Ruled], containers: Resolve, named: Resolve, classes: Mapping[str, str]
) -> Table:
    """The table for all networks; empty if none has rules and there are no `classes`, which are by address.

    `containers` resolves names of containers, `named` those of networks.
    """
    lines: list[str] = []
    jumps: list[str] = []
    elements: set[tuple[str, str]] = set()
    for network in networks:
        if not network.rules:
            continue
        chains: dict[str, list[str]] = {"in": [], "out": []}
        for number, rule in enumerate(network.rules):
            key = f"{network.number}_{number}"
            lines += _sets(key, rule)
            elements.update(_elements(key, rule, containers, named))
            chains[rule.direction] += _statements(key, rule)
        for direction, statements in chains.items():
            name = f"net_{network.number}_{direction}"
            lines += (f"chain {name} {{", *(f"    {statement}" for statement in statements), "}")
            where = "entering" if direction == "in" else "leaving"
            jumps.append(f'add element {FAMILY} {{table}} {where} {{ "{network.bridge}" : jump {name} }}')
    for address, traffic_class in classes.items():
        elements.add((f"classes{ipaddress.ip_address(address).version}", f"{address} : {traffic_class}"))
    if not lines and not classes:
        return Table()
    return Table("\n".join([*lines, _BASE.rstrip(), "\0", *jumps]), frozenset(elements))


def full(table: str, wanted: Table) -> str:
    """Commands that make the table what it should be, whatever it is: one transaction, without a gap."""
    name = f"{FAMILY} {table}"
    lines = [f"add table {name}", f"delete table {name}"]
    if not wanted.text:
        return "\n".join(lines)
    body, _, jumps = wanted.text.partition("\0")
    marker = f"chain {_marker(wanted.text)} {{\n}}"
    lines += [f"table {name} {{", body.rstrip(), marker, "}", jumps.strip().replace("{table}", table)]
    lines += (_element("add", table, *element) for element in sorted(wanted.elements))
    return "\n".join(lines)


def change(table: str, before: Table, after: Table) -> str:
    """Commands that lead from one table to another: of elements alone where the rules stay."""
    if before.text != after.text:
        return full(table, after)
    return "\n".join(
        [
            *(_element("delete", table, *element) for element in sorted(before.elements - after.elements)),
            *(_element("add", table, *element) for element in sorted(after.elements - before.elements)),
        ]
    )


def is_as_wanted(listing: Iterable[dict[str, Any]], wanted: Table) -> bool:
    """Whether a listing of the table (libnftables-json(5)) shows what it should hold: the version of its
    text, every rule in its place, by its comment, and the elements of its sets.
    """
    chains: set[str] = set()
    rules: list[tuple[str, str]] = []
    elements: set[tuple[str, str]] = set()
    jumps: set[tuple[str, str]] = set()
    for item in listing:
        if "chain" in item:
            chains.add(item["chain"]["name"])
        elif "rule" in item:
            rules.append((item["rule"]["chain"], item["rule"].get("comment", "")))
        elif "set" in item:
            elements.update((item["set"]["name"], _address(entry)) for entry in item["set"].get("elem", ()))
        elif "map" in item and item["map"]["name"].startswith("classes"):
            pairs = item["map"].get("elem", ())
            elements.update((item["map"]["name"], f"{key} : {value}") for key, value in pairs)
        elif "map" in item:
            jumps.update((item["map"]["name"], str(key)) for key, _ in item["map"].get("elem", ()))
    expected = _expected_rules(wanted.text)
    return (
        _marker(wanted.text) in chains
        and sorted(rules, key=lambda rule: rule[0]) == sorted(expected, key=lambda rule: rule[0])
        and elements == wanted.elements
        and jumps == set(_JUMP.findall(wanted.text))
    )


def _marker(text: str) -> str:
    """The name of an empty chain that tells which text the table was made of."""
    return f"version_{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def _expected_rules(text: str) -> list[tuple[str, str]]:
    found = []
    chain = ""
    for line in text.splitlines():
        head, _, rest = line.partition(" ")
        if head in ("chain", "map", "set"):
            chain = rest.split()[0] if head == "chain" else ""
        elif chain and (comment := _COMMENTED.search(line)):
            found.append((chain, comment[1]))
    return found


def _address(entry: Any) -> str:
    if isinstance(entry, dict) and "prefix" in entry:
        return f"{entry['prefix']['addr']}/{entry['prefix']['len']}"
    return str(entry)


def _element(verb: str, table: str, where: str, what: str) -> str:
    return f"{verb} element {FAMILY} {table} {where} {{ {what} }}"


def _has_names(rule: Rule) -> bool:
    return rule.peer_container is not None or rule.peer_network is not None


def _sets(key: str, rule: Rule) -> Iterator[str]:
    wanted = [("peer", _has_names(rule)), ("own", bool(rule.containers))]
    for role in (role for role, needed in wanted if needed):
        for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
            yield f"set {role}{version}_{key} {{"
            yield f"    type {kind}"
            yield "    flags interval"
            yield "}"


def _elements(key: str, rule: Rule, containers: Resolve, named: Resolve) -> Iterator[tuple[str, str]]:
    if rule.peer_container is not None:
        yield from _of("peer", key, containers(rule.peer_container))
    elif rule.peer_network is not None:
        yield from _of("peer", key, named(rule.peer_network))
    for name in rule.containers:
        yield from _of("own", key, containers(name))


def _of(role: str, key: str, addresses: Iterable[str]) -> Iterator[tuple[str, str]]:
    for address in addresses:
        yield f"{role}{ipaddress.ip_network(address).version}_{key}", address


def _statements(key: str, rule: Rule) -> Iterator[str]:
    """The rule in nft's words: once, or once for each IP version where it names addresses."""
    verdict = "return" if rule.action == "allow" else "drop"
    end = f'{_service(rule)}counter {verdict} comment "{str(rule)[:_LONGEST_COMMENT]}"'
    own, peer = ("daddr", "saddr") if rule.direction == "in" else ("saddr", "daddr")
    fixed = (
        ipaddress.ip_network(rule.peer) if rule.peer and not _has_names(rule) and rule.peer != HOST else None
    )
    versions = (4, 6) if fixed is None else (fixed.version,)
    if fixed is None and not _has_names(rule) and not rule.containers:
        yield f"fib daddr type local {end}" if rule.peer == HOST else end
        return
    for version in versions:
        family = "ip" if version == 4 else "ip6"
        parts = []
        if rule.containers:
            parts.append(f"{family} {own} @own{version}_{key}")
        if rule.peer == HOST:
            parts.append("fib daddr type local")
        elif fixed is not None:
            parts.append(f"{family} {peer} {fixed}")
        elif rule.peer:
            parts.append(f"{family} {peer} @peer{version}_{key}")
        yield " ".join([*parts, end])


def _service(rule: Rule) -> str:
    if rule.protocol == "any":
        return ""
    if rule.protocol == "icmp":
        return "meta l4proto { icmp, ipv6-icmp } "
    if not rule.ports:
        return f"meta l4proto {rule.protocol} "
    ports = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in rule.ports)
    return f"{rule.protocol} dport {{ {ports} }} "
