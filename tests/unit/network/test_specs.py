# SPDX-License-Identifier: Apache-2.0
"""What may be said of a network, and what the refusals say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network.specs import check_name, normalise_spec

NAMES = st.from_regex(r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{0,63}\Z").filter(
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
    assert not set(name) & set(" \t\n\"'`{};,/\\$")


@pytest.mark.parametrize("name", ["", "-a", ".a", "a" * 65, "a\n", "a b", "ä", "host", "none", 5, None])
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


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"subnets": "10.1.2.0/24"}, "did you mean 'subnet'?"),
        ({"colour": 1}, "expected one of driver, subnet, gateway"),
        ({"driver": "macvlan"}, "driver 'macvlan' is unknown: expected bridge"),
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
    ],
)
def test_refusals_say_what_was_expected(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        normalise_spec(spec)
    assert message in refusal.value.message
    assert "\n" not in refusal.value.message
