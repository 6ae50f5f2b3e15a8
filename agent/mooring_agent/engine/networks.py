# SPDX-License-Identifier: Apache-2.0
"""Networks as declared resources."""

from __future__ import annotations

import asyncio
import builtins
import json
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

from ..errors import NotFound
from ..network.naming.service import NameService
from ..network.records import Network
from ..network.service import NetworkService
from ..network.specs import DEFAULT_NETWORK, normalise_spec
from ..state.database import Database
from .events import EventBus
from .outcome import Action, outcome
from .resources import NetworkSpec, compare


class Networks:
    """Declares networks. For changes that are not live a network is made anew, once it is unused. `name_of`
    puts a container's id into words, None for one that nobody has asked for yet.
    """

    def __init__(
        self,
        service: NetworkService,
        database: Database,
        events: EventBus,
        vacate: Callable[[], Awaitable[None]],
        name_of: Callable[[str], str | None],
        names: NameService,
    ) -> None:
        self._service = service
        self._vacate = vacate
        self._name_of = name_of
        self._names = names
        self._connection = database.connection
        self._events = events
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def get(self, name: str) -> dict[str, Any]:
        """The view of one. Raises NotFound."""
        return self._view(self._service.get(name))

    def list(self) -> builtins.list[dict[str, Any]]:
        """The views of all."""
        return [self._view(network) for network in self._service.list()]

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Declare a network. One that is to be different is made anew, which needs it to be unused."""
        given = normalise_spec(spec)
        wanted = NetworkSpec.parse(given, name=name)
        async with self._lock(name):
            return await self._put(name, given, wanted, dry_run)

    async def _put(
        self, name: str, given: dict[str, Any], wanted: NetworkSpec, dry_run: bool
    ) -> dict[str, Any]:
        existing = self._find(name)
        if existing is None:
            self._service.plan_subnets(name, given)
            if not dry_run:
                await self._create(name, given, wanted)
            actions = [Action("create", "network", name, "it does not exist")]
            return outcome(actions, None, wanted.given, None if dry_run else self.get(name))
        stored = self._declared(name)
        changes = compare(stored or NetworkSpec.parse({}, name=name), wanted)
        live, due = all(change.live for change in changes), bool(changes) or stored is None
        verb = "update" if live else "replace"
        actions = [Action(verb, "network", name, str(change)) for change in changes]
        before = stored.given if stored is not None else {}
        if dry_run:
            if live and due:
                self._service.plan_update(name, given)
            return outcome(actions, before, wanted.given, None)
        if not live:
            await self._remove(existing)
            await self._create(name, given, wanted)
        elif due:
            await self._service.update(name, given)
            self._names.follow_networks()
            self._keep(name, wanted)
        return outcome(actions, before, wanted.given, self.get(name))

    async def delete(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove a network. Raises Conflict while containers are on it.

        The default one is there again at once, as nobody has declared it and without a device.
        """
        async with self._lock(name):
            return await self._delete(name, dry_run)

    async def _delete(self, name: str, dry_run: bool) -> dict[str, Any]:
        existing = self._find(name)
        stored = self._declared(name)
        if existing is None or (existing.waiting and stored is None):
            return outcome([], None, None, None)
        before = stored.given if stored is not None else {}
        if not dry_run:
            await self._remove(existing)
            self._connection.execute("DELETE FROM declared WHERE kind = 'network' AND name = ?", (name,))
            self._events.publish("network", "destroy", name, {"name": name, "type": existing.driver})
            self._service.foresee_default()
        return outcome([Action("remove", "network", name, "it is not wanted")], before, None, None)

    async def public_key(self) -> str:
        """The public key of this host for encrypted networks, which is made when it is first asked for.
        Raises NotSupported.
        """
        return await asyncio.to_thread(self._service.keys.public)

    async def renew_key(self) -> str:
        """Make another key and return its public one; networks use that once they are declared with it.
        Raises NotSupported.
        """
        overlays = (network.overlay for network in self._service.list())
        used = {overlay.here.public_key for overlay in overlays if overlay is not None}
        return await asyncio.to_thread(self._service.keys.renew, used)

    def declared(self) -> builtins.list[str]:
        """The names of those that were declared, the default one aside."""
        rows = self._connection.execute("SELECT name FROM declared WHERE kind = 'network' ORDER BY name")
        return [row["name"] for row in rows if row["name"] != DEFAULT_NETWORK]

    def _lock(self, name: str) -> asyncio.Lock:
        """Whoever declares or removes a network finds it as the one before has left it."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def _remove(self, network: Network) -> None:
        await self._vacate()
        await self._service.remove(network.name)
        if network.bridge:
            await self._names.network_removed(network.bridge)

    async def _create(self, name: str, given: dict[str, Any], wanted: NetworkSpec) -> None:
        network = await self._service.create(name, given)
        self._names.follow_networks()
        self._keep(name, wanted)
        self._events.publish("network", "create", name, {"name": name, "type": network.driver})

    def _keep(self, name: str, wanted: NetworkSpec) -> None:
        self._connection.execute(
            "INSERT OR REPLACE INTO declared VALUES ('network', ?, ?, ?, '{}')",
            (name, json.dumps(wanted.given), wanted.hash),
        )

    def _declared(self, name: str) -> NetworkSpec | None:
        row = self._connection.execute(
            "SELECT spec FROM declared WHERE kind = 'network' AND name = ?", (name,)
        ).fetchone()
        return None if row is None else NetworkSpec.parse(json.loads(row["spec"]), name=name)

    def _find(self, name: str) -> Network | None:
        try:
            return self._service.get(name)
        except NotFound:
            return None

    def _view(self, network: Network) -> dict[str, Any]:
        stored = self._declared(network.name)
        return {
            **network.view(),
            "names": self._names.view(network),
            "spec": {} if stored is None else stored.given,
            "managed": stored is not None,
            "containers": {
                name: {
                    "ipv4_address": endpoint.ipv4,
                    "ipv6_address": endpoint.ipv6,
                    "mac_address": endpoint.mac,
                }
                for endpoint in self._service.members(network.name)
                if (name := self._name_of(endpoint.container_id)) is not None
            },
        }
