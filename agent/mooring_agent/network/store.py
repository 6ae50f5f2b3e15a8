# SPDX-License-Identifier: Apache-2.0
"""Networks, endpoints and publications in the agent's state file. Called in the event loop's thread only."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from .overlay import restored
from .records import Endpoint, Network, Publication, Subnet, mac_address, read_reserved
from .rules import parse_rules

_PUBLICATION = tuple(field.name for field in dataclasses.fields(Publication))


class StateFile(Protocol):
    """What is needed of `state.database.Database`."""

    @property
    def connection(self) -> sqlite3.Connection:
        """For statements of their own."""

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All or nothing."""


class NetworkStore:
    """The queries, and nothing else."""

    def __init__(self, database: StateFile) -> None:
        self._database = database

    def networks(self) -> list[Network]:
        """All networks, the oldest first."""
        return [_network(row) for row in self._rows("SELECT * FROM networks ORDER BY created_at, number")]

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, those of a container in the order in which it got them."""
        query = (
            "SELECT endpoints.*, subnet, gateway, subnet6, gateway6 "
            "FROM endpoints JOIN networks ON networks.name = endpoints.network ORDER BY endpoints.rowid"
        )
        return [_endpoint(row) for row in self._rows(query)]

    def publications(self) -> list[Publication]:
        """All published ports."""
        return [Publication(**dict(row)) for row in self._rows("SELECT * FROM publications")]

    def add_network(self, network: Network) -> None:
        """Keep a network."""
        columns = {
            "name": network.name,
            "number": network.number,
            "driver": network.driver,
            **_subnet_columns(network.ipv4, ""),
            **_subnet_columns(network.ipv6, "6"),
            "settings": _settings(network),
            "bridge": network.bridge or None,
            "created_at": network.created_at,
        }
        self._database.connection.execute(
            f"INSERT INTO networks ({', '.join(columns)}) VALUES (:{', :'.join(columns)})", columns
        )

    def update_network(self, network: Network) -> None:
        """Keep what can change of a network."""
        self._database.connection.execute(
            "UPDATE networks SET settings = ? WHERE name = ?", (_settings(network), network.name)
        )

    def remove_network(self, name: str) -> None:
        """Forget a network without endpoints."""
        self._database.connection.execute("DELETE FROM networks WHERE name = ?", (name,))

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Keep a lease."""
        derived = mac_address(ipaddress.ip_address(endpoint.addresses[0]))
        self._database.connection.execute(
            "INSERT INTO endpoints (container_id, network, ipv4, ipv6, mac, host_ifname, ifname) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                endpoint.container_id,
                endpoint.network,
                endpoint.ipv4,
                endpoint.ipv6,
                None if endpoint.mac == derived else endpoint.mac,
                endpoint.host_ifname,
                endpoint.ifname,
            ),
        )

    def rename_cable(self, endpoint: Endpoint) -> None:
        """Keep other names of the ends of an endpoint's cable."""
        self._database.connection.execute(
            "UPDATE endpoints SET host_ifname = ?, ifname = ? WHERE container_id = ? AND network = ?",
            (endpoint.host_ifname, endpoint.ifname, endpoint.container_id, endpoint.network),
        )

    def remove_endpoint(self, endpoint: Endpoint) -> None:
        """End a lease."""
        self._database.connection.execute(
            "DELETE FROM endpoints WHERE container_id = ? AND network = ?",
            (endpoint.container_id, endpoint.network),
        )

    def change_publications(self, removed: Iterable[Publication], added: Iterable[Publication]) -> None:
        """Replace some published ports by others, all or nothing."""
        with self._database.transaction() as connection:
            connection.executemany(
                "DELETE FROM publications "
                "WHERE protocol = ? AND host_ip = ? AND host_port = ? AND container_id = ?",
                [(*publication.key, publication.container_id) for publication in removed],
            )
            connection.executemany(
                f"INSERT INTO publications ({', '.join(_PUBLICATION)}) "
                f"VALUES ({', '.join('?' * len(_PUBLICATION))})",
                [dataclasses.astuple(publication) for publication in added],
            )

    def clear(self) -> None:
        """Forget everything."""
        with self._database.transaction() as connection:
            for table in ("publications", "endpoints", "networks"):
                connection.execute(f"DELETE FROM {table}")

    def _rows(self, query: str) -> list[sqlite3.Row]:
        return self._database.connection.execute(query).fetchall()


