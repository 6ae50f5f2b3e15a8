# SPDX-License-Identifier: Apache-2.0
"""The table as text, and how a listing is compared with it."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from mooring_agent.network import ruleset
from mooring_agent.network.records import Network, Publication, Subnet

RED = Network(
    name="red",
    number=0,
    driver="bridge",
    ipv4=Subnet(ipaddress.IPv4Network("10.210.0.0/24"), ipaddress.IPv4Address("10.210.0.1")),
    ipv6=None,
    nat=True,
    internal=False,
    labels={},
    bridge="mr0a0a-0",
    created_at=0.0,
)
WEB = Publication("tcp", "0.0.0.0", 8080, "web", "10.210.0.2", 80)
DNS = Publication("udp", "127.0.0.1", 53, "dns", "10.210.0.3", 5353)


def listing() -> list[dict[str, Any]]:
    """What nft 1.0.6 lists of a table with RED, WEB and DNS."""
    subnet = {"prefix": {"addr": "10.210.0.0", "len": 24}}
    elements = {
        "bridges": ["mr0a0a-0"],
        "guarded": ["mr0a0a-0"],
        "within": [{"concat": ["mr0a0a-0", "mr0a0a-0"]}],
        "translated": [subnet],
        "neighbours": [{"concat": [subnet, subnet]}],
        "internal": [],
    }
    maps = {
        "published_anywhere": [[{"concat": ["tcp", 8080]}, {"concat": ["10.210.0.2", 80]}]],
        "published": [[{"concat": [17, "127.0.0.1", 53]}, {"concat": ["10.210.0.3", 5353]}]],
    }
    hooks = {
        "guard": ("filter", "prerouting"),
        "prerouting": ("nat", "prerouting"),
        "output": ("nat", "output"),
        "postrouting": ("nat", "postrouting"),
        "forward": ("filter", "forward"),
    }
    items: list[dict[str, Any]] = [{"table": {"name": "mooring"}}]
    items += ({"set": {"name": name, "elem": entries}} for name, entries in elements.items())
    items += ({"map": {"name": name, "elem": entries}} for name, entries in maps.items())
    items += ({"chain": {"name": name}} for name in (ruleset.MARKER, "publish"))
    items += (
        {"chain": {"name": name, "type": kind, "hook": hook, "policy": "accept"}}
        for name, (kind, hook) in hooks.items()
    )
    chain = ""
    for line in ruleset.skeleton().splitlines():
        if line.startswith("chain "):
            chain = line.split()[1]
        elif chain and "comment" in line:
            items.append({"rule": {"chain": chain, "comment": line.split('"')[-2]}})
    return items


def test_listing_of_what_was_asked_for_has_no_differences() -> None:
    assert ruleset.differences(listing(), [RED], [WEB, DNS]) == []


@pytest.mark.parametrize(
    ("networks", "publications", "phrases"),
    [
        ([RED], [WEB], ["published has udp . 127.0.0.1 . 53 : 10.210.0.3 . 5353 too many"]),
        (
            [RED],
            [WEB, DNS, Publication("tcp", "0.0.0.0", 81, "web", "10.210.0.2", 81)],
            ["published_anywhere lacks tcp . 81 : 10.210.0.2 . 81"],
        ),
    ],
)
def test_elements_that_differ_are_named(
    networks: list[Network], publications: list[Publication], phrases: list[str]
) -> None:
    assert ruleset.differences(listing(), networks, publications) == phrases


def test_table_of_another_version_is_not_looked_at_further() -> None:
    items = [item for item in listing() if item.get("chain", {}).get("name") != ruleset.MARKER]
    assert ruleset.differences(items, [RED], [WEB, DNS]) == [
        "its rules are not those of this version of the agent"
    ]


def test_changed_rules_and_chains_are_seen() -> None:
    without = listing()[:-1]
    assert ruleset.differences(without, [RED], [WEB, DNS]) == ["its rules were changed"]
    swapped = listing()
    swapped[-1], swapped[-2] = swapped[-2], swapped[-1]
    assert ruleset.differences(swapped, [RED], [WEB, DNS]) == ["its rules were changed"]
    dropping = listing()
    next(item for item in dropping if item.get("chain", {}).get("name") == "forward")["chain"]["policy"] = (
        "drop"
    )
    assert ruleset.differences(dropping, [RED], [WEB, DNS]) == ["chain forward was changed"]


def test_whole_table_is_replaced_in_one_transaction() -> None:
    text = ruleset.full("mooring", [RED], [WEB, DNS])
    lines = text.splitlines()
    assert lines[:3] == ["add table inet mooring", "delete table inet mooring", "table inet mooring {"]
    assert "add element inet mooring published_anywhere { tcp . 8080 : 10.210.0.2 . 80 }" in lines
    assert "add element inet mooring published { udp . 127.0.0.1 . 53 : 10.210.0.3 . 5353 }" in lines
    assert text.count("{") == text.count("}")


def test_internal_network_is_not_translated() -> None:
    inner = dict.fromkeys(
        where for where, _ in ruleset.network_elements(dataclasses.replace(RED, internal=True))
    )
    assert set(inner) == {"bridges", "within", "neighbours", "internal"}
