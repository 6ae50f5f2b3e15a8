# SPDX-License-Identifier: Apache-2.0
"""What of a container changes while it lives: limits, networks, published ports, names, and what only the
agent goes by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields as fields_of
from typing import Any

from ..cgroups.resources import Resources
from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..keeper import messages
from ..network.service import NetworkService
from .attaching import Attaching
from .container import Container
from .events import EventBus
from .forwarding.forwarding import Forwarding
from .health import settled
from .healthchecks import HealthChecks
from .launching import Launching, resources_of
from .lifecycle import Lifecycle
from .naming import Naming
from .registry import Registry
from .resources import ContainerSpec, NetworkAttachment, compare, merge
from .resources.attachments import is_alone, is_fixed
from .terms import terms_of

_LIMITS = tuple(field.name for field in fields_of(Resources))
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
        health: HealthChecks,
        forwarding: Forwarding,
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._launching = launching
        self._networks = networks
        self._attaching = attaching
        self._events = events
        self._naming = naming
        self._health = health
        self._forwarding = forwarding

    async def apply(self, container: Container, wanted: ContainerSpec, *, managed: bool) -> None:
        """Bring a container to a spec that differs from its own in live options only; all or nothing."""
        async with container.lock:
            await self._apply(container, wanted, managed, ports_needed=True)

    async def update(self, container: Container, changes: Mapping[str, Any]) -> None:
        """Change some options. Raises Conflict naming those that cannot be changed live, InvalidSpec."""
        async with container.lock:
            wanted = merge(container.spec, changes)
            if wanted.state != container.spec.state:
                raise InvalidSpec(
                    f"state of container {container.name} cannot be updated to {wanted.state!r}: start or "
                    "stop it, or declare it so"
                )
            fixed = [change.field for change in compare(container.spec, wanted) if not change.live]
            if fixed:
                raise Conflict(
                    f"container {container.name} cannot change {', '.join(fixed)} while it exists: replace it"
                )
            await self._apply(container, wanted, container.managed, ports_needed=True)

    async def settle(self, container: Container) -> None:
        """Bring a change of its networks to its end that was cut off when an agent was killed."""
        async with container.lock:
            if container.running:
                await self._lifecycle.switching.follow(container, container.spec)
            await self._attaching.settle(container)

    async def connect(self, container: Container, attachment: NetworkAttachment) -> None:
        """Attach it to one more network. Raises Conflict if it is there, or has another one's networks."""
        async with container.lock:
            present = container.spec.networks
            if any(network.name == attachment.name for network in present):
                raise Conflict(f"container {container.name} is on network {attachment.name} already")
            self._require_own(container)
            kept = [network for network in present if not is_alone(network.name)]
            await self._set_networks(container, [*kept, attachment])
        self._tell(container, "connect", attachment.name)

    async def disconnect(self, container: Container, name: str) -> None:
        """Take it off a network. Raises NotFound if it is not there."""
        async with container.lock:
            self._require_own(container)
            left = self._attachment(container, name)
            await self._set_networks(container, [one for one in container.spec.networks if one is not left])
        self._tell(container, "disconnect", name)

    async def unlink(self, container: Container, alias: str) -> None:
        """Take back the name that it gives to another one. Raises NotFound if it gives none of that kind."""
        async with container.lock:
            given = container.spec.networks
            if not any(alias in one.links for one in given):
                raise NotFound(f"container {container.name} has no link {alias}")
            await self._set_networks(container, [_without_link(one, alias) for one in given])

    # With the container's lock

    async def _apply(
        self, container: Container, wanted: ContainerSpec, managed: bool, *, ports_needed: bool = False
    ) -> None:
        """See `apply`. With `ports_needed` its networks must have a way in for its ports, as in what is
        declared; who only takes it off a network leaves it without them.
        """
        self._registry.get(container.id)  # it may have been removed meanwhile
        settled(wanted, container.image_health, container.name)
        fields = {change.field for change in compare(container.spec, wanted)}
        if ports_needed and not fields.isdisjoint(("ports", "networks")):
            self._lifecycle.switching.require_way_in(container.name, wanted)
        if "log" in fields:
            self._forwarding.check_host(container.name, wanted.log)
        if "networks" in fields:
            # What has been prepared for a start has an address that may be another one's soon.
            await self._lifecycle.berthing.forget(container)
            await self._lifecycle.unless_ended(container, lambda: self._attaching.attach(container, wanted))
        running = container.running
        try:
            if running:
                await self._allow(container, wanted, fields)
            if running and "log" in fields:
                limits = messages.SetLog(container.id, wanted.log.max_size, wanted.log.max_files)
                await self._lifecycle.link.request(limits)
            if running and "ports" in fields:
                await self._lifecycle.switching.change(container, wanted.ports)
            elif running and "networks" in fields:
                await self._lifecycle.switching.follow(container, wanted)
        except MooringError:
            if "networks" in fields:
                await self._attaching.attach(container, container.spec)
                await self._attaching.settle(container)
            if running:
                await self._allow(container, container.spec, fields)
            raise
        if "stop_signal" in fields:
            container.stop_signal = wanted.stop_signal or "TERM"
            self._registry.save_resolved(container)
        log = container.spec.log
        self._registry.save_spec(container, wanted, managed=managed)
        if "log" in fields:
            await self._forwarding.change(container, log)
        if "networks" in fields:
            await self._attaching.settle(container)
        if "healthcheck" in fields:
            before = container.check
            container.settle_check()
            if container.check != before:
                self._health.changed(container)
        if container.running and fields.intersection(_NAMES):
            await self._naming.changed(container)
            self._launching.write_etc(container)
        if "network_class" in fields:
            await self._networks.classify()

    async def _allow(self, container: Container, spec: ContainerSpec, fields: set[str]) -> None:
        """Limit one that runs as a spec says, as far as that differs in these fields."""
        if fields.intersection(_LIMITS):
            self._launching.hierarchy.group(container.group).apply(resources_of(spec))
        if fields.intersection(("networks", "network_limits")):
            await self._networks.change_terms(container.id, terms_of(spec))

    def _attachment(self, container: Container, network: str) -> NetworkAttachment:
        """Its place on a network. Raises NotFound if it is not there."""
        for attachment in container.spec.networks:
            if attachment.name == network and not is_alone(network):
                return attachment
        raise NotFound(f"container {container.name} is not on network {network}")

    def _require_own(self, container: Container) -> None:
        name = container.spec.networks[0].name
        if is_fixed(name):
            raise Conflict(
                f'container {container.name} has the network "{name}", which is not its own, so that it '
                "cannot be attached to others or leave it; replace it"
            )

    async def _set_networks(self, container: Container, networks: list[NetworkAttachment]) -> None:
        given = [network.differing() for network in networks]
        await self._apply(container, merge(container.spec, {"networks": given}), container.managed)

    def _tell(self, container: Container, action: str, network: str) -> None:
        driver = self._networks.get(network).driver
        self._events.publish(
            "network", action, network, {"name": network, "type": driver, "container": container.id}
        )


def _without_link(attachment: NetworkAttachment, alias: str) -> NetworkAttachment:
    if alias not in attachment.links:
        return attachment
    links = {name: target for name, target in attachment.links.items() if name != alias}
    return NetworkAttachment.parse({**attachment.differing(), "links": links})
