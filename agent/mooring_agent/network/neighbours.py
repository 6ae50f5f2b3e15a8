# SPDX-License-Identifier: Apache-2.0
"""Which firewalls beside ours drop what our networks forward.

A verdict "accept" in our table does not overrule a drop in somebody else's: whoever drops by default has to
let our bridges through. We never write into tables of others, but say what would have to be done.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..linux.nftables import Nftables

LEGACY_TABLES = Path("/proc/net/ip_tables_names")
_LEGACY_RULES = ("iptables-legacy", "--wait", "1", "--list-rules")
_PROGRAM_TIMEOUT_S = 5
_FAMILIES = ("ip", "inet")


def dropping(nftables: Nftables, own_table: str, bridge_prefix: str) -> list[str]:
    """A sentence for each firewall that drops what is forwarded unless told otherwise, and how to tell it."""
    chains = [item["chain"] for item in nftables.listing("list chains") if "chain" in item]
    return [
        *(
            _sentence(chain, chains, bridge_prefix)
            for chain in _drops(nftables, chains, own_table, bridge_prefix)
        ),
        *_legacy(bridge_prefix),
    ]


def _drops(
    nftables: Nftables, chains: list[dict[str, Any]], own_table: str, bridge_prefix: str
) -> Iterator[dict[str, Any]]:
    for chain in chains:
        if chain.get("hook") != "forward" or chain["family"] not in _FAMILIES or chain["table"] == own_table:
            continue
        # firewalld's chain accepts by default and ends with a rule that rejects.
        if chain.get("policy") != "drop" and chain["table"] != "firewalld":
            continue
        rules = nftables.listing(f"list table {chain['family']} {chain['table']}")
        if bridge_prefix not in json.dumps(rules):
            yield chain


def _sentence(chain: dict[str, Any], chains: list[dict[str, Any]], bridge_prefix: str) -> str:
    where = f"{chain['family']} {chain['table']} {chain['name']}"
    names = {other["name"] for other in chains if other["table"] == chain["table"]}
    if chain["table"] == "firewalld":
        what = "put our bridges into an open zone: firewall-cmd --zone trusted --add-interface NAME"
    elif "DOCKER-USER" in names:
        what = _iptables("iptables", "DOCKER-USER", bridge_prefix)
    elif "ufw-before-forward" in names:
        what = "let them through: ufw route allow in on NAME, ufw route allow out on NAME"
    elif (chain["family"], chain["table"], chain["name"]) == ("ip", "filter", "FORWARD"):
        what = _iptables("iptables", "FORWARD", bridge_prefix)
    else:
        what = f'let them through: nft insert rule {where} iifname "{bridge_prefix}*" accept, and oifname'
    return f"the firewall chain {where} of another program drops what networks forward; {what}"


def _legacy(bridge_prefix: str) -> Iterator[str]:
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
    if "-P FORWARD DROP" in answer.stdout and bridge_prefix not in answer.stdout:
        chain = "DOCKER-USER" if "-N DOCKER-USER" in answer.stdout else "FORWARD"
        what = _iptables("iptables-legacy", chain, bridge_prefix)
        yield f"the iptables chain FORWARD drops what networks forward; {what}"


def _iptables(program: str, chain: str, bridge_prefix: str) -> str:
    return (
        f"let our bridges through: {program} -I {chain} -i {bridge_prefix}+ -j ACCEPT, "
        f"and {program} -I {chain} -o {bridge_prefix}+ -j ACCEPT"
    )
