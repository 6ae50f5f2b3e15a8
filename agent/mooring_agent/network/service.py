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
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from ..errors import Conflict, InvalidSpec, MooringError
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from . import bridges, making, overlaykeys, planning, portrules, routing, ruleset, specs
from .cabling import Cabling
from .config import NetworkConfig
from .drift import DriftWatch, KeptTable, Tell
from .driver import Sight
from .drivers import make_drivers
from .firewall import Firewall
from .leases import Leases, free_ifname
from .obstacles import Obstacles
from .overlaykeys import OverlayKeys
from .published import PublishedPorts
from .publishing import Change, Mapped, Target
from .records import Endpoint, Network, Publication, Subnet
from .register import Register
from .rulestable import RulesTable
from .store import NetworkStore, StateFile
from .traffic import PLAIN_TERMS, Terms, Traffic
from .veths import Cable

M = TypeVar("M", bound=Mapped)


class NetworkService:
    """All networks of an agent. `container_name` puts a container's id into words for messages, `terms_of`
    tells what the container is allowed. `start` comes first; what is no coroutine touches no nftables.
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
        self._leases = Leases(database, self._store, container_name)
        self.ports = PublishedPorts(self._store, container_name, self._apply)
        self._firewall = Firewall(config.nft_table, lambda: (self._filtered(), list(self.ports)))
        self.obstacles = Obstacles(lambda: self._firewall.obstacles(config.bridge_prefix))
        self._firewall_made = False
        self._settled: set[str] = set()
        self._settling = asyncio.Lock()
        self._opened: RouteSocket | None = None
        self._traffic = Traffic(config.bridge_prefix, terms_of)
        self._rules = RulesTable(self._firewall, self._filtered, self._leases, self._traffic)
        self.tables: list[KeptTable] = [self._rules]  # which are watched and repaired beside the firewall
        self.keys = OverlayKeys(config.data_root / overlaykeys.FILE)
        drivers = make_drivers(self._traffic.guard, self.keys)
        self._networks = Register(config, database, self._store, self._leases, drivers, lambda: self._netlink)
        self._cabling = Cabling(drivers, self._leases, self._traffic, lambda: self._netlink)
        self._drift: DriftWatch | None = None

    # ---- the agent's life ------------------------------------------------------------------------

    async def start(self) -> builtins.list[str]:
        """Take up what the state file says, and repair the kernel's part. Returns what had to be repaired."""
        self._networks.restore()
        return self.ports.restore() + await self.repair()

    def watch(self, tell: Tell) -> None:
        """Repair from now on what others change of ours; `tell` is told what that was, and whether all is
        well again. Raises OSError if the kernel does not tell of changes.
        """
        others = self.obstacles.suspect
        self._drift = DriftWatch(self._config.nft_table, self.tables, self._look, self.repair, tell, others)
        self._watch_bridges()

    async def stop(self) -> None:
        """Close what is open. Bridges, addresses and published ports stay, and work on."""
        if self._drift is not None:
            self._drift.close()
        self.obstacles.close()
        await self._rules.close()
        await asyncio.to_thread(self._firewall.close)
        self.ports.close()
        await self._traffic.close()
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def check(self) -> builtins.list[str]:
        """What in the kernel is not as declared, a sentence each; empty if all is well."""
        found = self._check_links() + await self._check_firewall()
        return found + [what for kept in self.tables for what in await kept.differences()]

    async def repair(self) -> builtins.list[str]:
        """Make the kernel what it should be, touching only what is not so.

        Returns what `check` found before, and what could not be repaired; that is tried again by `connect`.
        """
        found = self._check_links()
        for network in self._networks.laid():
            try:
                self._networks.ensure(network)
                self._networks.driver(network).restore(self._netlink, network, self._leases.on(network.name))
            except MooringError as error:
                found.append(error.message)
        try:
            self._traffic.restore(self._netlink, self._leases.all())
        except MooringError as error:
            found.append(error.message)
        wrong = await self._check_firewall()
        try:
            if wrong:
                await self._firewall.rewrite()
            self._firewall_made = bool(self._filtered())
            self._settled.update(self._networks.ensured)
            self._watch_bridges()
        except MooringError as error:
            wrong.append(error.message)
        return found + wrong + [what for kept in self.tables for what in await kept.repair()]

    async def teardown(self) -> None:
        """Remove everything of this agent's networks, from the kernel and from the state file."""
        links = [endpoint.host_ifname for endpoint in self._leases.all()]
        for network in self._networks.laid():
            links += self._networks.driver(network).links(self._netlink, network)
            self._networks.driver(network).forget(network)
        self._store.clear()
        self.ports.clear()
        self._leases.clear()
        self._networks.clear()
        self._settled.clear()
        made, self._firewall_made = self._firewall_made, False
        if made:
            await self._firewall.remove()
        await self._rules.remove()
        await asyncio.to_thread(rtnetlink.remove_links, filter(None, links))
        self._traffic.teardown(self._netlink)

    # ---- networks --------------------------------------------------------------------------------

    def list(self) -> builtins.list[Network]:
        """All networks, the oldest first."""
        return list(self._networks)

    def get(self, name: str) -> Network:
        """The network of this name. Raises NotFound."""
        return self._networks.get(name)

    async def create(self, name: str, spec: Mapping[str, Any]) -> Network:
        """Make a network. Raises InvalidSpec, and Conflict where it clashes with the host or another one."""
        network = self._networks.add(specs.check_name(name), specs.normalise_spec(spec))
        self._watch_bridges()
        try:
            await self._settle(network)
        except MooringError:
            await self._drop(network)
            raise
        return network

    def foresee_default(self) -> None:
        """See `Register.foresee_default`."""
        self._networks.foresee_default()

    async def update(self, name: str, spec: Mapping[str, Any]) -> Network:
        """Make a network what `spec` says, while its containers run on: `specs.LIVE`.

        Raises Conflict for a change that would need another network, NotFound, InvalidSpec.
        """
        self._wake(name)
        before, after = self.get(name), self.plan_update(name, spec)
        driver = self._networks.driver(after)
        if (before.rules, before.overlay) != (after.rules, after.overlay):
            making.change(driver, self._netlink, before, after)
        self._networks.change(after)
        if driver.filtered and ruleset.in_full(before) != ruleset.in_full(after):
            await self._firewall.rewrite()
        await self._rules.refresh()
        return after

    async def remove(self, name: str) -> None:
        """Remove a network. Raises NotFound, and Conflict naming the containers while there are any on it."""
        network = self.get(name)
        users = self._leases.on(name)
        if users:
            names = ", ".join(sorted(self._container_name(endpoint.container_id) for endpoint in users))
            raise Conflict(f"network {name} is in use by {names}; remove these containers first")
        await self._drop(network)

    def plan_subnets(self, name: str, spec: Mapping[str, Any]) -> tuple[Subnet | None, Subnet | None]:
        """The IPv4 and the IPv6 subnet that `create` would give to a network now; None where it has none.

        Raises Conflict, InvalidSpec.
        """
        specs.check_name(name)
        return self._networks.plan_subnets(name, specs.normalise_spec(spec))

    def plan_update(self, name: str, spec: Mapping[str, Any]) -> Network:
        """What `update` would make of a network; raises what it would raise."""
        return planning.changed(self.get(name), specs.normalise_spec(spec), self._netlink)

    # ---- endpoints -------------------------------------------------------------------------------

    def allocate(
        self,
        network: str,
        container_id: str,
        ipv4: str | None = None,
        ipv6: str | None = None,
        mac: str | None = None,
    ) -> Endpoint:
        """Give a container its addresses on a network, those it wants or free ones, and keep them until
        `release`; asked again it answers the same.

        The network "bridge" gets its part of the host with the first one. Raises NotFound, Conflict,
        InvalidSpec.
        """
        self._wake(network)
        return self._leases.allocate(self.get(network), container_id, ipv4, ipv6, mac)

    def endpoints(self, container_id: str) -> tuple[Endpoint, ...]:
        """The endpoints of a container."""
        return self._leases.of(container_id)

    def members(self, network: str) -> builtins.list[Endpoint]:
        """The endpoints on a network."""
        return self._leases.on(network)

    def owners(self) -> builtins.list[str]:
        """The containers that have an endpoint or a published port."""
        return list({*self._leases.owners(), *(publication.container_id for publication in self.ports)})

    def release(self, container_id: str, network: str | None = None) -> None:
        """Take a container's addresses back, those on one network or all. Its veths go by themselves, with
        its network namespace.
        """
        self._traffic.forget(self._leases.of(container_id), network)
        self._leases.release(container_id, network)
        self._rules.refresh_soon()

    def renamed(self) -> None:
        """Have rules that name containers follow those that are called something else now."""
        self._rules.refresh_soon()

    def is_in_rules(self, name: str) -> bool:
        """Whether rules name the container of this name, so that they are to know it before it starts."""
        return self._rules.names(name)

    async def classify(self) -> None:
        """Terms of containers say other classes of traffic."""
        await self._rules.refresh()

    async def change_terms(self, container_id: str, terms: Terms) -> None:
        """Bring the cables of a container to what it is allowed from now on. Raises MooringError."""
        await self._traffic.change(self._netlink, self._leases.of(container_id), terms)

    def lay_cable(self, name: str, pid: int) -> Cable | None:
        """Lead a cable of the network `name` into the network namespace of process `pid`, as eth0, before it
        is known whose it will be; None where that is not possible at the moment.
        """
        return self._cabling.lay_ahead(self.get(name), pid) if name in self._settled else None

    def interface_names(self, endpoints: Sequence[Endpoint]) -> builtins.list[str]:
        """What the interfaces of a container that is about to start are called, in this order."""
        names: builtins.list[str] = []
        for endpoint in endpoints:
            names.append(free_ifname(self.get(endpoint.network), names))
        return names

    def default_routes(
        self, endpoints: Sequence[Endpoint], preferred: Collection[str] = ()
    ) -> dict[str, tuple[int, ...]]:
        """See `routing.default_routes`."""
        return routing.default_routes(endpoints, self._networks.known, preferred)

    async def connect(
        self,
        endpoint: Endpoint,
        pid: int,
        ifname: str = "eth0",
        default_routes: Collection[int] = (4, 6),
        cable: Cable | None = None,
        sysctls: Mapping[str, str] | None = None,
        link_local: Collection[str] = (),
    ) -> None:
        """Plug the network namespace of process `pid` into the endpoint's network, as interface `ifname`, or
        over a `cable` that has been laid there.

        Loopback, the interface's `sysctls`, addresses (`link_local` ones too) and the default routes of these
        IP versions (none on an internal network) are set as well, and packets pass when it returns. Raises
        Unavailable if the process is gone, Conflict if the network is full or the container has what it
        brings, NotFound if something of the host is missing.
        """
        network, endpoint = self.get(endpoint.network), self._leases.current(endpoint)
        if network.name not in self._settled:
            await self._settle(network)
        name = self._container_name(endpoint.container_id)
        if self._rules.names(name) or self._traffic.has_class(endpoint.container_id):
            await self._rules.refresh()
        await self._cabling.plug(
            network, endpoint, pid, ifname, default_routes, sysctls or {}, link_local, cable
        )

    async def disconnect(self, container_id: str, network: str, pid: int | None = None) -> None:
        """Take a container off a network, and its addresses there back; `pid` is its process, if it runs.

        Does nothing if it is not there.
        """
        endpoint = next((one for one in self._leases.of(container_id) if one.network == network), None)
        if endpoint is None:
            return
        if pid is not None:
            await self.unplug(endpoint, pid)
        self.release(container_id, network)

    async def unplug(self, endpoint: Endpoint, pid: int) -> None:
        """Take an endpoint's interface from the network namespace of process `pid`; it keeps them."""
        await self._cabling.unplug(endpoint, pid)

    def reroute(self, endpoints: Sequence[Endpoint], pid: int, preferred: Collection[str] = ()) -> None:
        """Lead the default routes of a running container where they belong after its networks changed."""
        self._cabling.route(endpoints, pid, self.default_routes(endpoints, preferred))

    # ---- published ports -------------------------------------------------------------------------

    def published(self, container_id: str) -> builtins.list[Publication]:
        """What a container has published."""
        return self.ports.of(container_id)

    def port_address(self, endpoints: Sequence[Endpoint]) -> str:
        """The address of a container that its published ports lead to; "" where none of its networks has one.

        It is that on its first network that the firewall knows and that is not internal.
        """
        known = [
            endpoint for endpoint in endpoints if self._networks.driver(self.get(endpoint.network)).filtered
        ]
        known.sort(key=lambda endpoint: self.get(endpoint.network).internal)
        return next((endpoint.addresses[0] for endpoint in known), "")

    def bound(self, endpoints: Sequence[Endpoint], mappings: Collection[M]) -> builtins.list[M]:
        """Mappings that name no address of the host, at that which the network says that they lead to."""
        address = self.port_address(endpoints)
        found = next((one.network for one in endpoints if address in one.addresses), None)
        default = "" if found is None else self.get(found).publish_address
        if not default:
            return list(mappings)
        return [one if one.host_ip else dataclasses.replace(one, host_ip=default) for one in mappings]

    async def publish(
        self, container_id: str, mappings: Sequence[M], ip: str, *, taking_over: str | None = None
    ) -> builtins.list[M]:
        """Make `mappings` what the container publishes, in one transaction; returns them filled in.

        They lead to the endpoint whose address is `ip`, at both of its addresses if it has two. Ports that it
        published before and that are not among them are taken back. A mapping without a port of the host gets
        a free one, and keeps it. With `taking_over` the ports of that container go over: new connections go
        to the new one from then on, those of before stay where they are. Raises Conflict naming who has a
        port, InvalidSpec.
        """
        target = self._target(container_id, mappings, ip)
        return await self.ports.publish(container_id, mappings, target, taking_over)

    async def unpublish(self, container_id: str) -> None:
        """Take back all ports that a container has published."""
        await self.ports.unpublish(container_id)

    # ---- inside ---------------------------------------------------------------------------------

    @property
    def _netlink(self) -> RouteSocket:
        if self._opened is None:
            self._opened = RouteSocket()
        return self._opened

    def _wake(self, name: str) -> None:
        if self._networks.wake(name):
            self._watch_bridges()

    async def _look(self) -> builtins.list[str]:
        self._watch_bridges()
        return await self.check()

    def _watch_bridges(self) -> None:
        if self._drift is not None:
            names = planning.own_links(self._networks.laid())
            self._drift.watch_bridges(bridges.present(self._netlink, names))

    def _check_links(self) -> builtins.list[str]:
        found, sight = [], Sight.of(self._netlink)
        for network in self._networks.laid():
            endpoints = self._leases.on(network.name)
            found += self._networks.driver(network).differences(self._netlink, sight, network, endpoints)
        return found + self._traffic.differences(self._netlink, self._leases.all())

    def _filtered(self) -> builtins.list[Network]:
        """The networks that our nftables table knows."""
        return self._networks.filtered()

    async def _check_firewall(self) -> builtins.list[str]:
        if not self._filtered():
            return []
        try:
            phrases = await self._firewall.differences()
        except MooringError as error:
            return [error.message]
        return [f"nftables table {self._config.nft_table}: {phrase}" for phrase in phrases]

    async def _settle(self, network: Network) -> None:
        """See to it that the firewall knows a network."""
        async with self._settling:
            if network.name in self._settled:
                return
            if network.name not in self._networks.ensured:
                self._networks.ensure(network)
            if not self._networks.driver(network).filtered:
                pass
            elif self._firewall_made and not ruleset.reachable(self._filtered()):
                await self._firewall.apply(ruleset.add_network(self._firewall.table, network))
            else:
                await self._firewall.rewrite()
                self._firewall_made = True
            await self._rules.refresh()
            self._settled.add(network.name)
            self.obstacles.suspect()

    async def _drop(self, network: Network) -> None:
        self._networks.forget(network)
        driver = self._networks.driver(network)
        links = [] if network.waiting else driver.links(self._netlink, network)
        driver.forget(network)
        made, settled = self._firewall_made, network.name in self._settled
        self._settled.discard(network.name)
        self._firewall_made = made and bool(self._filtered())
        self._networks.retire(network.number)
        try:
            await asyncio.to_thread(rtnetlink.remove_links, links)
        finally:
            self._networks.retired(network.number)
        if made and not self._firewall_made:
            await self._firewall.remove()
        elif settled and ruleset.reachable([*self._filtered(), network]):
            await self._firewall.rewrite()
        elif settled and driver.filtered:
            await self._firewall.apply(ruleset.remove_network(self._firewall.table, network))
        await self._rules.refresh()

    def _target(self, container_id: str, mappings: Sequence[Mapped], ip: str) -> Target:
        """Where ports of a container lead to. Raises InvalidSpec."""
        if not mappings:
            return Target("")
        endpoint = next((item for item in self.endpoints(container_id) if ip in item.addresses), None)
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
        return Target(endpoint.ipv4 or "", endpoint.ipv6 or "")

    async def _apply(self, change: Change) -> None:
        commands = portrules.change(self._firewall.table, change.before, change.after)
        if commands and self._firewall_made:
            await self._firewall.apply(commands)
        elif change.after:
            await self._firewall.rewrite()
            self._firewall_made = True
