# SPDX-License-Identifier: Apache-2.0
"""The table as text, and how a listing is compared with it."""

from __future__ import annotations

import dataclasses
import ipaddress
from typing import Any

import pytest

from mooring_agent.network import portrules, ruleset
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
WEB = Publication("tcp", "", 8080, "web", "10.210.0.2", 80, "fd00:a::2")
DNS = Publication("udp", "127.0.0.1", 53, "dns", "10.210.0.3", 5353)
ONE = Publication("tcp", "", 443, "one", "10.210.0.4", 443, balance="round_robin", weight=2, seat="one")
TWO = Publication("tcp", "", 443, "two", "10.210.0.5", 443, balance="round_robin", seat="two")
PUBLISHED = [WEB, DNS, ONE, TWO]


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
        "published_anywhere6": [[{"concat": ["tcp", 8080]}, {"concat": ["fd00:a::2", 80]}]],
        "balanced_anywhere": [[{"concat": ["tcp", 443]}, {"goto": {"target": "port_tcp_443_any"}}]],
        "balanced_anywhere6": [[{"concat": ["tcp", 443]}, {"goto": {"target": "port_tcp_443_any"}}]],
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
    items += ({"chain": {"name": name}} for name in (ruleset.MARKER, "publish", "publish6"))
    items += (
        {"chain": {"name": name, "type": kind, "hook": hook, "policy": "accept"}}
        for name, (kind, hook) in hooks.items()
    )
    shared = portrules.chain([ONE, TWO])
    assert shared is not None
    items.append({"chain": {"name": shared.name}})
    items += ({"rule": {"chain": shared.name, "comment": rule.split('"')[-2]}} for rule in shared.rules)
    chain = ""
    for line in ruleset.skeleton().splitlines():
        if line.startswith("chain "):
            chain = line.split()[1]
        elif chain and "comment" in line:
            items.append({"rule": {"chain": chain, "comment": line.split('"')[-2]}})
    return items


def test_listing_of_what_was_asked_for_has_no_differences() -> None:
    assert ruleset.differences(listing(), [RED], PUBLISHED) == []


@pytest.mark.parametrize(
    ("networks", "publications", "phrases"),
    [
        ([RED], [WEB, ONE, TWO], ["published has udp . 127.0.0.1 . 53 : 10.210.0.3 . 5353 too many"]),
        (
            [RED],
            [*PUBLISHED, Publication("tcp", "0.0.0.0", 81, "web", "10.210.0.2", 81)],
            ["published_anywhere lacks tcp . 81 : 10.210.0.2 . 81"],
        ),
        ([RED], [WEB, DNS, ONE], ["its rules were changed"]),
    ],
)
def test_elements_that_differ_are_named(
    networks: list[Network], publications: list[Publication], phrases: list[str]
) -> None:
    assert ruleset.differences(listing(), networks, publications) == phrases


def test_table_of_another_version_is_not_looked_at_further() -> None:
    items = [item for item in listing() if item.get("chain", {}).get("name") != ruleset.MARKER]
    assert ruleset.differences(items, [RED], PUBLISHED) == [
        "its rules are not those of this version of the agent"
    ]


def test_changed_rules_and_chains_are_seen() -> None:
    without = listing()[:-1]
    assert ruleset.differences(without, [RED], PUBLISHED) == ["its rules were changed"]
    swapped = listing()
    swapped[-1], swapped[-2] = swapped[-2], swapped[-1]
    assert ruleset.differences(swapped, [RED], PUBLISHED) == ["its rules were changed"]
    dropping = listing()
    next(item for item in dropping if item.get("chain", {}).get("name") == "forward")["chain"]["policy"] = (
        "drop"
    )
    assert ruleset.differences(dropping, [RED], PUBLISHED) == ["chain forward was changed"]


def test_whole_table_is_replaced_in_one_transaction() -> None:
    text = ruleset.full("mooring", [RED], PUBLISHED)
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


def test_what_a_port_was_is_turned_into_what_it_is_to_be() -> None:
    moved = dataclasses.replace(WEB, container_ip="10.210.0.9")
    assert portrules.change("mooring", [WEB], [moved]) == [
        "delete element inet mooring published_anywhere { tcp . 8080 }",
        "add element inet mooring published_anywhere { tcp . 8080 : 10.210.0.9 . 80 }",
    ]
    assert portrules.change("mooring", [WEB], [WEB]) == []


def test_a_shared_port_has_rules_that_are_replaced_as_a_whole() -> None:
    drawn, other = _comments(portrules.chain([ONE, TWO]))
    rule = "add rule inet mooring port_tcp_443_any meta nfproto ipv4 meta l4proto tcp dnat ip to"
    slots = "{ 0 : 10.210.0.4 . 443, 1 : 10.210.0.5 . 443, 2 : 10.210.0.4 . 443 }"
    assert portrules.change("mooring", [ONE], [ONE, TWO]) == [
        "flush chain inet mooring port_tcp_443_any",
        f'{rule} numgen inc mod 3 map {slots} comment "{drawn}"',
        f'{rule} 10.210.0.4:443 comment "{other}"',
    ]


def test_a_shared_port_of_one_container_needs_no_map() -> None:
    six = dataclasses.replace(ONE, container_ipv6="fd00::4")
    chain = portrules.chain([six])
    assert chain is not None
    assert [rule.split(" comment ")[0] for rule in chain.rules] == [
        "meta nfproto ipv4 meta l4proto tcp dnat ip to 10.210.0.4:443",
        "meta nfproto ipv6 meta l4proto tcp dnat ip6 to [fd00::4]:443",
    ]


def test_the_last_container_of_a_shared_port_takes_the_chain_along() -> None:
    assert portrules.change("mooring", [ONE], []) == [
        "delete element inet mooring balanced_anywhere { tcp . 443 }",
        "delete element inet mooring balanced_anywhere6 { tcp . 443 }",
        "flush chain inet mooring port_tcp_443_any",
        "delete chain inet mooring port_tcp_443_any",
    ]


def test_a_shared_port_whose_containers_have_no_share_leads_nowhere() -> None:
    resting = [dataclasses.replace(one, weight=0) for one in (ONE, TWO)]
    assert portrules.change("mooring", [ONE, TWO], resting) == ["flush chain inet mooring port_tcp_443_any"]


def _comments(chain: portrules.Chain | None) -> list[str]:
    assert chain is not None
    return [rule.split('"')[-2] for rule in chain.rules]
