# SPDX-License-Identifier: Apache-2.0
"""What a view is, the configuration of its server, and who is led there."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.network.naming.dnsmasq import Place, check_path, configuration
from mooring_agent.network.naming.realms import Home, Realm, Resident, View, view_of
from mooring_agent.network.naming.redirects import commands
from mooring_agent.network.naming.server import check_version

PLACE = Place(Path("/run/mooring/names/servers/x"), Path("/run/mooring/names/networks"), "dnsmasq")


def realm(number: int, *, internal: bool = False, mtu: int | None = None) -> Realm:
    subnet = ipaddress.IPv4Network(f"10.210.{number}.0/24")
    return Realm(f"net{number}", f"mr0000-{number}", (subnet[1],), (subnet,), internal, mtu)


REALMS = {f"mr0000-{number}": realm(number) for number in range(3)} | {"mr0000-9": realm(9, internal=True)}


def resident(*numbers: int, servers: tuple[str, ...] = (), outside: bool = True) -> Resident:
    homes = tuple(Home(f"mr0000-{n}", (f"10.210.{n}.5",), f"02:6d:0a:d2:0{n}:05", ("web",)) for n in numbers)
    return Resident("c" * 64, homes, outside, servers)


def lines(view: View, port: int = 53) -> list[str]:
    return configuration(view, PLACE, port).splitlines()


def test_containers_of_one_network_share_its_view() -> None:
    view = view_of(resident(1), REALMS)
    assert view is not None
    assert view.plain
    assert view.key == "mr0000-1"


def test_a_view_is_what_networks_it_has_in_whatever_order() -> None:
    one, other = view_of(resident(1, 2), REALMS), view_of(resident(2, 1), REALMS)
    assert one == other
    assert one is not None
    assert not one.plain
    assert one.key not in REALMS


def test_networks_without_names_are_in_no_view() -> None:
    assert view_of(resident(7), REALMS) is None
    assert view_of(resident(7, 1), REALMS) == view_of(resident(1), REALMS)


def test_resolvers_of_ones_own_make_a_view_of_ones_own() -> None:
    one, other = view_of(resident(1, servers=("192.0.2.1",)), REALMS), view_of(resident(1), REALMS)
    assert one is not None
    assert other is not None
    assert one.key != other.key


def test_an_internal_network_asks_nobody_whatever_resolvers_there_are() -> None:
    view = view_of(resident(9, servers=("192.0.2.1",), outside=False), REALMS)
    assert view == view_of(resident(9, outside=False), REALMS)
    assert view is not None
    told = lines(view)
    assert "local=/#/" in told
    assert "no-resolv" in told
    assert not any(line.startswith(("server=", "resolv-file=")) for line in told)
    assert "dhcp-option=option:router" in told


def test_who_is_on_an_internal_network_and_elsewhere_may_ask_outside() -> None:
    view = view_of(resident(9, outside=True), REALMS)
    assert view is not None
    assert not view.plain
    assert "resolv-file=/etc/resolv.conf" in lines(view)
    assert [one.key for one in view.served] == [view.key, "mr0000-9"]


def test_a_networks_own_server() -> None:
    view = view_of(resident(1), REALMS)
    assert view is not None
    assert lines(view)[1:] == [
        "user=dnsmasq",
        "pid-file=/run/mooring/names/servers/x/pid",
        "log-facility=/run/mooring/names/servers/x/log",
        "port=53",
        "bind-dynamic",
        "except-interface=lo",
        "interface=mr0000-1",
        "no-hosts",
        "hostsdir=/run/mooring/names/networks/mr0000-1/hosts",
        "servers-file=/run/mooring/names/servers/x/local",
        "cache-size=1000",
        "dns-forward-max=1000",
        "domain-needed",
        "local=/1.210.10.in-addr.arpa/",
        "resolv-file=/etc/resolv.conf",
        "dhcp-range=10.210.1.0,static,255.255.255.0,1h",
        "dhcp-hostsdir=/run/mooring/names/networks/mr0000-1/dhcp",
        "dhcp-leasefile=/run/mooring/names/servers/x/leases",
        "dhcp-lease-max=65536",
        "dhcp-authoritative",
        "dhcp-ignore-names",
        "no-ping",
        "quiet-dhcp",
        "dhcp-option=option:dns-server,10.210.1.1",
        "dhcp-option=option:router,10.210.1.1",
        "dhcp-option=tag:noroute,option:router",
    ]


def test_a_server_of_several_networks_gives_no_addresses() -> None:
    view = view_of(resident(1, 9, servers=("192.0.2.1", "2001:db8::1")), REALMS)
    assert view is not None
    told = lines(view, 61000)
    assert {"port=61000", "interface=mr0000-1", "interface=mr0000-9", "no-resolv"} <= set(told)
    assert [line for line in told if line.startswith("server=")] == ["server=192.0.2.1", "server=2001:db8::1"]
    assert not any(line.startswith("dhcp") for line in told)


def test_the_mtu_is_told() -> None:
    assert "dhcp-option=option:mtu,1400" in lines(View((realm(1, mtu=1400),), outside=True))


@pytest.mark.parametrize("path", ["/run/a b", "/run/a#b", "/run/a\nserver=1.2.3.4", '/run/"a"', "/run/ä"])
def test_a_run_root_that_cannot_be_named_is_refused(path: str) -> None:
    with pytest.raises(InvalidSpec, match="choose another --run-root"):
        check_path(Path(path))


def test_questions_are_led_by_interface_and_mac() -> None:
    text = commands("mooring_names", "mr0000-", {("mr0000-1", "02:6d:0a:d2:01:05"): 61000})
    assert text.startswith("add table inet mooring_names\ndelete table inet mooring_names\ntable inet ")
    assert 'elements = { "mr0000-1" . 02:6d:0a:d2:01:05 : 61000 }' in text
    assert "th dport { 61000 } ct status & dnat == 0 drop" in text


def test_a_bridge_with_a_name_of_its_own_is_guarded_too() -> None:
    entries = {("mr0000-1", "02:6d:0a:d2:01:05"): 61000, ("br-shop", "02:6d:0a:d2:01:06"): 61001}
    text = commands("mooring_names", "mr0000-", entries)
    for which in ("mr0000-*", "br-shop"):
        assert f'iifname "{which}" meta l4proto {{ tcp, udp }} th dport {{ 61000, 61001 }} ct status' in text


def test_there_is_no_table_that_nobody_needs() -> None:
    text = commands("mooring_names", "mr0000-", {})
    assert text == "add table inet mooring_names\ndelete table inet mooring_names"


@pytest.mark.parametrize(
    "said", ["", "dnsmasq: not found", "Dnsmasq version 2.86  Copyright", "Dnsmasq version UNKNOWN"]
)
def test_a_dnsmasq_that_forgets_nothing_is_too_old(said: str) -> None:
    with pytest.raises(
        MissingProgram, match=r"expected 2\.88 or later; install a newer package dnsmasq-base"
    ):
        check_version(said)


@pytest.mark.parametrize(
    "said", ["Dnsmasq version 2.90  Copyright (c)", "Dnsmasq version 2.91rc1 ", "Dnsmasq version 3.0 "]
)
def test_newer_ones_will_do(said: str) -> None:
    check_version(said)
