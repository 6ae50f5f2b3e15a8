# SPDX-License-Identifier: Apache-2.0
"""What may be said of a network, and what the refusals say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network.specs import KEYS, check_name, has_version, normalise_spec

NAMES = st.from_regex(r"\A[a-zA-Z0-9]([a-zA-Z0-9_. -]{0,62}[a-zA-Z0-9_.-])?\Z").filter(
    lambda name: name not in ("host", "none")
)


@given(NAMES)
def test_usable_names(name: str) -> None:
    assert check_name(name) == name


@given(st.text(max_size=80))
def test_a_name_that_is_let_through_can_do_no_harm(name: str) -> None:
    try:
        check_name(name)
    except InvalidSpec:
        return
    assert name.isascii()
    assert not set(name) & set("\t\n\"'`{};,/\\$")


@pytest.mark.parametrize(
    "name", ["", "-a", ".a", "a" * 65, "a\n", "a ", " a", "a\tb", "ä", "host", "none", 5, None]
)
def test_unusable_names(name: object) -> None:
    with pytest.raises(InvalidSpec, match=r"network name .* is not usable"):
        check_name(name)


def test_only_what_was_given_is_in_the_normal_form() -> None:
    assert normalise_spec({}) == {}
    assert normalise_spec({"nat": False, "subnet": None, "labels": {"b": "2", "a": "1"}}) == {
        "nat": False,
        "labels": {"a": "1", "b": "2"},
    }
    whole = {
        "driver": "bridge",
        "subnet": "10.1.2.0/24",
        "gateway": "10.1.2.254",
        "nat": True,
        "internal": False,
        "labels": {},
    }
    assert normalise_spec(whole) == whole
    assert normalise_spec(normalise_spec(whole)) == whole


def test_options_of_a_bridge_are_taken_as_they_are() -> None:
    whole = {
        "port_isolation": True,
        "attachable": True,
        "bridge_name": "br-shop",
        "interface_prefix": "net",
        "publish_address": "127.0.0.1",
    }
    assert normalise_spec(whole) == whole


def test_a_normal_form_of_everything_is_its_own() -> None:
    whole = {
        "driver": "macvlan",
        "subnet": "10.1.2.0/24",
        "gateway": "10.1.2.254",
        "ip_range": "10.1.2.128/25",
        "subnet6": "2001:db8::/64",
        "gateway6": "2001:db8::ff",
        "ip_range6": "2001:db8::1000/116",
        "reserved": ["10.1.2.130", "router=10.1.2.131", "2001:db8::1001"],
        "mtu": 1400,
        "parent": "eth0.7",
        "mode": "vepa",
    }
    shuffled = {**whole, "reserved": ["2001:0db8::1001", "10.1.2.130", "router=10.1.2.131", "2001:db8::1001"]}
    assert normalise_spec(shuffled) == whole
    assert normalise_spec(whole) == whole


@pytest.mark.parametrize(
    ("spec", "versions"),
    [
        ({}, (True, False)),
        ({"ipv6": True}, (True, True)),
        ({"subnet6": "fd00::/64"}, (True, True)),
        ({"subnet6": "fd00::/64", "ipv4": False}, (False, True)),
        ({"ipv4": False, "ipv6": True}, (False, True)),
    ],
)
def test_versions(spec: dict[str, Any], versions: tuple[bool, bool]) -> None:
    normal = normalise_spec(spec)
    assert (has_version(normal, 4), has_version(normal, 6)) == versions


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.lists(st.text(max_size=20), max_size=2),
    st.sampled_from(["10.1.0.0/16", "10.1.0.1", "fd00::/64", "fd00::1", "bridge", "macvlan", "eth0"]),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=6))
def test_whatever_is_given_is_refused_in_a_sentence_or_has_a_normal_form(spec: dict[str, Any]) -> None:
    try:
        normal = normalise_spec(spec)
    except InvalidSpec:
        return
    assert normalise_spec(normal) == normal


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"subnets": "10.1.2.0/24"}, "did you mean 'subnet'?"),
        ({"colour": 1}, "expected one of driver, ipv4, ipv6, subnet"),
        ({"driver": "vlan"}, "driver 'vlan' is unknown: expected bridge or macvlan or overlay"),
        ({"subnet": "10.1.2.0"}, "expected a network such as 10.210.7.0/24"),
        ({"subnet": 10}, "expected a network such as"),
        ({"subnet": "10.1.2.0/33"}, "expected a network such as"),
        ({"subnet": "10.1.2.3/24"}, "bits set beyond its prefix; expected 10.1.2.0/24"),
        ({"subnet": "fd00::/64"}, "expected an IPv4 network"),
        ({"subnet": "10.1.2.0/31"}, "expected a prefix from /8 to /30"),
        ({"subnet": "8.0.0.0/5"}, "expected a prefix from /8 to /30"),
        ({"subnet": "127.1.0.0/16"}, "expected unicast ones"),
        ({"subnet": "224.1.0.0/16"}, "expected unicast ones"),
        ({"subnet": "0.1.0.0/16"}, "expected unicast ones"),
        ({"gateway": "10.1.2.1"}, "without a subnet"),
        (
            {"subnet": "10.1.2.0/24", "gateway": "10.1.3.1"},
            "expected an address of 10.1.2.0/24 from 10.1.2.1",
        ),
        ({"subnet": "10.1.2.0/24", "gateway": "10.1.2.0"}, "to 10.1.2.254"),
        ({"subnet": "10.1.2.0/24", "gateway": "10.1.2.255"}, "to 10.1.2.254"),
        ({"subnet": "10.1.2.0/24", "gateway": "first"}, "expected an IPv4 address of 10.1.2.0/24"),
        ({"nat": "yes"}, "nat is 'yes': expected true or false"),
        ({"internal": 1}, "internal is 1: expected true or false"),
        ({"labels": ["a"]}, "expected a mapping of texts to texts"),
        ({"labels": {"a": 1}}, "expected a mapping of texts to texts"),
        (
            {"subnet6": "10.1.2.0/24"},
            "expected an IPv6 network such as fd12:3456:789a::/64; give",
        ),
        ({"subnet6": "fd00::/127"}, "expected a prefix from /16 to /126"),
        ({"subnet6": "fd00::1/64"}, "bits set beyond its prefix; expected fd00::/64"),
        ({"subnet6": "fe80::/64"}, "expected unicast ones"),
        ({"subnet6": "ff05::/64"}, "expected unicast ones"),
        ({"subnet6": "::/64"}, "expected unicast ones"),
        ({"gateway6": "fd00::1"}, "without a subnet: name the subnet6"),
        ({"subnet6": "fd00::/64", "gateway6": "fd00::"}, "from fd00::1"),
        ({"subnet6": "fd00::/64", "gateway6": "fd00::1%eth0"}, "expected an IPv6 address of fd00::/64"),
        ({"subnet": "10.1.2.0/24", "ip_range": "10.1.3.0/25"}, "expected a network within 10.1.2.0/24"),
        ({"subnet": "10.1.2.0/24", "ip_range": "10.1.0.0/16"}, "expected a network within 10.1.2.0/24"),
        (
            {"subnet6": "2001:db8::/64", "ip_range6": "2001:db8::%x/80"},
            "expected a network within 2001:db8::/64",
        ),
        ({"ip_range": "10.1.0.0/16"}, "without a subnet"),
        ({"subnet": "10.1.2.0/24", "reserved": ["=10.1.2.3"]}, "has no name"),
        ({"subnet": "10.1.2.0/24", "reserved": ["a=10.1.2.3", "b=10.1.2.3"]}, "has two names"),
        ({"reserved": "10.1.2.3"}, "expected a list of addresses"),
        ({"reserved": ["10.1.2.3"]}, "without a subnet"),
        ({"subnet": "10.1.2.0/24", "reserved": ["10.1.3.3"]}, "reserved address 10.1.3.3 is not usable"),
        ({"subnet": "10.1.2.0/24", "reserved": ["fd00::3"]}, "name the subnet6"),
        ({"ipv4": False}, "needs addresses of one"),
        ({"ipv4": False, "ipv6": True, "subnet": "10.1.2.0/24"}, "ipv4 is false beside subnet"),
        ({"ipv6": False, "subnet6": "fd00::/64"}, "ipv6 is false beside subnet6"),
        ({"mtu": 67}, "from 68 to 65535"),
        ({"mtu": True}, "from 68 to 65535"),
        ({"mtu": 1000, "ipv6": True}, "at least 1280"),
        ({"bridge_name": "a" * 16}, "expected the name of an interface"),
        ({"bridge_name": "a/b"}, "expected the name of an interface"),
        ({"interface_prefix": "thirteenchars"}, "of at most 12 characters"),
        ({"publish_address": "::1"}, "expected an IPv4 address of the host"),
        ({"port_isolation": "yes"}, "expected true or false"),
        (
            {"driver": "macvlan", "parent": "eth0", "subnet": "10.1.2.0/24", "bridge_name": "br"},
            "it belongs to bridge",
        ),
        ({"parent": "eth0"}, "it belongs to macvlan"),
        ({"mode": "bridge"}, "it belongs to macvlan"),
        ({"driver": "macvlan", "subnet": "10.1.2.0/24"}, "needs the option parent"),
        ({"driver": "macvlan", "parent": "eth0"}, "needs the option subnet"),
        ({"driver": "macvlan", "parent": "eth 0"}, "expected the name of an interface"),
        ({"driver": "macvlan", "parent": 'e"; drop'}, "expected the name of an interface"),
        ({"driver": "macvlan", "parent": "eth0", "mode": "l2"}, "expected bridge or private or vepa"),
        (
            {"driver": "macvlan", "parent": "eth0", "subnet": "10.1.2.0/24", "nat": True},
            "nat is true with driver macvlan",
        ),
    ],
)
def test_refusals_say_what_was_expected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        normalise_spec(spec)
    assert message in refusal.value.message
    assert "\n" not in refusal.value.message
