# SPDX-License-Identifier: Apache-2.0
"""What name servers read, and that nothing else can be said with a name."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network.naming import zone
from mooring_agent.network.naming.realms import Home

INJECTIONS = (
    "", " ", "web db", "web\tdb", "web\n10.0.0.1 bank", "web\r\nbank", "web\0", "web#", "#web", "web/", "/#/",
    "web,bank", "web\\032bank", "web\x0bbank", "web\u2028bank", "web\u00a0bank", "-web", "web-", "a..b",
    ".web", "web.", "*", "*.web", "web;bank", "web'", 'web"', "web`", "$(web)", "set:web", "tag:web", "=web",
    "münchen", "ＷＥＢ", "w" * 64, ".".join(["w" * 60] * 5), "localhost", "a.localhost", "LOCALHOST",
    "web\nserver=/#/6.6.6.6", "10.0.0.1\tweb",
)  # fmt: skip
LABEL = st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,30}[a-zA-Z0-9_])?", fullmatch=True)
NAME = (
    st.lists(LABEL, min_size=1, max_size=4)
    .map(".".join)
    .filter(lambda name: name.lower()[-9:] != "localhost")
)
ANY_NAME = st.text() | NAME | st.sampled_from(INJECTIONS)


def home(*names: str, addresses: tuple[str, ...] = ("10.210.1.5",), mac: str = "02:6d:0a:d2:01:05") -> Home:
    return Home("mr0000-0", addresses, mac, names)


def test_an_address_has_a_line_with_all_its_names() -> None:
    told = zone.hosts_text(home("Web", "db.example.com", "web", addresses=("10.210.1.5", "FD00::5")))
    assert told == "10.210.1.5\tweb db.example.com\nfd00::5\tweb db.example.com\n"
    assert zone.hosts_text(home()) == ""


@pytest.mark.parametrize("name", INJECTIONS)
def test_what_is_no_name_is_refused_by_each_writer(name: str) -> None:
    assert not zone.can_be_told(name)
    with pytest.raises(InvalidSpec, match="cannot be given to a container"):
        zone.hosts_text(home("web", name))
    with pytest.raises(InvalidSpec, match="cannot be given to a container"):
        zone.local_names([name])


@given(st.lists(ANY_NAME, max_size=5))
def test_names_say_names_and_nothing_else(names: list[str]) -> None:
    try:
        told = zone.hosts_text(home(*names))
    except InvalidSpec:
        assert not all(map(zone.can_be_told, names))
        return
    assert re.fullmatch(r"(10\.210\.1\.5\t[a-z0-9_.-]+( [a-z0-9_.-]+)*\n)?", told)
    assert set(told.split()[1:]) == {name.lower() for name in names}


@given(st.lists(ANY_NAME, max_size=5))
def test_local_names_are_servers_of_nobody(names: list[str]) -> None:
    try:
        told = zone.local_names(names)
    except InvalidSpec:
        assert not all(map(zone.can_be_told, names))
        return
    assert re.fullmatch(r"(server=/[a-z0-9_.-]+/\nserver=/\*\.[a-z0-9_.-]+/#\n)*", told)


@pytest.mark.parametrize("address", ["10.0.0.1\tbank", "10.0.0.256", "", "web", "10.0.0.1/24"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidSpec, match="address"):
        zone.hosts_text(home("web", addresses=(address,)))


@pytest.mark.parametrize("mac", ["02:6d:0a:d2:01:05,10.0.0.1", "*", "02:6d:0a:d2:01", "02:6D:0a:d2:01:05\n"])
def test_a_reservation_is_for_one_mac(mac: str) -> None:
    with pytest.raises(InvalidSpec, match="MAC"):
        zone.reservation(home("web", mac=mac), "10.210.1.5")


def test_only_the_first_network_has_a_default_route() -> None:
    web = home("web")
    assert zone.reservation(web, "10.210.1.5") == "02:6d:0a:d2:01:05,10.210.1.5\n"
    told = zone.reservation(dataclasses.replace(web, default_route=False), "10.210.1.5")
    assert told == "02:6d:0a:d2:01:05,set:noroute,10.210.1.5\n"


def test_names_with_dots_are_asked_of_nobody_else() -> None:
    assert list(zone.dotted(["web", "Db.Example.com"])) == ["db.example.com"]
    told = zone.local_names(["db.example.com"])
    assert told == "server=/db.example.com/\nserver=/*.db.example.com/#\n"


@pytest.mark.parametrize(
    ("subnet", "zones"),
    [
        ("10.0.0.0/8", ["10.in-addr.arpa"]),
        ("10.210.4.0/23", ["4.210.10.in-addr.arpa", "5.210.10.in-addr.arpa"]),
        ("10.210.4.4/31", ["4.4.210.10.in-addr.arpa", "5.4.210.10.in-addr.arpa"]),
        ("fd12:3456::/32", ["6.5.4.3.2.1.d.f.ip6.arpa"]),
    ],
)
def test_a_subnet_has_zones_of_its_own(subnet: str, zones: list[str]) -> None:
    assert zone.reverse_zones(ipaddress.ip_network(subnet)) == zones


@given(st.integers(0, 2**32 - 1), st.integers(8, 30), st.integers(0, 2**32 - 1))
def test_zones_hold_the_subnets_addresses_and_no_others(base: int, length: int, other: int) -> None:
    subnet = ipaddress.IPv4Network((base >> (32 - length) << (32 - length), length))
    address = ipaddress.IPv4Address(other)
    for one in (address, subnet.network_address, subnet.broadcast_address):
        covered = [each for each in zone.reverse_zones(subnet) if one.reverse_pointer.endswith(f".{each}")]
        covered += [each for each in zone.reverse_zones(subnet) if one.reverse_pointer == each]
        assert len(covered) == (one in subnet)