def _network(row: sqlite3.Row) -> Network:
    settings = json.loads(row["settings"])
    reserved, names = read_reserved(settings.get("reserved", ()))
    return Network(
        name=row["name"],
        number=row["number"],
        driver=row["driver"],
        ipv4=_subnet(row, ""),
        ipv6=_subnet(row, "6"),
        nat=settings["nat"],
        internal=settings["internal"],
        labels=settings["labels"],
        bridge=row["bridge"] or "",
        created_at=row["created_at"],
        reserved=reserved,
        reserved_names=names,
        mtu=settings.get("mtu"),
        parent=settings.get("parent", ""),
        mode=settings.get("mode", ""),
        rules=parse_rules(settings.get("rules", ()), f"network {row['name']}: rules"),
        reachable_from=tuple(settings.get("reachable_from", ())),
        overlay=restored(settings["overlay"]) if "overlay" in settings else None,
        waiting=settings.get("waiting", False),
        bridge_name=settings.get("bridge_name", ""),
        port_isolation=settings.get("port_isolation", False),
        interface_prefix=settings.get("interface_prefix", ""),
        publish_address=settings.get("publish_address", ""),
        attachable=settings.get("attachable", False),
    )


def _settings(network: Network) -> str:
    settings: dict[str, Any] = {
        "nat": network.nat,
        "internal": network.internal,
        "labels": dict(network.labels),
        "reserved": network.spelled_reserved,
        "mtu": network.mtu,
        "parent": network.parent,
        "bridge_name": network.bridge_name,
        "interface_prefix": network.interface_prefix,
        "publish_address": network.publish_address,
        "mode": network.mode,
        "rules": [rule.dump() for rule in network.rules],
        "reachable_from": list(network.reachable_from),
        "overlay": None if network.overlay is None else network.overlay.view(),
    }
    settings |= {name: True for name in ("waiting", "port_isolation", "attachable") if getattr(network, name)}
    return json.dumps({name: value for name, value in settings.items() if value not in (None, "", [])})


def _subnet(row: sqlite3.Row, suffix: str) -> Subnet | None:
    if row[f"subnet{suffix}"] is None:
        return None
    ip_range = row[f"ip_range{suffix}"]
    return Subnet(
        cidr=ipaddress.ip_network(row[f"subnet{suffix}"]),
        gateway=ipaddress.ip_address(row[f"gateway{suffix}"]),
        ip_range=None if ip_range is None else ipaddress.ip_network(ip_range),
    )


def _subnet_columns(subnet: Subnet | None, suffix: str) -> dict[str, str | None]:
    if subnet is None:
        return {}
    return {
        f"subnet{suffix}": str(subnet.cidr),
        f"gateway{suffix}": str(subnet.gateway),
        f"ip_range{suffix}": None if subnet.ip_range is None else str(subnet.ip_range),
    }


def _endpoint(row: sqlite3.Row) -> Endpoint:
    first = row["ipv4"] or row["ipv6"]
    return Endpoint(
        network=row["network"],
        container_id=row["container_id"],
        ipv4=row["ipv4"],
        prefix_length=_prefix_length(row["subnet"]),
        gateway=row["gateway"],
        mac=row["mac"] or mac_address(ipaddress.ip_address(first)),
        host_ifname=row["host_ifname"],
        ipv6=row["ipv6"],
        prefix_length6=_prefix_length(row["subnet6"]),
        gateway6=row["gateway6"],
        ifname=row["ifname"],
    )


def _prefix_length(subnet: str | None) -> int:
    return 0 if subnet is None else int(subnet.rpartition("/")[2])
