# SPDX-License-Identifier: Apache-2.0
"""Our nftables table as text: pure functions from networks and publications to nft commands, nft(8).

The rules never change while the agent runs: they look things up in sets and maps. A network is some set
elements and a published port is one map element, so a change costs the same however many there are.

How the table lives with others: a verdict "accept" of ours ends our chain only, so the drops of docker,
firewalld, ufw or of hand-written rules keep their force; our own drops concern only what comes from or goes
to our bridges.

Every packet comes through `guard` and `forward`: a rule there begins with what hardly any packet has, or with
what nearly all have. A lookup of an interface's name first costs two packets in a hundred of their time.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Iterator
from typing import Any

from . import portrules
from .overlay import device_name
from .portrules import FAMILY, Chain, Element
from .records import Network, Publication

_SKELETON = """\
map published {
    comment "ports of one address of the host"
    type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service
}
map published_anywhere {
    comment "ports of every address of the host"
    type inet_proto . inet_service : ipv4_addr . inet_service
}
map published6 {
    type inet_proto . ipv6_addr . inet_service : ipv6_addr . inet_service
}
map published_anywhere6 {
    type inet_proto . inet_service : ipv6_addr . inet_service
}
map balanced {
    comment "ports that several containers share"
    type inet_proto . ipv4_addr . inet_service : verdict
}
map balanced_anywhere {
    type inet_proto . inet_service : verdict
}
map balanced6 {
    type inet_proto . ipv6_addr . inet_service : verdict
}
map balanced_anywhere6 {
    type inet_proto . inet_service : verdict
}
set bridges {
    type ifname
}
set internal {
    comment "bridges of networks that nothing enters or leaves"
    type ifname
}
set guarded {
    comment "bridges that the outside reaches through published ports only"
    type ifname
}
set within {
    comment "each bridge and itself"
    type ifname . ifname
}
set translated {
    comment "subnets that are hidden behind the host's addresses"
    type ipv4_addr
    flags interval
}
set translated6 {
    comment "the same of IPv6"
    type ipv6_addr
    flags interval
}
set reachable {
    comment "a bridge, and one to which connections may begin there"
    type ifname . ifname
}
set neighbours {
    comment "each subnet and itself"
    type ipv4_addr . ipv4_addr
    flags interval
}
set neighbours6 {
    comment "the same of IPv6"
    type ipv6_addr . ipv6_addr
    flags interval
}
chain version {
}
chain guard {
    type filter hook prerouting priority raw; policy accept;
    ip daddr 127.0.0.0/8 iifname != "lo" drop comment "loopback addresses stay on the host"
    ip saddr 127.0.0.0/8 iifname @bridges drop comment "no container speaks as the host"
}
chain prerouting {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump publish comment "published ports, from outside and from containers"
}
chain output {
    type nat hook output priority -100; policy accept;
    ip6 daddr ::1 return comment "no answer would get back to it: the kernel drops it at the bridge"
    fib daddr type local jump publish comment "published ports, from the host"
}
chain publish {
    meta nfproto ipv6 goto publish6 comment "over IPv6"
    meta l4proto { tcp, udp, sctp } dnat ip to meta l4proto . ip daddr . th dport map @published \
comment "of one address"
    meta l4proto { tcp, udp, sctp } meta l4proto . ip daddr . th dport vmap @balanced \
comment "of one address, shared"
    meta l4proto { tcp, udp, sctp } dnat ip to meta l4proto . th dport map @published_anywhere \
comment "of every address"
    meta l4proto { tcp, udp, sctp } meta l4proto . th dport vmap @balanced_anywhere \
comment "of every address, shared"
}
chain publish6 {
    meta l4proto { tcp, udp, sctp } dnat ip6 to meta l4proto . ip6 daddr . th dport map @published6 \
comment "of one address"
    meta l4proto { tcp, udp, sctp } meta l4proto . ip6 daddr . th dport vmap @balanced6 \
comment "of one address, shared"
    meta l4proto { tcp, udp, sctp } dnat ip6 to meta l4proto . th dport map @published_anywhere6 \
comment "of every address"
    meta l4proto { tcp, udp, sctp } meta l4proto . th dport vmap @balanced_anywhere6 \
comment "of every address, shared"
}
chain postrouting {
    type nat hook postrouting priority srcnat; policy accept;
    oifname @bridges ip saddr 127.0.0.0/8 masquerade comment "the host through its loopback"
    ct status dnat ip saddr . ip daddr @neighbours masquerade comment "a published port from its own network"
    ct status dnat ip6 saddr . ip6 daddr @neighbours6 masquerade \
comment "a published port from its own network, IPv6"
    oifname != @bridges ip saddr @translated masquerade comment "containers to the outside"
    oifname != @bridges ip6 saddr @translated6 masquerade comment "containers to the outside, IPv6"
}
chain forward {
    type filter hook forward priority filter; policy accept;
    ct state established,related accept comment "what was let in"
    iifname . oifname @within accept comment "within a network"
    iifname . oifname @reachable accept comment "networks that are open to each other"
    iifname @internal drop comment "internal networks are not left"
    oifname @internal drop comment "internal networks are not entered"
    oifname @bridges ct status dnat accept comment "published ports"
    iifname @bridges oifname @bridges drop comment "networks are apart"
    oifname @guarded drop comment "no way to ports that are not published"
}
"""

MARKER = "version_" + hashlib.sha256(_SKELETON.encode()).hexdigest()[:12]
"""Name of an empty chain, which tells whether the rules in the kernel are those of this agent's version."""

