# SPDX-License-Identifier: Apache-2.0
"""Rules of networks: what is read is what is meant, and nft never sees what nobody meant."""

from __future__ import annotations

import ipaddress
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network import isolation
from mooring_agent.network.rules import PROTOCOLS, WITH_PORTS, Rule, parse_networks, parse_rules

NAMES = st.from_regex(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,8}", fullmatch=True)
SUBNETS = st.one_of(
    st.builds(
        lambda n, p: ipaddress.ip_network((n, p), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)
    ),
    st.builds(
        lambda n, p: ipaddress.ip_network((ipaddress.IPv6Address(n), p), strict=False),
        st.integers(0, 2**128 - 1),
        st.integers(0, 128),
    ),
).map(str)
PEERS = st.one_of(
    st.just(""),
    SUBNETS,
    NAMES.map(lambda name: f"container:{name}"),
    NAMES.map(lambda name: f"network:{name}"),
)


@st.composite
def rules(draw: st.DrawFn) -> dict[str, Any]:
    protocol = draw(st.sampled_from(PROTOCOLS))
    ranges = st.tuples(st.integers(1, 65535), st.integers(0, 9)).map(
        lambda pair: f"{pair[0]}-{min(sum(pair), 65535)}"
    )
    return {
        "action": draw(st.sampled_from(["allow", "deny"])),
        "direction": draw(st.sampled_from(["in", "out"])),
        "protocol": protocol,
        "ports": draw(st.lists(st.integers(1, 65535) | ranges, max_size=4)) if protocol in WITH_PORTS else [],
        "peer": draw(PEERS),
        "containers": draw(st.lists(NAMES, max_size=2)),
    }


@given(st.lists(rules(), max_size=3))
def test_rules_have_one_normal_form_and_one_in_words(given_rules: list[dict[str, Any]]) -> None:
    parsed = parse_rules(given_rules, "rules")
    assert parse_rules([rule.dump() for rule in parsed], "rules") == parsed
    assert parse_rules([str(rule) for rule in parsed], "rules") == parsed


@given(st.lists(rules(), max_size=3))
def test_ports_are_those_that_were_named(given_rules: list[dict[str, Any]]) -> None:
    for said, rule in zip(given_rules, parse_rules(given_rules, "rules"), strict=True):
        wanted = set()
        for port in said["ports"]:
            first, _, last = str(port).partition("-")
            wanted.update(range(int(first), int(last or first) + 1))
        assert {port for first, last in rule.ports for port in range(first, last + 1)} == wanted
        assert all(
            last + 1 < first for (_, last), (first, _) in zip(rule.ports, rule.ports[1:], strict=False)
        )


@given(st.lists(rules(), min_size=1, max_size=3))
def test_a_table_is_left_alone_while_names_mean_the_same(given_rules: list[dict[str, Any]]) -> None:
    network = SimpleNamespace(number=0, bridge="mr0", rules=parse_rules(given_rules, "rules"))
    first = isolation.build([network], lambda _: ["10.0.0.1", "fd00::1"], lambda _: ["10.0.0.0/8"], {})
    again = isolation.build([network], lambda _: ["10.0.0.1", "fd00::1"], lambda _: ["10.0.0.0/8"], {})
    other = isolation.build([network], lambda _: [], lambda _: [], {})
    assert isolation.change("rules", first, again) == ""
    assert first.text == other.text
    assert all(
        line.startswith("delete element") for line in isolation.change("rules", first, other).splitlines()
    )


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("deny in", Rule("deny", "in")),
        (
            "deny out tcp 25 to 0.0.0.0/0 for mail+web",
            Rule("deny", "out", "tcp", ((25, 25),), "0.0.0.0/0", ("mail", "web")),
        ),
        (
            "allow in udp 53 5000-5010 from network:front",
            Rule("allow", "in", "udp", ((53, 53), (5000, 5010)), "network:front"),
        ),
        ("deny out to host", Rule("deny", "out", peer="host")),
    ],
)
def test_rules_in_words(words: str, rule: Rule) -> None:
    assert parse_rules([words], "rules") == (rule,)


@pytest.mark.parametrize("words", ["", "deny", "deny in tcp 25 towards x", "deny sideways", "deny in 80"])
def test_words_that_mean_nothing_are_refused(words: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^rules\[0\]"):
        parse_rules([words], "rules")


@pytest.mark.parametrize("peer", ["fe80::1%eth0", "fe80::%x/64", 'fe80::1%x"\nflush ruleset\n#'])
def test_zone_of_an_address_gets_into_no_rule(peer: str) -> None:
    with pytest.raises(InvalidSpec, match=r"^rules\[0\].peer is .*, expected an address or a subnet"):
        parse_rules([{"action": "deny", "direction": "in", "peer": peer}], "rules")


def test_names_of_networks() -> None:
    assert parse_networks(["b", "a", "b"], "x") == ("a", "b")
    with pytest.raises(InvalidSpec, match="expected the name of a network"):
        parse_networks(['a" . "b'], "x")
