# SPDX-License-Identifier: Apache-2.0
"""A container's place on its networks: given when it is made, changed while it lives.

What is added is there before the new spec is kept, and what is removed goes after that. So an agent that is
killed in between leaves at most a place that no spec asks for, which the next one's `settle` takes back.
"""

from __future__ import annotations

from ..errors import AddressTaken, MooringError
from ..failpoints import reached
from ..network.records import Endpoint
from ..network.service import NetworkService
from .container import Container
from .resources import ContainerSpec, NetworkAttachment
from .resources.attachments import is_alone, preferred_networks


class Attaching:
    """Attaches containers to networks. The caller has the container's lock."""

    def __init__(self, networks: NetworkService) -> None:
        self._networks = networks

    def allocate(self, container: Container, *, may_wait: bool = False) -> None:
        """Give a new container its addresses. Raises NotFound, Conflict, InvalidSpec.

        With `may_wait`, an address that it asks for and another container has is left to `complete`: who
        replaces a container by hand makes the new one before the old one goes, and says the same address.
        """
        endpoints = []
        for network in container.spec.networks:
            if is_alone(network.name):
                continue
            try:
                endpoints.append(self._allocate(container, network))
            except AddressTaken:
                if not may_wait:
                    raise
        container.endpoints = tuple(endpoints)

    def is_complete(self, container: Container) -> bool:
        """Whether it has all of its places."""
        wanted = [network for network in container.spec.networks if not is_alone(network.name)]
        return len(container.endpoints) == len(wanted)

    def complete(self, container: Container) -> None:
        """Give a container that is to start the places that were taken when it was made. Raises NotFound,
        Conflict.
        """
        if not self.is_complete(container):
            self.allocate(container)

    def restore(self, container: Container) -> None:
        """Take up the places of a container that was there before this agent."""
        container.endpoints = self._in_order(container, container.spec)

    def is_settled(self, container: Container) -> bool:
        """Whether it is on no network that its spec does not name."""
        return len(self._networks.endpoints(container.id)) == len(container.endpoints)

    async def attach(self, container: Container, wanted: ContainerSpec) -> None:
        """Bring it onto the networks of `wanted`, with the addresses that this asks for; its `endpoints` are
        those from now on.

        `settle` follows once the spec is kept.

        Raises what is wrong, and leaves everything as it was then.
        """
        undone: list[tuple[NetworkAttachment, Endpoint | None]] = []
        known = {endpoint.network: endpoint for endpoint in self._networks.endpoints(container.id)}
        former = {network.name: network for network in container.spec.networks}
        try:
            for network in wanted.networks:
                before = known.get(network.name)
                if is_alone(network.name) or (before is not None and _fits(network, before, former)):
                    continue
                undone.append((network, before))
                await self._replug(container, network, before)
                reached("attach.plugged")
            self._arrange(container, wanted)
        except MooringError:
            for network, before in reversed(undone):
                if before is None:
                    await self._networks.disconnect(container.id, network.name, _pid(container))
                else:
                    await self._restore(container, former[network.name], before)
            self._arrange(container, container.spec)
            raise

    async def settle(self, container: Container) -> None:
        """Take it off the networks that its spec does not name; default routes that led there lead elsewhere
        then.
        """
        container.endpoints = self._in_order(container, container.spec)
        surplus = [
            endpoint
            for endpoint in self._networks.endpoints(container.id)
            if endpoint not in container.endpoints
        ]
        pid = _pid(container)
        for endpoint in surplus:
            if pid is not None:
                await self._networks.unplug(endpoint, pid)
                reached("attach.unplugged")
        if surplus:
            self._arrange(container, container.spec)
        for endpoint in surplus:
            self._networks.release(container.id, endpoint.network)

    def _allocate(self, container: Container, network: NetworkAttachment) -> Endpoint:
        return self._networks.allocate(
            network.name, container.id, network.ipv4_address, network.ipv6_address, network.mac_address
        )

    async def _replug(
        self, container: Container, network: NetworkAttachment, before: Endpoint | None
    ) -> None:
        """Give it its place on a network, or another one there."""
        endpoint = self._allocate(container, network)
        if not container.running or container.pid is None:
            return
        if before is not None:
            await self._networks.unplug(before, container.pid)
        await self._plug(container.pid, endpoint, network)

    async def _restore(self, container: Container, network: NetworkAttachment, before: Endpoint) -> None:
        """Give it the place back that it had."""
        endpoint = self._networks.allocate(before.network, container.id, before.ipv4, before.ipv6, before.mac)
        if container.running and container.pid is not None:
            await self._networks.unplug(endpoint, container.pid)
            await self._plug(container.pid, endpoint, network)

    async def _plug(self, pid: int, endpoint: Endpoint, network: NetworkAttachment) -> None:
        """Give a running container an interface; `_arrange` sees to its default routes."""
        await self._networks.connect(
            endpoint,
            pid,
            endpoint.ifname,
            default_routes=(),
            sysctls=network.sysctls,
            link_local=network.link_local,
        )

    def _arrange(self, container: Container, spec: ContainerSpec) -> None:
        """Its endpoints are those of a spec from now on, and its default routes lead as that says."""
        container.endpoints = self._in_order(container, spec)
        pid = _pid(container)
        if pid is not None:
            self._networks.reroute(container.endpoints, pid, preferred_networks(spec.networks))

    def _in_order(self, container: Container, spec: ContainerSpec) -> tuple[Endpoint, ...]:
        """Its endpoints on the networks of a spec, in their order there."""
        known = {endpoint.network: endpoint for endpoint in self._networks.endpoints(container.id)}
        return tuple(known[network.name] for network in spec.networks if network.name in known)


def _fits(network: NetworkAttachment, endpoint: Endpoint, former: dict[str, NetworkAttachment]) -> bool:
    """Whether an endpoint is what an attachment asks for; aliases and default route are not its matter."""
    before = former.get(network.name)
    return (
        network.ipv4_address in (None, endpoint.ipv4)
        and network.ipv6_address in (None, endpoint.ipv6)
        and network.mac_address in (None, endpoint.mac)
        and before is not None
        and network.sysctls == before.sysctls
        and network.link_local == before.link_local
    )


def _pid(container: Container) -> int | None:
    return container.pid if container.running else None
