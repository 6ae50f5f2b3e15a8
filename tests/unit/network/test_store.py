# SPDX-License-Identifier: Apache-2.0
"""What is kept comes back the same, through the agent's own state file."""

from __future__ import annotations

import dataclasses
import ipaddress
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mooring_agent.network.records import Endpoint, Network, Publication, Subnet, mac_address
from mooring_agent.network.store import NetworkStore
from mooring_agent.state import database as database_module
from mooring_agent.state.database import Database

BLUE = Network(
    name="blue",
    number=3,
    driver="bridge",
    ipv4=Subnet(ipaddress.IPv4Network("10.60.0.0/28"), ipaddress.IPv4Address("10.60.0.14")),
    ipv6=None,
    nat=False,
    internal=True,
    labels={"a": "b"},
    bridge="mr0a0a-3",
    created_at=12.5,
)


def endpoint(container_id: str, ipv4: str) -> Endpoint:
    mac = mac_address(ipaddress.IPv4Address(ipv4))
    return Endpoint("blue", container_id, ipv4, 28, "10.60.0.14", mac, f"mv{container_id}")


def test_everything_comes_back_the_same(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    store = NetworkStore(database)
    leases = [endpoint("web", "10.60.0.1"), endpoint("dns", "10.60.0.2")]
    ports = [Publication("tcp", "0.0.0.0", 80, "web", "10.60.0.1", 8080)]
    store.add_network(BLUE)
    for lease in leases:
        store.add_endpoint(lease)
    store.change_publications((), ports)
    database.close()

    again = NetworkStore(Database(tmp_path / "state.db"))
    assert again.networks() == [BLUE]
    assert again.endpoints() == leases
    assert again.publications() == ports
    again.clear()
    assert (again.networks(), again.endpoints(), again.publications()) == ([], [], [])


BOTH = dataclasses.replace(
    BLUE,
    name="both",
    number=4,
    bridge="mr0a0a-4",
    ipv4=Subnet(
        ipaddress.IPv4Network("10.61.0.0/24"),
        ipaddress.IPv4Address("10.61.0.1"),
        ipaddress.IPv4Network("10.61.0.128/25"),
    ),
    ipv6=Subnet(ipaddress.IPv6Network("fd00:61::/64"), ipaddress.IPv6Address("fd00:61::1")),
    reserved=(ipaddress.IPv4Address("10.61.0.130"), ipaddress.IPv6Address("fd00:61::2")),
    reserved_names={ipaddress.IPv4Address("10.61.0.130"): "router"},
    mtu=1400,
    waiting=True,
    bridge_name="br-both",
    port_isolation=True,
    interface_prefix="net",
    publish_address="127.0.0.1",
    attachable=True,
)
LAN = dataclasses.replace(
    BOTH, name="lan", number=5, bridge="", driver="macvlan", ipv4=None, parent="eth0", mode="vepa",
    ipv6=Subnet(ipaddress.IPv6Network("fd00:62::/64"), ipaddress.IPv6Address("fd00:62::1")), reserved=(),
    reserved_names={}, waiting=False, bridge_name="", port_isolation=False, publish_address="",
    attachable=False,
)  # fmt: skip


def test_networks_and_leases_of_both_versions_come_back_the_same(tmp_path: Path) -> None:
    database = Database(tmp_path / "state.db")
    store = NetworkStore(database)
    leases = [
        Endpoint("both", "web", "10.61.0.128", 24, "10.61.0.1", "02:00:00:00:00:01", "mv1", "fd00:61::3", 64,
                 "fd00:61::1", "eth0"),
        Endpoint("lan", "web", None, 0, None, mac_address(ipaddress.ip_address("fd00:62::3")), "",
                 "fd00:62::3", 64, "fd00:62::1", "eth1"),
    ]  # fmt: skip
    for network in (BOTH, LAN):
        store.add_network(network)
    for lease in leases:
        store.add_endpoint(lease)
    changed = dataclasses.replace(LAN, labels={"c": "d"})
    store.update_network(changed)
    database.close()

    again = NetworkStore(Database(tmp_path / "state.db"))
    assert again.networks() == [BOTH, changed]
    assert again.endpoints() == leases


def test_what_an_agent_before_ipv6_had_kept_is_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = database_module._migrations()
    monkeypatch.setattr(database_module, "_migrations", lambda: every[:2])
    with closing(Database(tmp_path / "state.db")) as old:
        old.connection.execute(
            "INSERT INTO networks VALUES ('blue', 3, 'bridge', '10.60.0.0/28', '10.60.0.14', 0, 1, "
            """'{"a": "b"}', 'mr0a0a-3', 12.5)"""
        )
        old.connection.execute(
            "INSERT INTO networks VALUES ('red', 0, 'bridge', '10.61.0.0/24', '10.61.0.1', 1, 0, '{}', "
            "'mr0a0a-0', 12.6)"
        )
        for network, ipv4 in (("blue", "10.60.0.1"), ("red", "10.61.0.2")):
            old.connection.execute("INSERT INTO endpoints VALUES ('web', ?, ?, 'mvweb')", (network, ipv4))
        old.connection.execute(
            "INSERT INTO endpoints VALUES ('dns', 'red', '10.61.0.3', 'mvdns')",
        )
    monkeypatch.undo()
    with closing(Database(tmp_path / "state.db")) as migrated:
        store = NetworkStore(migrated)
        blue, red = store.networks()
        assert blue == BLUE
        assert (red.nat, red.internal, red.translated, red.mtu, red.ipv6) == (True, False, True, None, None)
        places = [(one.container_id, one.network, one.ipv4, one.ifname) for one in store.endpoints()]
        assert places == [
            ("web", "blue", "10.60.0.1", "eth0"),
            ("web", "red", "10.61.0.2", "eth1"),
            ("dns", "red", "10.61.0.3", "eth0"),
        ]
        with pytest.raises(sqlite3.IntegrityError):
            store.remove_network("red")


def test_ports_change_together_or_not_at_all(tmp_path: Path) -> None:
    store = NetworkStore(Database(tmp_path / "state.db"))
    old = Publication("tcp", "0.0.0.0", 80, "old", "10.60.0.1", 8080)
    new = dataclasses.replace(old, container_id="new", container_ip="10.60.0.2")
    store.change_publications((), [old])
    store.change_publications([old], [new])
    assert store.publications() == [new]
    with pytest.raises(sqlite3.IntegrityError):
        store.change_publications((), [dataclasses.replace(old, host_port=81), new])
    assert store.publications() == [new]


def test_network_with_endpoints_is_not_forgotten(tmp_path: Path) -> None:
    store = NetworkStore(Database(tmp_path / "state.db"))
    store.add_network(BLUE)
    store.add_endpoint(endpoint("web", "10.60.0.1"))
    with pytest.raises(sqlite3.IntegrityError):
        store.remove_network("blue")
    with pytest.raises(sqlite3.IntegrityError):
        store.add_endpoint(endpoint("dns", "10.60.0.1"))


def test_address_and_mac_belong_together() -> None:
    assert mac_address(ipaddress.IPv4Address("10.210.0.2")) == "02:6d:0a:d2:00:02"


def test_addresses_of_ipv6_that_follow_each_other_have_different_macs() -> None:
    first = ipaddress.IPv6Address("fd00:61::2")
    assert mac_address(first) == "02:6e:00:00:00:02"
    assert len({mac_address(first + number) for number in range(1000)}) == 1000
