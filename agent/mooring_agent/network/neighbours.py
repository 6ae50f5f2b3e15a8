# SPDX-License-Identifier: Apache-2.0
"""Which firewalls beside ours drop what our networks forward, or what containers ask of this host.

A verdict "accept" in our table does not overrule a drop in somebody else's: whoever drops by default has to
let our bridges through. We never write into tables of others, but say what would have to be done.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..linux.nftables import Nftables

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_LEGACY_RULES = ("iptables-legacy", "--wait", "1", "--list-rules")
_PROGRAM_TIMEOUT_S = 5
# A rule about port 53, from whomever.
_ASKING = re.compile(r'"dport"}}, "right": (?:53\b|{"set": \[[^]]*\b53\b)')
_FAMILIES = ("ip", "inet")
_WHAT = {
    "forward": "what networks forward",
    "input": "what containers ask this host for, names and addresses",
}


def dropping(nftables: Nftables, own_table: str, bridge_prefix: str, hook: str = "forward") -> list[str]:
    """A sentence for each firewall that drops what is forwarded unless told otherwise, and how to tell it.

    With the hook "input" it is what comes to the host itself, of which containers need names and addresses.
    """
    chains = [item["chain"] for item in nftables.listing("list chains") if "chain" in item]
    return [
        *(
            _sentence(chain, chains, bridge_prefix, hook)
            for chain in _drops(nftables, chains, own_table, bridge_prefix, hook)
        ),
        *_legacy(bridge_prefix, hook),
    ]


def _drops(
    nftables: Nftables, chains: list[dict[str, Any]], own_table: str, bridge_prefix: str, hook: str
) -> Iterator[dict[str, Any]]:
    for chain in chains:
        if chain.get("hook") != hook or chain["family"] not in _FAMILIES or chain["table"] == own_table:
            continue
        # firewalld's chain accepts by default and ends with a rule that rejects.
        if chain.get("policy") != "drop" and chain["table"] != "firewalld":
            continue
        rules = nftables.listing(f"list table {chain['family']} {chain['table']}")
        told = json.dumps(rules)
        if bridge_prefix not in told and not (hook == "input" and _ASKING.search(told)):
            yield chain


def _sentence(chain: dict[str, Any], chains: list[dict[str, Any]], bridge_prefix: str, hook: str) -> str:
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    names = {other["name"] for other in chains if other["table"] == chain["table"]}
    if chain["table"] == "firewalld":
        what = "put our bridges into an open zone: firewall-cmd --zone trusted --add-interface NAME"
    elif hook == "input":
        what = _letting_ask(chain, where, names, bridge_prefix)
    elif "DOCKER-USER" in names:
        what = _iptables("iptables", "DOCKER-USER", bridge_prefix)
    elif "ufw-before-forward" in names:
        what = "let them through: ufw route allow in on NAME, ufw route allow out on NAME"
    elif (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "FORWARD"):
        what = _iptables("iptables", "FORWARD", bridge_prefix)
    else:
        what = f'let them through: nft insert rule {where} iifname "{bridge_prefix}*" accept, and oifname'
    return f"the firewall chain {where} of another program drops {_WHAT[hook]}; {what}"


def _letting_ask(chain: dict[str, Any], where: str, names: set[str], bridge_prefix: str) -> str:
    """How to let containers ask the host for names and addresses."""
    if "ufw-before-input" in names:
        return "let them ask: ufw allow in on NAME to any port 53, and from any port 68 to any port 67"
    if (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "INPUT"):
        return _iptables_input("iptables", bridge_prefix)
    return (
        f'let them ask: nft insert rule {where} iifname "{bridge_prefix}*" meta l4proto {{ tcp, udp }} '
        "th dport { 53, 67 } accept"
    )


def _legacy(bridge_prefix: str, hook: str) -> Iterator[str]:
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
    if hook == "input":
        if "-P INPUT DROP" in answer.stdout and bridge_prefix not in answer.stdout:
            what = _iptables_input("iptables-legacy", bridge_prefix)
            yield f"the iptables chain INPUT drops {_WHAT[hook]}; {what}"
        return
    if "-P FORWARD DROP" in answer.stdout and bridge_prefix not in answer.stdout:
        chain = "DOCKER-USER" if "-N DOCKER-USER" in answer.stdout else "FORWARD"
        what = _iptables("iptables-legacy", chain, bridge_prefix)
        yield f"the iptables chain FORWARD drops what networks forward; {what}"


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