_PROTOCOL_NUMBERS = {"6": "tcp", "17": "udp", "132": "sctp"}  # what nft lists on hosts without /etc/protocols
_HOOK = re.compile(r"chain (\S+) {\n    type (\S+) hook (\S+) priority")
_COMMENTED = re.compile(r'comment "([^"]*)"$')


def full(table: str, networks: Iterable[Network], publications: Iterable[Publication]) -> str:
    """Commands that make the table what it should be, whatever it is: one transaction, without a gap."""
    name = f"{FAMILY} {table}"
    lines = [f"add table {name}", f"delete table {name}", f"table {name} {{", skeleton(), "}"]
    networks = list(networks)
    for network in networks:
        lines += add_network(table, network)
    lines += (f"add element {FAMILY} {table} reachable {{ {pair} }}" for pair in reachable(networks))
    lines += portrules.change(table, (), publications)
    return "\n".join(lines)


def skeleton() -> str:
    """The table's sets, maps and chains, without elements."""
    return _SKELETON.replace("chain version {", f"chain {MARKER} {{")


def remove_table(table: str) -> str:
    """Commands that remove the table, whether or not it exists."""
    return f"add table {FAMILY} {table}\ndelete table {FAMILY} {table}"


def network_elements(network: Network) -> Iterator[tuple[str, str]]:
    """The (set, element) pairs that a network consists of."""
    yield "bridges", f'"{network.bridge}"'
    if not network.port_isolation:
        yield "within", f'"{network.bridge}" . "{network.bridge}"'
    if network.overlay is not None:
        device = device_name(network.bridge)
        yield "bridges", f'"{device}"'
        yield "within", f'"{network.bridge}" . "{device}"'
        yield "within", f'"{device}" . "{network.bridge}"'
    for subnet in network.subnets:
        where = "neighbours" if subnet.cidr.version == 4 else "neighbours6"
        yield where, f"{subnet.cidr} . {subnet.cidr}"
    if network.internal:
        yield "internal", f'"{network.bridge}"'
    if network.translated:
        yield "guarded", f'"{network.bridge}"'
        for subnet in network.subnets:
            yield "translated" if subnet.cidr.version == 4 else "translated6", str(subnet.cidr)


def reachable(networks: Iterable[Network]) -> list[str]:
    """The pairs of bridges between which connections may begin, in that direction; of networks that there
    are.
    """
    by_name = {network.name: network for network in networks}
    return [
        f'"{by_name[name].bridge}" . "{network.bridge}"'
        for network in by_name.values()
        for name in network.reachable_from
        if name in by_name
    ]


def in_full(network: Network) -> tuple[object, ...]:
    """What of a network changes the table as a whole when it is changed."""
    return network.translated, network.reachable_from


