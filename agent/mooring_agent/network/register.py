# SPDX-License-Identifier: Apache-2.0
"""Which networks there are, in the state file and on the host: added, changed, forgotten.

The network that containers are on which name none is there from the start, with its subnet, for those who
look for it. Until somebody comes onto it, it waits: it costs the host nothing.
"""

from __future__ import annotations

import builtins
import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..linux.rtnetlink import RouteSocket
from . import making, planning, specs
from .config import NetworkConfig
from .driver import Driver
from .leases import Leases
from .records import Network, Subnet
from .store import NetworkStore, StateFile

logger = logging.getLogger(__name__)


class Register:
    """All networks of an agent, by their names in `known`; `ensured` are those whose part of the host has
    been seen to. `netlink` gives the agent's own socket of the host's namespace.
    """

    def __init__(
        self,
        config: NetworkConfig,
        database: StateFile,
        store: NetworkStore,
        leases: Leases,
        drivers: Mapping[str, Driver],
        netlink: Callable[[], RouteSocket],
    ) -> None:
        self._config = config
        self._database = database
        self._store = store
        self._leases = leases
        self._drivers = drivers
        self._netlink = netlink
        self._retiring: set[int] = set()
        self.known: dict[str, Network] = {}
        self.ensured: set[str] = set()

    def __iter__(self) -> Iterator[Network]:
        return iter(self.known.values())

    def restore(self) -> None:
        """Take up what the state file says."""
        self.known |= {network.name: network for network in self._store.networks()}
        self._leases.restore()
        for network in self:
            self._open_leases(network)
        self.foresee_default()

    def get(self, name: str) -> Network:
        """The network of this name. Raises NotFound."""
        network = self.known.get(name)
        if network is None:
            known = ", ".join(self.known) or "none yet"
            raise NotFound(f"network {name} does not exist (there is {known}); create it first")
        return network

    def driver(self, network: Network) -> Driver:
        """What sees to its part of the host."""
        return self._drivers[network.driver]

    def laid(self) -> builtins.list[Network]:
        """Those that have their part of the host, the oldest first."""
        return [network for network in self if not network.waiting]

    def filtered(self) -> builtins.list[Network]:
        """Those of them that our nftables table knows."""
        return [network for network in self.laid() if self.driver(network).filtered]

    def ensure(self, network: Network) -> None:
        """See to its part of the host. Raises as `Driver.ensure`."""
        self.driver(network).ensure(self._netlink(), network)
        self.ensured.add(network.name)

    def plan_subnets(self, name: str, normal: Mapping[str, Any]) -> tuple[Subnet | None, Subnet | None]:
        """The IPv4 and the IPv6 subnet that `add` would give to a network now; None where it has none. Raises
        Conflict, InvalidSpec.
        """
        others = [network for network in self if network.name != name]
        return planning.plan_subnets(name, normal, others, self._netlink(), self._config)

    def add(self, name: str, normal: Mapping[str, Any], *, waiting: bool = False) -> Network:
        """Decide on a network, note it, and make its part of the host unless it is to wait. Raises Conflict,
        InvalidSpec, and as `Driver.ensure`.
        """
        try:
            return self._add(name, normal, waiting)
        finally:
            if not waiting:
                self.foresee_default()  # which may have made way

    def _add(self, name: str, normal: Mapping[str, Any], waiting: bool) -> Network:
        if name in self.known:
            raise Conflict(f"network {name} exists already; remove it first, or choose another name")
        subnets = self.plan_subnets(name, normal)
        used = {network.number for network in self} | self._retiring
        number = next(number for number in range(len(used) + 1) if number not in used)
        bridge = f"{self._config.bridge_prefix}{number}"
        if normal.get("bridge_name", "").startswith(self._config.bridge_prefix):
            raise InvalidSpec(
                f"network option bridge_name is {normal['bridge_name']}: names that begin with "
                f"{self._config.bridge_prefix} are those that this agent gives itself; choose another one"
            )
        holder = next((other.name for other in self if other.bridge == normal.get("bridge_name")), None)
        if holder is not None:
            raise Conflict(
                f"network {name} cannot have the bridge {normal['bridge_name']}, which is that of network "
                f"{holder}; choose another bridge_name"
            )
        decided = planning.decide(name, normal, subnets, number, bridge, self._netlink())
        network = dataclasses.replace(decided, waiting=waiting)
        self._make_way(network)
        with self._database.transaction():
            self._store.add_network(network)
            self._lay(network)
        self.known[name] = network
        self._open_leases(network)
        return network

    def change(self, network: Network) -> None:
        """It is like this from now on."""
        self._store.update_network(network)
        self.known[network.name] = network

    def wake(self, name: str) -> bool:
        """Give the default network its part of the host if it has none yet; whether that was so. It gets
        another subnet where the host has taken its own meanwhile. Raises Conflict.
        """
        network = self.known.get(name)
        if name != specs.DEFAULT_NETWORK or (network is not None and not network.waiting):
            return False
        if network is None or not self._is_free(network):
            if network is not None:
                self.forget(network)
            self.add(name, {})
            return True
        woken = dataclasses.replace(network, waiting=False)
        with self._database.transaction():
            self._store.update_network(woken)
            self._lay(woken)
        self.known[name] = woken
        return True

    def foresee_default(self) -> None:
        """Decide on the default network, unless it is there. Where that is not possible now, whoever comes
        onto it will hear why.
        """
        if specs.DEFAULT_NETWORK in self.known:
            return
        try:
            self.add(specs.DEFAULT_NETWORK, {}, waiting=True)
        except MooringError as error:
            logger.warning("no default network yet error=%r", error.message)

    def forget(self, network: Network) -> None:
        """It is none any more; its part of the host is the caller's matter."""
        self._store.remove_network(network.name)
        self._leases.close(network.name)
        self.known.pop(network.name, None)
        self.ensured.discard(network.name)

    def retire(self, number: int) -> None:
        """Give no network this number until `retired`: the links of the one that had it are going."""
        self._retiring.add(number)

    def retired(self, number: int) -> None:
        """Its links are gone."""
        self._retiring.discard(number)

    def clear(self) -> None:
        """Forget everything but what the state file says."""
        self.known.clear()
        self.ensured.clear()

    def _lay(self, network: Network) -> None:
        if not network.waiting:
            making.make(self.driver(network), self._netlink(), network)
            self.ensured.add(network.name)

    def _open_leases(self, network: Network) -> None:
        self._leases.open(network, self.driver(network).reserved(self._netlink(), network))

    def _make_way(self, network: Network) -> None:
        """Let the one that waits choose again, if it had chosen what somebody asks for by name."""
        for other in [one for one in self if one.waiting and planning.overlap(one, network)]:
            self.forget(other)

    def _is_free(self, network: Network) -> bool:
        """Whether nobody else of the host has the subnet of one that waits."""
        try:
            self.plan_subnets(network.name, {"subnet": str(network.subnets[0].cidr)})
        except Conflict:
            return False
        return True
