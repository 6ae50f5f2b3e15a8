# SPDX-License-Identifier: Apache-2.0
"""Networks, endpoints and publications in the agent's state file. Called in the event loop's thread only."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import sqlite3
from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from .records import Endpoint, Network, Publication, mac_address

_PUBLICATION = tuple(field.name for field in dataclasses.fields(Publication))


class StateFile(Protocol):
    """What is needed of `state.database.Database`."""

    connection: sqlite3.Connection

    def transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        """All or nothing."""


class NetworkStore:
    """The queries, and nothing else."""

    def __init__(self, database: StateFile) -> None:
        self._database = database

    def networks(self) -> list[Network]:
        """All networks, the oldest first."""
        return [
            Network(
                name=row["name"],
                number=row["number"],
                driver=row["driver"],
                subnet=ipaddress.IPv4Network(row["subnet"]),
                gateway=ipaddress.IPv4Address(row["gateway"]),
                nat=bool(row["nat"]),
                internal=bool(row["internal"]),
                labels=json.loads(row["labels"]),
                bridge=row["bridge"],
                created_at=row["created_at"],
            )
            for row in self._rows("SELECT * FROM networks ORDER BY created_at, number")
        ]

    def endpoints(self) -> list[Endpoint]:
        """All endpoints, those of a container in the order in which it got them."""
        query = (
            "SELECT network, container_id, ipv4, host_ifname, subnet, gateway "
            "FROM endpoints JOIN networks ON networks.name = endpoints.network ORDER BY endpoints.rowid"
        )
        return [
            Endpoint(
                network=row["network"],
                container_id=row["container_id"],
                ipv4=row["ipv4"],
                prefix_length=int(row["subnet"].rpartition("/")[2]),
                gateway=row["gateway"],
                mac=mac_address(ipaddress.IPv4Address(row["ipv4"])),
                host_ifname=row["host_ifname"],
            )
            for row in self._rows(query)
        ]

    def publications(self) -> list[Publication]:
        """All published ports."""
        return [Publication(**dict(row)) for row in self._rows("SELECT * FROM publications")]

    def add_network(self, network: Network) -> None:
        """Keep a network."""
        columns = {
            "name": network.name,
            "number": network.number,
            "driver": network.driver,
            "subnet": str(network.subnet),
            "gateway": str(network.gateway),
            "nat": network.nat,
            "internal": network.internal,
            "labels": json.dumps(dict(network.labels), sort_keys=True),
            "bridge": network.bridge,
            "created_at": network.created_at,
        }
        self._database.connection.execute(
            f"INSERT INTO networks ({', '.join(columns)}) VALUES (:{', :'.join(columns)})", columns
        )

    def update_network(self, network: Network) -> None:
        """Keep what can change of a network."""
        self._database.connection.execute(
            "UPDATE networks SET nat = ?, labels = ? WHERE name = ?",
            (network.nat, json.dumps(dict(network.labels), sort_keys=True), network.name),
        )

    def remove_network(self, name: str) -> None:
        """Forget a network without endpoints."""
        self._database.connection.execute("DELETE FROM networks WHERE name = ?", (name,))

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Keep a lease."""
        self._database.connection.execute(
            "INSERT INTO endpoints (container_id, network, ipv4, host_ifname) VALUES (?, ?, ?, ?)",
            (endpoint.container_id, endpoint.network, endpoint.ipv4, endpoint.host_ifname),
        )

    def rename_cable(self, endpoint: Endpoint) -> None:
        """Keep another name of the outer end of an endpoint's cable."""
        self._database.connection.execute(
            "UPDATE endpoints SET host_ifname = ? WHERE container_id = ? AND network = ?",
            (endpoint.host_ifname, endpoint.container_id, endpoint.network),
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
