# SPDX-License-Identifier: Apache-2.0
"""Which firewalls beside ours drop what our networks forward, or what containers ask of this host.

A verdict "accept" in our table does not overrule a drop in somebody else's: whoever drops by default has to
let our bridges through. We never write into tables of others, but say what would have to be done.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..linux.nftables import Nftables

_LEGACY_TABLES = {4: Path("/proc/net/ip_tables_names"), 6: Path("/proc/net/ip6_tables_names")}
_PROGRAM_TIMEOUT_S = 5
_FAMILIES = {4: ("ip", "inet"), 6: ("ip6", "inet")}
_IPTABLES = {"ip": "iptables", "ip6": "ip6tables"}
_BUILTIN = {"forward": "FORWARD", "input": "INPUT"}
_FIREWALLD = "firewalld"
_OF_DOCKER = "DOCKER-USER"


@dataclass(frozen=True, slots=True)
class Passage:
    """What has to get through at a hook of netfilter: `words` for it, its ports by protocol, and the commands
    of ufw for it, where NAME is an interface. A firewall that knows of it has a rule about the first port.
    Without ports it is all.
    """

    hook: str
    words: str
    ports: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ufw: str = ""

    def is_known_to(self, rules: str) -> bool:
        """Whether rules, as JSON, are about the first port, from whomever."""
        first = next((port for ports in self.ports.values() for port in ports), None)
        about = rf'"dport"}}}}, "right": (?:{first}\b|{{"set": \[[^]]*\b{first}\b)'
        return first is not None and re.search(about, rules) is not None


FORWARDING = Passage("forward", "what networks forward")
ASKING = Passage(
    "input",
    "what containers ask this host for, names and addresses",
    {"udp": (53, 67), "tcp": (53,)},
    "ufw allow in on NAME to any port 53, and ufw allow in on NAME proto udp from any port 68 to any port 67",
)


def between_hosts(port: int) -> Passage:
    """What other hosts of an overlay ask this one at a TCP port."""
    words = "what other hosts ask this one for, the names of its containers"
    return Passage("input", words, {"tcp": (port,)}, f"ufw allow in on NAME proto tcp to any port {port}")


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
    prefix: str,
    passage: Passage = FORWARDING,
    versions: Collection[int] = (4,),
) -> list[str]:
    """A sentence for each firewall that drops what has to pass unless told otherwise, and how to tell it; of
    those that see packets of these IP versions.

    `prefix` is what the names of the interfaces begin with by which it comes.
    """
    found = []
    told: set[str] = set()
    families = {family for version in versions for family in _FAMILIES[version]}
    for chain in _drops(nftables, families, own_table, prefix, passage):
        if passage.hook == "forward":
            what = _letting_through(chain, prefix)
        else:
            what = _letting_ask(chain, prefix, passage)
        if what not in told:  # ufw is told of IPv4 and IPv6 at once
            told.add(what)
            where = f"{chain.family} {chain.table} {chain.name}"
            found.append(f"the firewall chain {where} of another program drops {passage.words}; {what}")
    for version in sorted(versions):
        found += _legacy(prefix, passage, version)
    return found


def once(sentences: Iterable[str]) -> tuple[str, ...]:
    """Those of the sentences of `dropping` that tell to do different things: one command of ufw is for IPv4
    and IPv6.
    """
    found: dict[str, str] = {}
    for sentence in sentences:
        found.setdefault(sentence.rpartition("; ")[2], sentence)
    return tuple(found.values())


def _drops(
    nftables: Nftables, families: Collection[str], own_table: str, prefix: str, passage: Passage
) -> Iterator[_Dropping]:
    for item in nftables.listing("list chains"):
        chain = item.get("chain", {})
        if (
            chain.get("hook") != passage.hook
            or chain["family"] not in families
            or chain["table"] == own_table
        ):
            continue
        # firewalld's chain accepts by default and ends with a rule that rejects.
        if chain.get("policy") != "drop" and chain["table"] != _FIREWALLD:
            continue
        rules = nftables.listing(f"list table {chain['family']} {chain['table']}")
        reached, said = reachable(rules, chain["name"])
        if prefix not in said and not passage.is_known_to(said):
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


def _letting_ask(chain: _Dropping, prefix: str, passage: Passage) -> str:
    """How to let them ask the host for it."""
    if chain.table == _FIREWALLD:
        return _trusted(prefix)
    if chain.has("before-input"):
        return f"let them ask: {passage.ufw.replace('NAME', f'{prefix}+')}"
    if chain.iptables:
        return _iptables_input(chain.iptables, prefix, passage)
    protocols = ", ".join(sorted(passage.ports))
    ports = ", ".join(map(str, sorted({port for ports in passage.ports.values() for port in ports})))
    return (
        f"let them ask: nft insert rule {chain.family} {chain.table} {chain.name} "
        f"""iifname '"{prefix}*"' meta l4proto '{{ {protocols} }}' th dport '{{ {ports} }}' accept"""
    )


def _trusted(prefix: str) -> str:
    return (
        "put our bridges into an open zone: "
        f"firewall-cmd --permanent --zone=trusted --add-interface={prefix}+, and firewall-cmd --reload"
    )


def _legacy(prefix: str, passage: Passage, version: int) -> Iterator[str]:
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
    chain = _BUILTIN[passage.hook]
    if f"-P {chain} DROP" not in answer.stdout or prefix in answer.stdout:
        return
    if passage.hook == "input":
        what = _iptables_input(program, prefix, passage)
    else:
        through = _OF_DOCKER if f"-N {_OF_DOCKER}" in answer.stdout else chain
        what = _iptables(program, through, prefix)
    yield f"the chain {chain} of {program} drops {passage.words}; {what}"


def _iptables_input(program: str, prefix: str, passage: Passage) -> str:
    rules = [
        f"{program} -I INPUT -i {prefix}+ -p {protocol} -m multiport "
        f"--dports {','.join(map(str, ports))} -j ACCEPT"
        for protocol, ports in passage.ports.items()
    ]
    return f"let them ask: {', and '.join(rules)}"


def _iptables(program: str, chain: str, prefix: str) -> str:
    return (
        f"let our bridges through: {program} -I {chain} -i {prefix}+ -j ACCEPT, "
        f"and {program} -I {chain} -o {prefix}+ -j ACCEPT"
    )
