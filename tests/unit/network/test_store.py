# SPDX-License-Identifier: Apache-2.0
"""What is kept comes back the same, through the agent's own state file."""

from __future__ import annotations

import dataclasses
import ipaddress
import sqlite3
from pathlib import Path

import pytest

from mooring_agent.network.records import Endpoint, Network, Publication, mac_address
from mooring_agent.network.store import NetworkStore
from mooring_agent.state.database import Database

BLUE = Network(
    name="blue",
    number=3,
    driver="bridge",
    subnet=ipaddress.IPv4Network("10.60.0.0/28"),
    gateway=ipaddress.IPv4Address("10.60.0.14"),
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
