# SPDX-License-Identifier: Apache-2.0
"""What of a container changes while it lives: limits, networks, published ports, names, and what only the
agent goes by.
"""

from __future__ import annotations

from ..errors import Conflict, MooringError, NotFound
from ..keeper import messages
from ..network.service import NetworkService
from .attaching import Attaching
from .container import Container
from .events import EventBus
from .launching import Launching, resources_of
from .lifecycle import Lifecycle
from .naming import Naming
from .registry import Registry
from .resources import ContainerSpec, NetworkAttachment, compare, merge
from .resources.attachments import is_alone, is_fixed
from .terms import terms_of

_LIMITS = (
    "memory",
    "memory_reservation",
    "memory_swap",
    "cpus",
    "cpu_shares",
    "cpuset_cpus",
    "cpuset_mems",
    "pids_limit",
)
_NAMES = ("networks", "dns", "dns_search", "dns_options", "extra_hosts")


class LiveChanges:
    """Changes containers without replacing them."""

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        launching: Launching,
        networks: NetworkService,
        attaching: Attaching,
        events: EventBus,
        naming: Naming,
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._launching = launching
        self._networks = networks
        self._attaching = attaching
        self._events = events
        self._naming = naming

    async def apply(self, container: Container, wanted: ContainerSpec, *, managed: bool) -> None:
        """Bring a container to a spec that differs from its own in live options only; all or nothing."""
        fields = {change.field for change in compare(container.spec, wanted)}
        async with container.lock:
            if container.running and fields.intersection(_LIMITS):
                self._launching.hierarchy.group(container.group).apply(resources_of(wanted))
            if "networks" in fields:
                # What has been prepared for a start has an address that may be another one's soon.
                await self._lifecycle.berthing.forget(container)
                await self._attaching.attach(container, wanted)
            terms_change = container.running and fields.intersection(("networks", "network_limits"))
            try:
                if terms_change:
                    self._networks.change_terms(container.id, terms_of(wanted))
                if container.running and "ports" in fields:
                    await self._lifecycle.switching.change(container, wanted.ports)
                if container.running and "log" in fields:
                    limits = messages.SetLog(container.id, wanted.log.max_size, wanted.log.max_files)
                    await self._lifecycle.link.request(limits)
            except MooringError:
                if "networks" in fields:
                    await self._attaching.settle(container)
                if terms_change:
                    self._networks.change_terms(container.id, terms_of(container.spec))
                raise
            if "stop_signal" in fields:
                container.stop_signal = wanted.stop_signal or "TERM"
                self._registry.save_resolved(container)
            self._registry.save_spec(container, wanted, managed=managed)
            if "network_class" in fields:
                await self._networks.classify()
            if "networks" in fields:
                await self._resettle(container)
            if container.running and fields.intersection(_NAMES):
                await self._naming.changed(container)
                self._launching.write_etc(container)

    async def settle(self, container: Container) -> None:
        """Bring a change of its networks to its end that was cut off when an agent was killed."""
        async with container.lock:
            await self._resettle(container)

    async def connect(self, container: Container, attachment: NetworkAttachment) -> None:
        """Attach it to one more network. Raises Conflict if it is there, or has another one's networks."""
        present = container.spec.networks
        if any(network.name == attachment.name for network in present):
            raise Conflict(f"container {container.name} is on network {attachment.name} already")
        self._require_own(container)
        kept = [network for network in present if not is_alone(network.name)]
        await self._set_networks(container, [*kept, attachment])
        self._tell(container, "connect", attachment.name)

    async def disconnect(self, container: Container, name: str) -> None:
        """Take it off a network. Raises NotFound if it is not there."""
        self._require_own(container)
        kept = [network for network in container.spec.networks if network.name != name]
        if len(kept) == len(container.spec.networks) or is_alone(name):
            raise NotFound(f"container {container.name} is not on network {name}")
        await self._set_networks(container, kept)
        self._tell(container, "disconnect", name)

    async def add_alias(self, container: Container, network: str, alias: str) -> None:
        """Give it one more name on a network that it is on. Raises Conflict if it is declared without."""
        present = next(one for one in container.spec.networks if one.name == network)
        if alias == container.name or alias in present.aliases:
            return
        if container.managed:
            raise Conflict(
                f"container {container.name} is declared, and not with the alias {alias} on network "
                f"{network}; declare it there"
            )
        named = NetworkAttachment.parse({**present.differing(), "aliases": [*present.aliases, alias]})
        await self._set_networks(
            container, [named if one is present else one for one in container.spec.networks]
        )

    def _require_own(self, container: Container) -> None:
        name = container.spec.networks[0].name
        if is_fixed(name):
            raise Conflict(
                f'container {container.name} has the network "{name}", which is not its own, so that it '
                "cannot be attached to others or leave it; replace it"
            )

    async def _set_networks(self, container: Container, networks: list[NetworkAttachment]) -> None:
        given = [network.differing() for network in networks]
        await self.apply(container, merge(container.spec, {"networks": given}), managed=container.managed)

    def _tell(self, container: Container, action: str, network: str) -> None:
        driver = self._networks.get(network).driver
        self._events.publish(
            "network", action, network, {"name": network, "type": driver, "container": container.id}
        )

    async def _resettle(self, container: Container) -> None:
        """Take it off the networks that it has left; ports that led to it there lead elsewhere then."""
        before = self._networks.port_address(container.endpoints) if container.ports else ""
        await self._attaching.settle(container)
        if container.ports and self._networks.port_address(container.endpoints) != before:
            await self._lifecycle.switching.change(container, container.spec.ports)