def add_network(table: str, network: Network) -> list[str]:
    """Commands that add a network's elements; those that are there already do no harm."""
    return [f"add element {FAMILY} {table} {where} {{ {what} }}" for where, what in network_elements(network)]


def remove_network(table: str, network: Network) -> list[str]:
    """Commands that remove a network's elements."""
    return [
        f"delete element {FAMILY} {table} {where} {{ {what} }}" for where, what in network_elements(network)
    ]


# ---- comparing with what the kernel has ----------------------------------------------------------


def differences(
    listing: list[dict[str, Any]], networks: Iterable[Network], publications: Iterable[Publication]
) -> list[str]:
    """What of our table is not as it should be, a phrase each; `listing` is that of `list table`."""
    chains = {item["chain"]["name"]: item["chain"] for item in listing if "chain" in item}
    if MARKER not in chains:
        return ["its rules are not those of this version of the agent"]
    found = []
    for name, kind, hook in _HOOK.findall(skeleton()):
        chain = chains.get(name, {})
        if (chain.get("type"), chain.get("hook"), chain.get("policy")) != (kind, hook, "accept"):
            found.append(f"chain {name} was changed")
    ports = portrules.by_port(publications)
    expected = [chain for members in ports if (chain := portrules.chain(members)) is not None]
    if _rules_of(listing) != _rules_expected(expected) or _port_chains(chains) != {
        chain.name for chain in expected
    }:
        found.append("its rules were changed")
    present = {(where, *pair) for where, pair in _elements_of(listing)}
    networks = list(networks)
    wanted = {(where, _plain(what), "") for network in networks for where, what in network_elements(network)}
    wanted |= {("reachable", _plain(pair), "") for pair in reachable(networks)}
    for members in ports:
        wanted |= {_compared(element) for element in portrules.elements(members)}
    found += (f"{where} lacks {_shown(key, value)}" for where, key, value in sorted(wanted - present))
    found += (f"{where} has {_shown(key, value)} too many" for where, key, value in sorted(present - wanted))
    return found


def _compared(element: Element) -> tuple[str, str, str]:
    return element.where, _plain(element.key), element.value


def _port_chains(chains: Iterable[str]) -> set[str]:
    return {name for name in chains if name.startswith(portrules.CHAIN_PREFIX)}


def _rules_expected(ports: Iterable[Chain]) -> list[tuple[str, str]]:
    found = [(chain.name, rule.split('"')[-2]) for chain in ports for rule in chain.rules]
    chain = ""
    for line in skeleton().splitlines():
        if line.startswith("chain "):
            chain = line.split()[1]
        comment = _COMMENTED.search(line)
        if chain and comment:
            found.append((chain, comment[1]))
    return sorted(found, key=lambda rule: rule[0])


def _rules_of(listing: list[dict[str, Any]]) -> list[tuple[str, str]]:
    rules = [(item["rule"]["chain"], item["rule"].get("comment", "")) for item in listing if "rule" in item]
    return sorted(rules, key=lambda rule: rule[0])


def _elements_of(listing: list[dict[str, Any]]) -> Iterator[tuple[str, tuple[str, str]]]:
    for item in listing:
        for entry in item.get("set", {}).get("elem", ()):
            yield item["set"]["name"], (_text_of(entry), "")
        for key, value in item.get("map", {}).get("elem", ()):
            protocol, _, rest = _text_of(key).partition(" . ")
            named = f"{_PROTOCOL_NUMBERS.get(protocol, protocol)} . {rest}"
            yield item["map"]["name"], (named, _text_of(value))


def _text_of(expression: object) -> str:
    """An expression of libnftables-json(5) as we write it, without quotes."""
    if not isinstance(expression, dict):
        return str(expression)
    if "concat" in expression:
        return " . ".join(map(_text_of, expression["concat"]))
    if "prefix" in expression:
        return str(ipaddress.ip_network(f"{expression['prefix']['addr']}/{expression['prefix']['len']}"))
    if "elem" in expression:
        return _text_of(expression["elem"]["val"])
    if "goto" in expression:
        return f"goto {expression['goto']['target']}"
    return str(expression)


def _plain(element: str) -> str:
    return element.replace('"', "")


def _shown(key: str, value: str) -> str:
    return f"{key} : {value}" if value else key
