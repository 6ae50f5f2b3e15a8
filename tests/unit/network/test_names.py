# SPDX-License-Identifier: Apache-2.0
"""What containers read about names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mooring_agent.network.names import (
    HostResolvers,
    asking,
    container_resolvers,
    host_addresses,
    hosts_file,
    reachable_resolvers,
    resolver_configuration,
)
from mooring_agent.network.records import Endpoint


def endpoint(address: str) -> Endpoint:
    return Endpoint("bridge", "web", address, 24, "10.210.0.1", "02:6d:0a:d2:00:02", "mv0")


def test_resolvers_that_only_the_host_reaches_are_left_out() -> None:
    text = "# made by hand\nsearch example.org\nnameserver 127.0.0.53\nnameserver 192.0.2.7\nnameserver ::1\n"
    text += "options ndots:2\nnameserver 192.0.2.8 # second\nnameserver\n"

    assert reachable_resolvers(text).splitlines() == [
        "# made by hand",
        "search example.org",
        "options ndots:2",
        "nameserver",
        "nameserver 192.0.2.7",
        "nameserver 192.0.2.8",
    ]


def test_public_resolvers_stand_in_where_there_is_none() -> None:
    assert reachable_resolvers("nameserver 127.0.0.1\n") == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_resolvers_are_those_of_the_ip_versions_that_a_container_has() -> None:
    text = "nameserver 192.0.2.7\nnameserver 2001:db8::7\nnameserver fe80::1%eth0\nnameserver ::1\n"
    assert reachable_resolvers(text, {4}) == "nameserver 192.0.2.7\n"
    assert reachable_resolvers(text, {6}) == "nameserver 2001:db8::7\n"
    assert reachable_resolvers(text, {4, 6}) == "nameserver 192.0.2.7\nnameserver 2001:db8::7\n"
    assert reachable_resolvers("nameserver 192.0.2.7\n", {6}).splitlines() == [
        "nameserver 2001:4860:4860::8888",
        "nameserver 2001:4860:4860::8844",
    ]
    assert reachable_resolvers("", {4, 6}) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_resolvers_behind_a_local_one_are_found(tmp_path: Path) -> None:
    local, behind = tmp_path / "resolv.conf", tmp_path / "behind.conf"
    local.write_text("nameserver 127.0.0.53\n")
    assert resolver_configuration((local, behind)) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    behind.write_text("nameserver 192.0.2.7\nsearch lan\n")
    assert resolver_configuration((local, behind)) == "search lan\nnameserver 192.0.2.7\n"
    assert resolver_configuration(()) == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"


def test_own_name_stands_for_the_address_on_each_network() -> None:
    lines = hosts_file("web.example.org", [endpoint("10.210.0.2"), endpoint("10.210.1.2")]).splitlines()
    assert "127.0.0.1\tlocalhost" in lines
    assert lines[-2:] == ["10.210.0.2\tweb.example.org web", "10.210.1.2\tweb.example.org web"]


def test_name_without_a_network_still_resolves() -> None:
    assert hosts_file("web").splitlines()[-1] == "127.0.1.1\tweb"


def test_asking_a_name_server_the_rest_is_as_the_host_has_it() -> None:
    text = "# by hand\nsearch lan\nnameserver 192.0.2.6\noptions edns0\nnameserver 192.0.2.7\n"
    assert asking(text, "10.210.1.1").splitlines() == [
        "# by hand",
        "search lan",
        "options edns0",
        "options ndots:0",
        "nameserver 10.210.1.1",
    ]
    assert asking("options ndots:2\n", "10.210.1.1") == "options ndots:2\nnameserver 10.210.1.1\n"


def test_a_change_of_the_host_is_seen(tmp_path: Path) -> None:
    source = tmp_path / "resolv.conf"
    host = HostResolvers((source,))
    assert host.text() == "nameserver 8.8.8.8\nnameserver 8.8.4.4\n"
    source.write_text("nameserver 192.0.2.7\n")
    assert host.text() == "nameserver 192.0.2.7\n"


BOTH = Endpoint(
    "blue", "web", "10.210.0.2", 24, "10.210.0.1", "02:6d:0a:d2:00:02", "mv0", "fd00::2", 64, "fd00::1"
)


def test_hosts_have_the_addresses_of_both_versions_and_what_is_added() -> None:
    lines = hosts_file("web", [BOTH], [("192.0.2.7", "db")]).splitlines()
    assert lines[-3:] == ["10.210.0.2\tweb", "fd00::2\tweb", "192.0.2.7\tdb"]


def test_the_host_is_reached_at_the_gateways_of_a_bridge() -> None:
    on_lan = replace(BOTH, network="lan", host_ifname="")
    assert host_addresses([on_lan, BOTH]) == ["10.210.0.1", "fd00::1"]
    assert host_addresses([on_lan]) == []


HOST = "search lan\nnameserver 192.0.2.1\noptions ndots:2\nsortlist 10.0.0.0\n"


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({}, HOST),
        (
            {"resolvers": ["192.0.2.53", "2001:db8::53"]},
            (
                "search lan\noptions ndots:2\nsortlist 10.0.0.0\nnameserver 192.0.2.53\n"
                "nameserver 2001:db8::53\n"
            ),
        ),
        (
            {"search": ["a.example", "b.example"]},
            "nameserver 192.0.2.1\noptions ndots:2\nsortlist 10.0.0.0\nsearch a.example b.example\n",
        ),
        ({"search": ["."]}, "nameserver 192.0.2.1\noptions ndots:2\nsortlist 10.0.0.0\n"),
        (
            {"options": ["use-vc", "ndots:5"]},
            "search lan\nnameserver 192.0.2.1\nsortlist 10.0.0.0\noptions use-vc ndots:5\n",
        ),
    ],
)
def test_what_a_container_asks_for_takes_the_place_of_the_hosts(
    wishes: dict[str, list[str]], expected: str
) -> None:
    assert container_resolvers(HOST, **wishes) == expected
