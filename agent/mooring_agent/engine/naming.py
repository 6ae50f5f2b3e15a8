# SPDX-License-Identifier: Apache-2.0
"""What containers are called on their networks, and whom they ask for names."""

from __future__ import annotations

import ipaddress
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from ..config import AgentConfig
from ..network.names import IPV4_ALONE, HostResolvers, asking, container_resolvers
from ..network.naming.realms import Home, Resident, realm_of
from ..network.naming.service import NameService
from ..network.naming.zone import can_be_told
from ..network.records import Network
from ..network.service import NetworkService
from .container import Container
from .registry import Registry
from .resources import ContainerSpec
from .resources.attachments import preferred_networks

logger = logging.getLogger(__name__)


class Naming:
    """Tells the name service of containers, and containers of the name service."""

    def __init__(self, config: AgentConfig, networks: NetworkService, registry: Registry) -> None:
        self._run_root = config.run_root
        self._networks = networks
        self._registry = registry
        self._host = HostResolvers()
        self.service = NameService(
            config.run_root, config.nft_table, config.bridge_prefix, networks.list, self._resolvers_changed
        )
        networks.tables.append(self.service.redirects)
        registry.followers.append(self._follow)

    def resolv_conf(self, container: Container) -> str:
        """The container's resolv.conf(5) as things are."""
        spec = container.spec
        server = None if _asks_itself(spec) else self.service.resolver(self._resident(container))
        text = self._host.text(_versions(container))
        if server is None:
            return container_resolvers(text, spec.dns, spec.dns_search, spec.dns_options)
        return asking(container_resolvers(text, (), spec.dns_search, spec.dns_options), server)

    async def expect(self, container: Container) -> None:
        """A container is about to start."""
        await self.service.expect(self._resident(container))

    async def changed(self, container: Container) -> None:
        """A container that runs is on other networks, is called something else, or asks somebody else."""
        await self.expect(container)
        self._follow(container)
        await self.service.ready(self._resident(container))

    async def attend(self, container: Container) -> None:
        """Have a container and names known to each other before it starts: it may well begin with a question,
        and whoever hears that it runs may ask for it. One that does not start then is to be withdrawn.
        """
        resident = self._resident(container)
        self.service.publish(resident)
        await self.service.expect(resident)
        await self.service.ready(resident)

    def withdraw(self, container: Container) -> None:
        """Forget what `attend` was told of."""
        self.service.withdraw(container.id)

    async def settle(self) -> None:
        """Take up what a former agent has told; comes after the keeper has said who runs."""
        running = [container for container in self._registry if container.running]
        await self.service.settle([self._resident(container) for container in running])

    def _follow(self, container: Container) -> None:
        """Tell the names of a container that runs, and no other's."""
        if container.running:
            self.service.publish(self._resident(container))
            if self.service.troubled:
                self._resolvers_changed([container.id])  # it may have been made ready before
        else:
            self.service.withdraw(container.id)

    def _resident(self, container: Container) -> Resident:
        """The container as the name service knows it: without a home where no network of its has names, which
        most have not, so that nothing is done about it.
        """
        names = {endpoint.network for endpoint in container.endpoints}
        on = {network.name: network for network in self._networks.list() if network.name in names}
        homes = tuple(self._homes(container, on)) if any(map(realm_of, on.values())) else ()
        servers = () if _asks_itself(container.spec) else container.spec.dns
        outside = any(not network.internal for network in on.values())
        return Resident(container.id, homes, outside, servers)

    def _homes(self, container: Container, on: Mapping[str, Network]) -> Iterator[Home]:
        attached = {attachment.name: attachment for attachment in container.spec.networks}
        endpoints = [one for one in container.endpoints if one.network in on and one.network in attached]
        routes = self._networks.default_routes(endpoints, preferred_networks(container.spec.networks))
        for endpoint in endpoints:
            called = [container.name, *attached[endpoint.network].aliases]
            called += self._registry.linked_as(container.name, endpoint.network)
            if container.spec.hostname:
                called.append(container.spec.hostname)
            if container.name:
                called.append(container.id[:12])
            yield Home(
                bridge=on[endpoint.network].bridge,
                addresses=endpoint.addresses,
                mac=endpoint.mac,
                names=tuple(dict.fromkeys(name.lower() for name in called if can_be_told(name))),
                default_route=4 in routes[endpoint.network],
            )

    def _resolvers_changed(self, ids: list[str]) -> None:
        """Write the resolv.conf of containers anew, unless somebody in there has done so."""
        for id in ids:
            container = self._registry.find(id)
            if container is None or not container.endpoints:
                continue
            path = self._run_root / "etc" / container.id / "resolv.conf"
            wanted = self.resolv_conf(container)
            try:
                self._replace(path, wanted, container)
            except FileNotFoundError:
                continue  # each start writes it
            except OSError as error:
                logger.error("resolv.conf not written container=%s error=%r", container.name, str(error))

    def _replace(self, path: Path, wanted: str, container: Container) -> None:
        """Write in place: the file is bound into the container."""
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(descriptor, "r+", encoding="utf-8", errors="replace") as file:
            before = file.read()
            if before == wanted or not self._is_ours(before, container):
                return
            file.seek(0)
            file.write(wanted)
            file.truncate()

    def _is_ours(self, text: str, container: Container) -> bool:
        """Whether a resolv.conf is one of ours, of a time when things were otherwise."""
        spec = container.spec
        for versions in map(frozenset, ({4}, {6}, {4, 6})):
            host = self._host.text(versions)
            if text == container_resolvers(host, spec.dns, spec.dns_search, spec.dns_options):
                return True
        asked = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
        gateways = {str(subnet.gateway) for network in self._networks.list() for subnet in network.subnets}
        return len(asked) == 1 and asked[0] in gateways


def _versions(container: Container) -> frozenset[int]:
    """The IP versions that a container has addresses of; one without a network of its own asks over IPv4."""
    addresses = [address for endpoint in container.endpoints for address in endpoint.addresses]
    return frozenset(6 if ":" in address else 4 for address in addresses) or IPV4_ALONE


def _asks_itself(spec: ContainerSpec) -> bool:
    """Whether a container has a resolver of its own inside, whom nobody else can ask."""
    return any(ipaddress.ip_address(server).is_loopback for server in spec.dns)
