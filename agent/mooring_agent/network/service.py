# SPDX-License-Identifier: Apache-2.0
"""Networks as the engine sees them: declared ones, endpoints on them, published ports.

Everything is kept in the state file first and in the kernel second, so that `start` can bring the kernel back
to what was declared: after a restart of the agent nothing is missing and nothing is touched, after a reboot
everything is rebuilt, and what others removed is repaired. Called in the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import builtins
import dataclasses
import ipaddress
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import Conflict, InvalidSpec, MooringError, NotFound, Unavailable
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from . import bridges, ruleset, specs, subnets, veths
from .addresses import AddressPool
from .config import NetworkConfig
from .firewall import Firewall
from .ports import PortBook
from .publishing import Change, Mapped, plan
from .records import Endpoint, Network, Publication, mac_address
from .store import NetworkStore, StateFile
from .traffic import PLAIN_TERMS, Terms, Traffic
from .veths import Cable

M = TypeVar("M", bound=Mapped)


class NetworkService:
    """All networks of an agent. `container_name` puts a container's id into words for messages, `terms_of`
    tells what the container is allowed.

    `start` comes first. Methods that are not coroutines touch no nftables, and of the kernel at most a
    bridge.
    """

    def __init__(
        self,
        config: NetworkConfig,
        database: StateFile,
        container_name: Callable[[str], str] = lambda container_id: container_id[:12],
        terms_of: Callable[[str], Terms] = lambda _: PLAIN_TERMS,
    ) -> None:
        self._config = config
        self._database = database
        self._store = NetworkStore(database)
        self._container_name = container_name
        self._networks: dict[str, Network] = {}
        self._endpoints: dict[str, dict[str, Endpoint]] = {}
        self._pools: dict[str, AddressPool] = {}
        self._ports = PortBook(container_name)
        self._firewall = Firewall(
            config.nft_table, lambda: (list(self._networks.values()), list(self._ports))
        )
        self._traffic = Traffic(config.bridge_prefix, terms_of)
        self._firewall_made = False
        self._settled: set[str] = set()
        self._settling = asyncio.Lock()
        self._bridges: dict[str, int] = {}
        self._retiring: set[int] = set()
        self._opened: RouteSocket | None = None

    # ---- the agent's life ------------------------------------------------------------------------

    async def start(self) -> builtins.list[str]:
        """Take up what the state file says, and repair the kernel's part. Returns what had to be repaired."""
        for network in self._store.networks():
            self._networks[network.name] = network
        for endpoint in self._store.endpoints():
            self._endpoints.setdefault(endpoint.container_id, {})[endpoint.network] = endpoint
        for network in self._networks.values():
            self._pools[network.name] = self._pool(network)
        taken = (self._ports.restore(publication) for publication in self._store.publications())
        clashes = [message for message in taken if message is not None]
        return clashes + await self.repair()

    async def stop(self) -> None:
        """Close what is open. Bridges, addresses and published ports stay, and work on."""
        await asyncio.to_thread(self._firewall.close)
        self._ports.close()
        self._traffic.close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def check(self) -> builtins.list[str]:
        """What in the kernel is not as declared, a sentence each; empty if all is well."""
        return self._check_bridges() + self._check_traffic() + await self._check_firewall()

    async def repair(self) -> builtins.list[str]:
        """Make the kernel what it should be, touching only what is not so.

        Returns what `check` found before, and what could not be repaired; that is tried again by `connect`.
        """
        found = self._check_bridges() + self._check_traffic()
        for network in self._networks.values():
            try:
                self._bridges[network.name] = bridges.ensure(self._netlink, network)
                bridges.plug_in(self._netlink, network, self._endpoints_on(network.name))
            except MooringError as error:
                found.append(error.message)
        found += self._restore_traffic()
        wrong = await self._check_firewall()
        try:
            if wrong:
                await self._firewall.rewrite()
            self._firewall_made = bool(self._networks)
            self._settled.update(self._bridges)
        except MooringError as error:
            wrong.append(error.message)
        return found + wrong

    async def obstacles(self) -> builtins.list[str]:
        """What on the host keeps networks from working although ours is right, and what to do about it."""
        return await self._firewall.obstacles(self._config.bridge_prefix) if self._networks else []

    async def teardown(self) -> None:
        """Remove everything of this agent's networks, from the kernel and from the state file."""
        cables = [endpoint.host_ifname for mine in self._endpoints.values() for endpoint in mine.values()]
        links = cables + [network.bridge for network in self._networks.values()]
        self._store.clear()
        self._ports.forget([publication.key for publication in self._ports])
        for known in (self._networks, self._endpoints, self._pools, self._bridges):
            known.clear()
        self._settled.clear()
        made, self._firewall_made = self._firewall_made, False
        if made:
            await self._firewall.remove()
        await asyncio.to_thread(rtnetlink.remove_links, links)
        self._traffic.teardown(self._netlink)

    # ---- networks --------------------------------------------------------------------------------

    def normalise_spec(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What was given of a network, in normal form and nothing added. Pure. Raises InvalidSpec."""
        return specs.normalise_spec(spec)

    def list(self) -> builtins.list[Network]:
        """All networks, the oldest first."""
        return list(self._networks.values())

    def get(self, name: str) -> Network:
        """The network of this name. Raises NotFound."""
        network = self._networks.get(name)
        if network is None:
            known = ", ".join(self._networks) or "none yet"
            raise NotFound(f"network {name} does not exist (there is {known}); create it first")
        return network

    async def create(self, name: str, spec: Mapping[str, Any]) -> Network:
        """Make a network. Raises InvalidSpec, and Conflict where it clashes with the host or another one."""
        network = self._add(specs.check_name(name), specs.normalise_spec(spec))
        try:
            await self._settle(network)
        except MooringError:
            await self._drop(network)
            raise
        return network

    async def update(self, name: str, spec: Mapping[str, Any]) -> Network:
        """Make a network what `spec` says, while its containers run on: labels, and nat.

        Raises Conflict for a change that would need another network, NotFound, InvalidSpec.
        """
        before = self.get(name)
        given = {"internal": False, **specs.normalise_spec(spec)}
        for key in ("driver", "subnet", "gateway", "internal"):
            now = before.view()[key]
            if given.get(key, now) != now:
                raise Conflict(
                    f"network {name} cannot change its {key} from {now} to {given[key]}; "
                    "remove it first, or declare another network"
                )
        after = dataclasses.replace(before, nat=given.get("nat", True), labels=given.get("labels", {}))
        self._store.update_network(after)
        self._networks[name] = after
        if before.translated != after.translated:
            await self._firewall.rewrite()
        return after

    async def remove(self, name: str) -> None:
        """Remove a network. Raises NotFound, and Conflict naming the containers while there are any on it."""
        network = self.get(name)
        users = self._endpoints_on(name)
        if users:
            names = ", ".join(sorted(self._container_name(endpoint.container_id) for endpoint in users))
            raise Conflict(f"network {name} is in use by {names}; remove these containers first")
        await self._drop(network)

    def plan_subnet(self, name: str, spec: Mapping[str, Any]) -> ipaddress.IPv4Network:
        """The subnet that `create` would give to a network now. Raises Conflict, InvalidSpec."""
        specs.check_name(name)
        given = specs.normalise_spec(spec).get("subnet")
        others = [network for network in self._networks.values() if network.name != name]
        own = [network.bridge for network in self._networks.values()]
        occupied = [subnets.Occupied(other.subnet, f"network {other.name}") for other in others]
        occupied += subnets.occupied_by_host(self._netlink, own)
        if given is None:
            prefix = ipaddress.IPv4Network(self._config.network_prefix)
            return subnets.choose_subnet(prefix, occupied, subnets.start_of(self._config.instance))
        subnet = ipaddress.IPv4Network(given)
        subnets.check_subnet(name, subnet, occupied)
        return subnet

    # ---- endpoints -------------------------------------------------------------------------------

    def allocate(self, network: str, container_id: str, ipv4: str | None = None) -> Endpoint:
        """Give a container an address, and keep it until `release`; asked again it answers the same.

        The network "bridge" is made when it is first asked for. Raises NotFound, Conflict, InvalidSpec.
        """
        if network == specs.DEFAULT_NETWORK and network not in self._networks:
            self._add(network, {})
        where = self.get(network)
        before = self._endpoints.get(container_id, {}).get(network)
        if before is not None and ipv4 in (None, before.ipv4):
            return before
        address = self._pools[network].allocate(container_id, ipv4)
        endpoint = Endpoint(
            network=network,
            container_id=container_id,
            ipv4=str(address),
            prefix_length=where.subnet.prefixlen,
            gateway=str(where.gateway),
            mac=mac_address(address),
            host_ifname=veths.host_ifname(container_id, network),
        )
        try:
            with self._database.transaction():
                if before is not None:
                    self._store.remove_endpoint(before)
                self._store.add_endpoint(endpoint)
        except sqlite3.Error:
            self._pools[network].release(address)
            raise
        if before is not None:
            self._pools[network].release(ipaddress.IPv4Address(before.ipv4))
        self._endpoints.setdefault(container_id, {})[network] = endpoint
        return endpoint

    def endpoints(self, container_id: str) -> tuple[Endpoint, ...]:
        """The endpoints of a container."""
        return tuple(self._endpoints.get(container_id, {}).values())

    def owners(self) -> builtins.list[str]:
        """The containers that have an endpoint or a published port."""
        return list({*self._endpoints, *(publication.container_id for publication in self._ports)})

    def release(self, container_id: str) -> None:
        """Take a container's addresses back. Its veths go by themselves, with its network namespace."""
        endpoints = self._endpoints.pop(container_id, {})
        if not endpoints:
            return
        self._traffic.forget(self._netlink, endpoints.values())
        with self._database.transaction():
            for endpoint in endpoints.values():
                self._store.remove_endpoint(endpoint)
        for endpoint in endpoints.values():
            self._pools[endpoint.network].release(ipaddress.IPv4Address(endpoint.ipv4))

    def lay_cable(self, name: str, pid: int) -> Cable | None:
        """Lead a cable of the network `name` into the network namespace of process `pid`, as eth0, before it
        is known whose it will be; None where that is not possible at the moment.
        """
        network = self._networks.get(name)
        if network is None or name not in self._settled:
            return None
        try:
            where = network, veths.spare_ifname(), pid, "eth0", self._traffic.guard
            return veths.lay(self._netlink, self._bridges[name], *where)
        except OSError:
            return None  # `connect` will find out, and say what is wrong

    def change_terms(self, container_id: str, terms: Terms) -> None:
        """Bring the cables of a container to what it is allowed from now on. Raises MooringError."""
        self._traffic.change(self._netlink, self.endpoints(container_id), terms)

    async def connect(
        self,
        endpoint: Endpoint,
        pid: int,
        ifname: str = "eth0",
        default_route: bool = True,
        cable: Cable | None = None,
    ) -> None:
        """Plug the network namespace of process `pid` into the endpoint's network, as interface `ifname`, or
        over a `cable` that has been laid there.

        Loopback, address and the default route (not on an internal network) are set as well, and packets pass
        when it returns. Raises Unavailable if the process is gone, Conflict if the bridge is full.
        """
        network = self.get(endpoint.network)
        if network.name not in self._settled:
            await self._settle(network)
        if cable is None:
            cable = await self._lay_now(network, endpoint, pid, ifname)
            self._use(cable, network, endpoint, pid, default_route)
            await veths.forwards(self._netlink, cable.host_ifname)
            return
        self._use(cable, network, endpoint, pid, default_route)
        if not await veths.forwards(self._netlink, cable.host_ifname):
            raise Unavailable(
                f"cable {cable.host_ifname} leads to no bridge of network {network.name} any more: start the "
                "container again"
            )

    # ---- published ports -------------------------------------------------------------------------

    def published(self, container_id: str) -> builtins.list[Publication]:
        """What a container has published."""
        return self._ports.of(container_id)

    async def publish(
        self, container_id: str, mappings: Sequence[M], ip: str, *, taking_over: str | None = None
    ) -> builtins.list[M]:
        """Make `mappings` what the container publishes, in one transaction; returns them filled in.

        Ports that it published before and that are not among them are taken back. A mapping without a port of
        the host gets a free one, and keeps it. With `taking_over` the ports of that container may be among
        the mappings: new connections go to the new one from then on, those of before stay where they are.
        Raises Conflict naming who has a port, InvalidSpec.
        """
        self._check_target(container_id, mappings, ip)
        change = plan(self._ports, container_id, mappings, ip, taking_over)
        self._store.change_publications(change.removed, change.added)
        try:
            await self._apply(change)
        except MooringError:
            undo = change.inverse()
            self._ports.forget(publication.key for publication in change.added)
            for publication in undo.added:
                self._ports.restore(publication)
            self._store.change_publications(undo.removed, undo.added)
            raise
        return change.filled(mappings)

    async def unpublish(self, container_id: str) -> None:
        """Take back all ports that a container has published."""
        removed = tuple(self._ports.of(container_id))
        if not removed:
            return
        self._ports.forget(publication.key for publication in removed)
        self._store.change_publications(removed, ())
        await self._apply(Change(removed, ()))

    # ---- inside ---------------------------------------------------------------------------------

    @property
    def _netlink(self) -> RouteSocket:
        if self._opened is None:
            self._opened = RouteSocket()
        return self._opened

    def _check_bridges(self) -> builtins.list[str]:
        found = []
        for network in self._networks.values():
            found += bridges.differences(self._netlink, network, self._endpoints_on(network.name))
        return found

    def _check_traffic(self) -> builtins.list[str]:
        mine = [endpoint for each in self._endpoints.values() for endpoint in each.values()]
        return self._traffic.differences(self._netlink, mine)

    def _restore_traffic(self) -> builtins.list[str]:
        """Guard and limit all cables; what could not be done, a sentence each."""
        try:
            mine = [endpoint for each in self._endpoints.values() for endpoint in each.values()]
            self._traffic.restore(self._netlink, mine)
        except MooringError as error:
            return [error.message]
        return []

    async def _check_firewall(self) -> builtins.list[str]:
        if not self._networks:
            return []
        try:
            phrases = await self._firewall.differences()
        except MooringError as error:
            return [error.message]
        return [f"nftables table {self._config.nft_table}: {phrase}" for phrase in phrases]

    def _pool(self, network: Network) -> AddressPool:
        taken = {
            ipaddress.IPv4Address(endpoint.ipv4): endpoint.container_id
            for endpoint in self._endpoints_on(network.name)
        }
        return AddressPool(
            network.name, network.subnet, network.gateway, taken=taken, describe=self._container_name
        )

    def _endpoints_on(self, network: str) -> Collection[Endpoint]:
        return [mine[network] for mine in self._endpoints.values() if network in mine]

    def _add(self, name: str, spec: Mapping[str, Any]) -> Network:
        """Decide on a network, note it, and make its bridge; the firewall follows in `_settle`."""
        if name in self._networks:
            raise Conflict(f"network {name} exists already; remove it first, or choose another name")
        subnet = self.plan_subnet(name, spec)
        used = {network.number for network in self._networks.values()} | self._retiring
        number = next(number for number in range(len(used) + 1) if number not in used)
        network = Network(
            name=name,
            number=number,
            driver=spec.get("driver", "bridge"),
            subnet=subnet,
            gateway=ipaddress.IPv4Address(spec.get("gateway", subnet.network_address + 1)),
            nat=spec.get("nat", True),
            internal=spec.get("internal", False),
            labels=spec.get("labels", {}),
            bridge=f"{self._config.bridge_prefix}{number}",
            created_at=time.time(),
        )
        with self._database.transaction():
            self._store.add_network(network)
            self._bridges[name] = bridges.ensure(self._netlink, network)
        self._networks[name] = network
        self._pools[name] = self._pool(network)
        return network

    async def _settle(self, network: Network) -> None:
        """See to it that the firewall knows a network."""
        async with self._settling:
            if network.name in self._settled:
                return
            if network.name not in self._bridges:
                self._bridges[network.name] = bridges.ensure(self._netlink, network)
            if self._firewall_made:
                await self._firewall.apply(ruleset.add_network(self._firewall.table, network))
            else:
                await self._firewall.rewrite()
                self._firewall_made = True
            self._settled.add(network.name)

    async def _drop(self, network: Network) -> None:
        self._store.remove_network(network.name)
        for known in (self._networks, self._pools, self._bridges):
            known.pop(network.name, None)
        made, settled = self._firewall_made, network.name in self._settled
        self._settled.discard(network.name)
        self._firewall_made = made and bool(self._networks)
        self._retiring.add(network.number)
        try:
            await asyncio.to_thread(rtnetlink.remove_links, [network.bridge])
        finally:
            self._retiring.discard(network.number)
        if made and not self._networks:
            await self._firewall.remove()
        elif settled:
            await self._firewall.apply(ruleset.remove_network(self._firewall.table, network))

    def _use(self, cable: Cable, network: Network, endpoint: Endpoint, pid: int, default_route: bool) -> None:
        try:
            self._traffic.admit(self._netlink, endpoint, cable.host_ifname, cable.outer)
            veths.configure(cable, network, endpoint, default_route)
        except OSError as error:
            raise veths.failure(error, endpoint, pid) from error
        self._note_ifname(endpoint, cable.host_ifname)

    async def _lay_now(self, network: Network, endpoint: Endpoint, pid: int, ifname: str) -> Cable:
        name = veths.host_ifname(endpoint.container_id, network.name)
        where = network, name, pid, ifname, self._traffic.guard
        try:
            return veths.lay(self._netlink, self._bridges[network.name], *where)
        except OSError:
            # Once more, without what a dying namespace may have left, and with the bridge repaired.
            await asyncio.to_thread(rtnetlink.remove_links, [name])
            before = self._bridges[network.name]
            self._bridges[network.name] = now = bridges.ensure(self._netlink, network)
            if now != before:
                bridges.plug_in(self._netlink, network, self._endpoints_on(network.name))
            try:
                return veths.lay(self._netlink, now, *where)
            except OSError as error:
                raise veths.failure(error, endpoint, pid) from error

    def _note_ifname(self, endpoint: Endpoint, name: str) -> None:
        """The outer end of an endpoint's cable has this name from now on; repairs look for it."""
        if endpoint.host_ifname == name:
            return
        renamed = dataclasses.replace(endpoint, host_ifname=name)
        self._store.rename_cable(renamed)
        self._endpoints[endpoint.container_id][endpoint.network] = renamed

    def _check_target(self, container_id: str, mappings: Sequence[Mapped], ip: str) -> None:
        if not mappings:
            return
        endpoint = next((item for item in self.endpoints(container_id) if item.ipv4 == ip), None)
        if endpoint is None:
            raise InvalidSpec(
                f"ports of container {self._container_name(container_id)} cannot lead to {ip}: "
                "it has no such address; attach it to a network"
            )
        if self.get(endpoint.network).internal:
            raise InvalidSpec(
                f"ports of container {self._container_name(container_id)} cannot be published: network "
                f"{endpoint.network} is internal; attach it to another network first"
            )

    async def _apply(self, change: Change) -> None:
        table = self._firewall.table
        commands = [ruleset.remove_publication(table, publication) for publication in change.removed]
        commands += (ruleset.add_publication(table, publication) for publication in change.added)
        if commands and self._firewall_made:
            await self._firewall.apply(commands)
        elif change.added:
            await self._firewall.rewrite()
            self._firewall_made = True
