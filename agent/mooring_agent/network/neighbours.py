# SPDX-License-Identifier: Apache-2.0
"""Which firewalls beside ours drop what our networks forward, or what containers ask of this host.

A verdict "accept" in our table does not overrule a drop in somebody else's: whoever drops by default has to
let our bridges through. We never write into tables of others, but say what would have to be done.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..linux.nftables import Nftables

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_LEGACY_RULES = ("iptables-legacy", "--wait", "1", "--list-rules")
_PROGRAM_TIMEOUT_S = 5
_FAMILIES = ("ip", "inet")


@dataclass(frozen=True, slots=True)
class Passage:
    """What has to get through at a hook of netfilter: `words` for it, its ports by protocol, and how ufw is
    told. A firewall that knows of it has a rule about the first port. Without ports it is all.
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
    "ufw allow in on NAME to any port 53, and from any port 68 to any port 67",
)


def between_hosts(port: int) -> Passage:
    """What other hosts of an overlay ask this one at a TCP port."""
    words = "what other hosts ask this one for, the names of its containers"
    return Passage("input", words, {"tcp": (port,)}, f"ufw allow in on NAME to any port {port} proto tcp")


def dropping(nftables: Nftables, own_table: str, prefix: str, passage: Passage = FORWARDING) -> list[str]:
    """A sentence for each firewall that drops what has to pass unless told otherwise, and how to tell it.

    `prefix` is what the names of the interfaces begin with by which it comes.
    """
    chains = [item["chain"] for item in nftables.listing("list chains") if "chain" in item]
    return [
        *(
            _sentence(chain, chains, prefix, passage)
            for chain in _drops(nftables, chains, own_table, prefix, passage)
        ),
        *_legacy(prefix, passage),
    ]


def _drops(
    nftables: Nftables, chains: list[dict[str, Any]], own_table: str, prefix: str, passage: Passage
) -> Iterator[dict[str, Any]]:
    for chain in chains:
        if (
            chain.get("hook") != passage.hook
            or chain["family"] not in _FAMILIES
            or chain["table"] == own_table
        ):
            continue
        # firewalld's chain accepts by default and ends with a rule that rejects.
        if chain.get("policy") != "drop" and chain["table"] != "firewalld":
            continue
        rules = nftables.listing(f"list table {chain['family']} {chain['table']}")
        told = json.dumps(rules)
        if prefix not in told and not passage.is_known_to(told):
            yield chain


def _sentence(chain: dict[str, Any], chains: list[dict[str, Any]], prefix: str, passage: Passage) -> str:
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    names = {other["name"] for other in chains if other["table"] == chain["table"]}
    if chain["table"] == "firewalld":
        what = "put our bridges into an open zone: firewall-cmd --zone trusted --add-interface NAME"
    elif passage.hook == "input":
        what = _letting_ask(chain, where, names, prefix, passage)
    elif "DOCKER-USER" in names:
        what = _iptables("iptables", "DOCKER-USER", prefix)
    elif "ufw-before-forward" in names:
        what = "let them through: ufw route allow in on NAME, ufw route allow out on NAME"
    elif (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "FORWARD"):
        what = _iptables("iptables", "FORWARD", prefix)
    else:
        what = f'let them through: nft insert rule {where} iifname "{prefix}*" accept, and oifname'
    return f"the firewall chain {where} of another program drops {passage.words}; {what}"


def _letting_ask(chain: dict[str, Any], where: str, names: set[str], prefix: str, passage: Passage) -> str:
    """How to let them ask the host for it."""
    if "ufw-before-input" in names:
        return f"let them ask: {passage.ufw}"
    if (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "INPUT"):
        return _iptables_input("iptables", prefix, passage)
    protocols = ", ".join(sorted(passage.ports))
    ports = ", ".join(map(str, sorted({port for ports in passage.ports.values() for port in ports})))
    return (
        f'let them ask: nft insert rule {where} iifname "{prefix}*" meta l4proto {{ {protocols} }} '
        f"th dport {{ {ports} }} accept"
    )


def _legacy(prefix: str, passage: Passage) -> Iterator[str]:
    """The same of the iptables that came before nftables; asked only if its table is in use."""
    try:
        used = "filter" in LEGACY_TABLES.read_text().split()
    except FileNotFoundError:
        return
    if not used:
        return
    try:
        answer = subprocess.run(
            _LEGACY_RULES, capture_output=True, text=True, timeout=_PROGRAM_TIMEOUT_S, check=False
        )
    except (FileNotFoundError, subprocess.TimeoutExpired):
        yield "this host uses the iptables of before nftables, but iptables-legacy does not answer"
        return
    if passage.hook == "input":
        if "-P INPUT DROP" in answer.stdout and prefix not in answer.stdout:
            what = _iptables_input("iptables-legacy", prefix, passage)
            yield f"the iptables chain INPUT drops {passage.words}; {what}"
        return
    if "-P FORWARD DROP" in answer.stdout and prefix not in answer.stdout:
        chain = "DOCKER-USER" if "-N DOCKER-USER" in answer.stdout else "FORWARD"
        what = _iptables("iptables-legacy", chain, prefix)
        yield f"the iptables chain FORWARD drops {passage.words}; {what}"


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
