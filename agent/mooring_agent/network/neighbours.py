# SPDX-License-Identifier: Apache-2.0
"""Which firewalls beside ours drop what our networks forward, or what containers ask of this host.

A verdict "accept" in our table does not overrule a drop in somebody else's: whoever drops by default has to
let our bridges through. We never write into tables of others, but say what would have to be done.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..linux.nftables import Nftables

_LEGACY_TABLES = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_PROGRAM_TIMEOUT_S = 5
# A rule about port 53, from whomever.
_ASKING = re.compile(r'"dport"}}, "right": (?:53\b|{"set": \[[^]]*\b53\b)')
_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
_BUILTIN = {"forward": "FORWARD", "input": "INPUT"}
_WHAT = {
    "forward": "what networks forward",
    "input": "what containers ask this host for, names and addresses",
}
_FIREWALLD = "firewalld"
_OF_DOCKER = "DOCKER-USER"


@dataclass(frozen=True)
class _Dropping:
    """A chain of somebody else that drops unless told otherwise, and the names of all that it leads to."""

    family: str
    table: str
    name: str
    chains: frozenset[str]

    @property
    def iptables(self) -> str:
        """The program of iptables that it is seen by, "" if it is none of theirs."""
        builtin = self.table == "filter" and self.name in _BUILTIN.values()
        return _IPTABLES.get(self.family, "") if builtin else ""

    def has(self, ufw: str) -> bool:
        """Whether it leads to a chain of ufw, whose names begin with ufw6 for IPv6."""
        return not {f"ufw-{ufw}", f"ufw6-{ufw}"}.isdisjoint(self.chains)


def dropping(
    nftables: Nftables,
    own_table: str,
    bridge_prefix: str,
    hook: str = "forward",
    versions: Collection[int] = (4,),
) -> list[str]:
    """A sentence for each firewall that drops what is forwarded unless told otherwise, and how to tell it; of
    those that see packets of these IP versions.

    With the hook "input" it is what comes to the host itself, of which containers need names and addresses.
    """
    found = []
    told: set[str] = set()
    families = {family for version in versions for family in _FAMILIES[version]}
    for chain in _drops(nftables, families, own_table, bridge_prefix, hook):
        what = _letting_through(chain, bridge_prefix) if hook == "forward" else _asking(chain, bridge_prefix)
        if what not in told:  # ufw is told of IPv4 and IPv6 at once
            told.add(what)
            where = f"{chain.family} {chain.table} {chain.name}"
            found.append(f"the firewall chain {where} of another program drops {_WHAT[hook]}; {what}")
    for version in sorted(versions):
        found += _legacy(bridge_prefix, hook, version)
    return found


def _drops(
    nftables: Nftables, families: Collection[str], own_table: str, bridge_prefix: str, hook: str
) -> Iterator[_Dropping]:
    for item in nftables.listing("list chains"):
        chain = item.get("chain", {})
        if chain.get("hook") != hook or chain["family"] not in families or chain["table"] == own_table:
            continue
        # firewalld's chain accepts by default and ends with a rule that rejects.
        if chain.get("policy") != "drop" and chain["table"] != _FIREWALLD:
            continue
        rules = nftables.listing(f"list table {chain['family']} {chain['table']}")
        reached, said = reachable(rules, chain["name"])
        if bridge_prefix not in said and not (hook == "input" and _ASKING.search(said)):
            yield _Dropping(chain["family"], chain["table"], chain["name"], reached)


def reachable(listing: list[dict[str, Any]], start: str) -> tuple[frozenset[str], str]:
    """The names of the chains that rules lead to from chain `start`, with it, and all their rules as JSON."""
    rules: dict[str, list[object]] = {}
    for item in listing:
        if "rule" in item:
            rules.setdefault(item["rule"]["chain"], []).append(item["rule"].get("expr"))
    reached, left, said = {start}, [start], []
    while left:
        for rule in rules.get(left.pop(), ()):
            said.append(json.dumps(rule))
            new = set(_targets(rule)) - reached
            reached |= new
            left += new
    return frozenset(reached), "\n".join(said)


def _targets(expression: object) -> Iterator[str]:
    """The chains that an expression of libnftables-json(5) jumps or goes to."""
    if isinstance(expression, dict):
        for key, value in expression.items():
            if key in ("jump", "goto") and isinstance(value, dict):
                yield value["target"]
            else:
                yield from _targets(value)
    elif isinstance(expression, list):
        for value in expression:
            yield from _targets(value)


def _letting_through(chain: _Dropping, prefix: str) -> str:
    if chain.table == _FIREWALLD:
        return _trusted(prefix)
    if chain.has("before-forward"):
        return f"let them through: ufw route allow in on {prefix}+, and ufw route allow out on {prefix}+"
    if chain.iptables:
        through = _OF_DOCKER if _OF_DOCKER in chain.chains else chain.name
        return _iptables(chain.iptables, through, prefix)
    rule = f"nft insert rule {chain.family} {chain.table} {chain.name}"
    return (
        f"""let them through: {rule} iifname '"{prefix}*"' accept, and {rule} oifname '"{prefix}*"' accept"""
    )


def _asking(chain: _Dropping, prefix: str) -> str:
    """How to let containers ask the host for names and addresses."""
    if chain.table == _FIREWALLD:
        return _trusted(prefix)
    if chain.has("before-input"):
        return (
            f"let them ask: ufw allow in on {prefix}+ to any port 53, and "
            f"ufw allow in on {prefix}+ proto udp from any port 68 to any port 67"
        )
    if chain.iptables:
        return _iptables_input(chain.iptables, prefix)
    return (
        f"let them ask: nft insert rule {chain.family} {chain.table} {chain.name} "
        f"""iifname '"{prefix}*"' meta l4proto '{{ tcp, udp }}' th dport '{{ 53, 67 }}' accept"""
    )


def _trusted(prefix: str) -> str:
    return (
        "put our bridges into an open zone: "
        f"firewall-cmd --permanent --zone=trusted --add-interface={prefix}+, and firewall-cmd --reload"
    )


def _legacy(bridge_prefix: str, hook: str, version: int) -> Iterator[str]:
    """The same of the iptables that came before nftables; asked only if its table is in use."""
    try:
        used = "filter" in _LEGACY_TABLES[version].read_text().split()
    except FileNotFoundError:
        return
    if not used:
        return
    program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
    try:
        answer = subprocess.run(
            (program, "--wait", "1", "--list-rules"),
            capture_output=True,
            text=True,
            timeout=_PROGRAM_TIMEOUT_S,
            check=False,
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        yield f"this host uses the iptables of before nftables, but {program} does not answer"
        return
    chain = _BUILTIN[hook]
    if f"-P {chain} DROP" not in answer.stdout or bridge_prefix in answer.stdout:
        return
    if hook == "input":
        what = _iptables_input(program, bridge_prefix)
    else:
        through = _OF_DOCKER if f"-N {_OF_DOCKER}" in answer.stdout else chain
        what = _iptables(program, through, bridge_prefix)
    yield f"the chain {chain} of {program} drops {_WHAT[hook]}; {what}"


def _iptables_input(program: str, bridge_prefix: str) -> str:
    rule = f"{program} -I INPUT -i {bridge_prefix}+"
    return (
        f"let containers ask: {rule} -p udp -m multiport --dports 53,67 -j ACCEPT, "
        f"and {rule} -p tcp --dport 53 -j ACCEPT"
    )


def _iptables(program: str, chain: str, bridge_prefix: str) -> str:
    return (
        f"let our bridges through: {program} -I {chain} -i {bridge_prefix}+ -j ACCEPT, "
        f"and {program} -I {chain} -o {bridge_prefix}+ -j ACCEPT"
    )
