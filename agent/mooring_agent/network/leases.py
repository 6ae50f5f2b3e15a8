# SPDX-License-Identifier: Apache-2.0
"""Who has which addresses: the endpoints of containers, kept in the state file until they are released.

Called in the event loop's thread only; touches nothing of the kernel.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import sqlite3
from collections.abc import Callable, Collection, Iterable

from ..errors import AddressTaken, Conflict, MooringError
from . import veths
from .addresses import AddressPool
from .records import Endpoint, IPAddress, Network, Subnet, mac_address
from .store import NetworkStore, StateFile


class Leases:
    """The endpoints of all containers. `container_name` puts a container's id into words for messages."""

    def __init__(
        self, database: StateFile, store: NetworkStore, container_name: Callable[[str], str]
    ) -> None:
        self._database = database
        self._store = store
        self._container_name = container_name
        self._pools: dict[str, dict[int, AddressPool]] = {}
        self._macs: dict[tuple[str, str], str] = {}
        self._endpoints: dict[str, dict[str, Endpoint]] = {}

    def restore(self) -> None:
        """Take up what the state file says; the pools are opened afterwards."""
        for endpoint in self._store.endpoints():
            self._note(endpoint)

    def open(self, network: Network, reserved: Iterable[IPAddress] = ()) -> None:
        """Give addresses of a network from now on; `reserved` are not given beside those of the network."""
        kept = (*network.reserved, *reserved)
        self._pools[network.name] = {
            subnet.cidr.version: self._pool(network, subnet, kept) for subnet in network.subnets
        }

    def close(self, network: str) -> None:
        """Give no addresses of a network any more, on which nobody is."""
        self._pools.pop(network, None)

    def clear(self) -> None:
        """Forget everything."""
        for known in (self._pools, self._macs, self._endpoints):
            known.clear()

    def allocate(
        self,
        network: Network,
        container_id: str,
        ipv4: str | None = None,
        ipv6: str | None = None,
        mac: str | None = None,
    ) -> Endpoint:
        """Give a container its addresses on a network, those it wants or free ones, and keep them.

        Asked again it answers the same. Raises Conflict, InvalidSpec.
        """
        mine = self._endpoints.get(container_id, {})
        before = mine.get(network.name)
        if before is not None:
            if ipv4 in (None, before.ipv4) and ipv6 in (None, before.ipv6) and mac in (None, before.mac):
                return before
            ipv4, ipv6 = ipv4 or before.ipv4, ipv6 or before.ipv6
        given: list[tuple[AddressPool, IPAddress]] = []
        try:
            addresses = {
                version: self._take(network, version, container_id, wanted, before, given)
                for version, wanted in ((4, ipv4), (6, ipv6))
            }
            first = addresses[4] or addresses[6]
            endpoint = Endpoint(
                network=network.name,
                container_id=container_id,
                ipv4=addresses[4],
                prefix_length=network.ipv4.cidr.prefixlen if network.ipv4 else 0,
                gateway=str(network.ipv4.gateway) if network.ipv4 else None,
                mac=mac or mac_address(ipaddress.ip_address(first or "")),
                host_ifname=veths.host_ifname(container_id, network.name) if network.bridge else "",
                ipv6=addresses[6],
                prefix_length6=network.ipv6.cidr.prefixlen if network.ipv6 else 0,
                gateway6=str(network.ipv6.gateway) if network.ipv6 else None,
                ifname=free_ifname(network, [one.ifname for one in mine.values()])
                if before is None
                else before.ifname,
            )
            self._check_mac(network, endpoint)
            with self._database.transaction():
                if before is not None:
                    self._store.remove_endpoint(before)
                self._store.add_endpoint(endpoint)
        except (MooringError, sqlite3.Error):
            for pool, address in given:
                pool.release(address)
            raise
        if before is not None:
            self._forget(before, keep=endpoint.addresses)
        self._note(endpoint)
        return endpoint

    def rename(self, endpoint: Endpoint, host_ifname: str, ifname: str) -> None:
        """The ends of an endpoint's cable have these names from now on; repairs look for them."""
        kept = self._endpoints.get(endpoint.container_id, {}).get(endpoint.network)
        if kept is None or (kept.host_ifname, kept.ifname) == (host_ifname, ifname):
            return
        renamed = dataclasses.replace(kept, host_ifname=host_ifname, ifname=ifname)
        self._store.rename_cable(renamed)
        self._endpoints[endpoint.container_id][endpoint.network] = renamed

    def current(self, endpoint: Endpoint) -> Endpoint:
        """An endpoint as it is by now; as it was if it has been released."""
        return self._endpoints.get(endpoint.container_id, {}).get(endpoint.network, endpoint)

    def of(self, container_id: str) -> tuple[Endpoint, ...]:
        """The endpoints of a container, in the order in which it got them."""
        return tuple(self._endpoints.get(container_id, {}).values())

    def on(self, network: str) -> list[Endpoint]:
        """The endpoints on a network."""
        return [mine[network] for mine in self._endpoints.values() if network in mine]

    def addresses_of(self, name: str) -> list[str]:
        """The addresses of the container that is called so, on all of its networks."""
        return [
            address
            for container_id, mine in self._endpoints.items()
            if self._container_name(container_id) == name
            for endpoint in mine.values()
            for address in endpoint.addresses
        ]

    def all(self) -> list[Endpoint]:
        """All endpoints."""
        return [endpoint for mine in self._endpoints.values() for endpoint in mine.values()]

    def owners(self) -> list[str]:
        """The containers that have an endpoint."""
        return list(self._endpoints)

    def release(self, container_id: str, network: str | None = None) -> None:
        """Take a container's addresses back: those on a network, or all."""
        endpoints = [one for one in self.of(container_id) if network in (None, one.network)]
        if not endpoints:
            return
        with self._database.transaction():
            for endpoint in endpoints:
                self._store.remove_endpoint(endpoint)
        for endpoint in endpoints:
            self._forget(endpoint)

    def _pool(self, network: Network, subnet: Subnet, reserved: Iterable[IPAddress]) -> AddressPool:
        version = subnet.cidr.version
        taken = {}
        for endpoint in self.on(network.name):
            address = endpoint.ipv4 if version == 4 else endpoint.ipv6
            if address is not None:
                taken[ipaddress.ip_address(address)] = endpoint.container_id
        return AddressPool(
            network.name, subnet, reserved=reserved, taken=taken, describe=self._container_name
        )

    def _take(
        self,
        network: Network,
        version: int,
        container_id: str,
        wanted: str | None,
        before: Endpoint | None,
        given: list[tuple[AddressPool, IPAddress]],
    ) -> str | None:
        """An address for a container, noted in `given` unless it had it before; None if there is no IPv6 (or
        IPv4) there.
        """
        pool = self._pools[network.name].get(version)
        if pool is None:
            if wanted is not None:
                raise Conflict(
                    f"address {wanted} cannot be had on network {network.name}, which has no IPv{version}; "
                    f"leave it out, or declare a network with ipv{version}"
                )
            return None
        if before is not None and wanted in before.addresses:
            return wanted
        address = pool.allocate(container_id, wanted)
        given.append((pool, address))
        return str(address)

    def _check_mac(self, network: Network, endpoint: Endpoint) -> None:
        owner = self._macs.get((network.name, endpoint.mac))
        if owner not in (None, endpoint.container_id):
            raise AddressTaken(
                f"MAC address {endpoint.mac} on network {network.name} is taken by container "
                f"{self._container_name(owner or '')}; choose another one, or remove that container"
            )
        if network.bridge and endpoint.mac == network.mac:
            raise Conflict(
                f"MAC address {endpoint.mac} on network {network.name} is that of its gateway; choose another"
            )

    def _note(self, endpoint: Endpoint) -> None:
        self._endpoints.setdefault(endpoint.container_id, {})[endpoint.network] = endpoint
        self._macs[endpoint.network, endpoint.mac] = endpoint.container_id

    def _forget(self, endpoint: Endpoint, keep: tuple[str, ...] = ()) -> None:
        for text in endpoint.addresses:
            address = ipaddress.ip_address(text)
            if text not in keep:
                self._pools[endpoint.network][address.version].release(address)
        self._macs.pop((endpoint.network, endpoint.mac), None)
        mine = self._endpoints[endpoint.container_id]
        del mine[endpoint.network]
        if not mine:
            del self._endpoints[endpoint.container_id]


def free_ifname(network: Network, taken: Collection[str] = ()) -> str:
    """What an interface of a container on a network is called: the first of eth0, eth1, … (or as the network
    has it) that is not taken.
    """
    prefix = network.interface_prefix or "eth"
    return next(name for number in range(len(taken) + 1) if (name := f"{prefix}{number}") not in taken)
