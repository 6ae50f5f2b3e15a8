# SPDX-License-Identifier: Apache-2.0
"""Published ports over the life of a container: when they lead to it, when to the next one, and how the
connections of before come to their end.

A replacement with `start_first` is a switch. The new container runs without ports until it answers, then all
ports go over in one transaction, then the old one's connections drain. Who has the ports tells how far a
switch has come, and is in the state file before it is in the kernel, so the next agent goes on with it.

Containers that share a port get connections from when they answer to when they are asked to stop; one that is
not healthy only while none of the others is.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace

from ..errors import Conflict, InvalidSpec, Unavailable
from ..failpoints import reached
from ..network.connections import Left, left_at
from ..network.service import NetworkService
from . import readiness
from .background import Background
from .container import Container
from .events import EventBus
from .healthchecks import HealthChecks, is_fit
from .registry import Registry
from .resources import ContainerSpec, PortMapping

logger = logging.getLogger(__name__)

# A listening socket cannot be waited for: the kernel tells nobody.
_FIRST_LOOK = 0.01
_LAST_LOOK = 0.25
# The kernel goes through all connections of the host each time that it is asked for some.
_FIRST_COUNT = 0.05
_LAST_COUNT = 0.5


class Switching:
    """Decides who has which ports. Methods that change a container's ports are called with its lock held, or
    before others know of it.
    """

    def __init__(
        self, registry: Registry, networks: NetworkService, events: EventBus, health: HealthChecks
    ) -> None:
        self._registry = registry
        self._networks = networks
        self._events = events
        self._health = health
        health.turned = self.health_turned
        self._joining = Background()

    def close(self) -> None:
        """Wait for nobody any more; ports stay as they are."""
        self._joining.close()

    def require_way_in(self, name: str, spec: ContainerSpec) -> None:
        """Refuse ports that none of the networks of a container could lead to. Raises InvalidSpec."""
        if spec.ports and spec.networks[0].name == "none":
            raise InvalidSpec(
                f'container {name}: ports cannot be published with the network "none", which gives the '
                "container no address to lead to; remove ports or attach a bridge network"
            )
        if spec.ports and (why := self.no_way_in([network.name for network in spec.networks])):
            raise InvalidSpec(
                f"container {name} cannot publish ports: {why}; remove ports, or attach it to a network of "
                "the driver bridge or overlay"
            )

    def no_way_in(self, networks: Collection[str]) -> str:
        """Why published ports could lead to no container of these networks, "" if they could, or where one is
        not there yet.
        """
        if "none" in networks:
            return "it is on no network"
        known = {network.name: network for network in self._networks.list()}
        reasons = [known[name].unpublished if name in known else "" for name in networks]
        return "; ".join(reasons) if all(reasons) else ""

    # Starts and ends

    async def publish(self, container: Container) -> None:
        """Publish the ports of a container that is about to start, unless they are or go over later. Those
        that it shares get no connections yet. Raises Conflict, InvalidSpec.
        """
        former = self._former(container)
        kept = container.ports and not any(port.balance and port.weight for port in container.ports)
        if not container.spec.ports or kept or self._is_shut_off(container.spec):
            return
        if former is not None and former.running and container.spec.update_order == "start_first":
            return  # `take_over` follows when it answers
        await self._set(container, container.spec.ports, former)

    def started(self, container: Container) -> None:
        """It runs: let those of its ports that are shared get connections as soon as it answers."""
        if any(port.balance for port in container.ports):
            self._joining.start(self._join(container))

    async def change(self, container: Container, wanted: Collection[PortMapping]) -> None:
        """Publish exactly `wanted`, while it runs. A port whose host side may be any keeps the one that it
        has. Raises Conflict, InvalidSpec.
        """
        if wanted and not self._networks.port_address(container.endpoints):
            raise Conflict(f"container {container.name} has no network that ports could be published for")
        await self._set(container, wanted, None)
        self.started(container)

    async def follow(self, container: Container, spec: ContainerSpec) -> None:
        """Its networks have become those of `spec` while it runs: its ports lead to where it is now. It has
        none while no network of its has a way in, and gets them when it has come onto one that has. Raises
        Conflict.
        """
        former = self._former(container)
        has_them = bool(container.ports) or (former is not None and former.running)
        if self._is_shut_off(spec):
            await self.give_back(container)
        elif self._is_led_astray(container) or (spec.ports and not has_them):
            await self.change(container, spec.ports)

    async def give_back(self, container: Container) -> None:
        """Take back all its ports."""
        others = list(self._sharing(container))
        await self._networks.unpublish(container.id)
        container.ports = ()
        self._reweigh_unfit(others)

    async def rest(self, container: Container) -> None:
        """It has ended, and is started again by its policy: it keeps its ports, but the shared ones, which
        lead to the others meanwhile.
        """
        if any(port.balance for port in container.ports):
            await self.give_back(container)

    async def leave(self, container: Container) -> None:
        """It is asked to end: let the ports that it shares lead to the others, and wait until its connections
        have come to their end, for as many seconds as its spec's `drain` says.
        """
        if not any(port.balance and port.weight for port in container.ports):
            return
        await self._set(container, [replace(port, weight=0) for port in container.ports], None)
        self._reweigh_unfit(self._sharing(container))
        await self.drain(container, container.spec.drain)

    def health_turned(self, container: Container) -> None:
        """Its health is another one: look again at who gets connections to the ports that it shares."""
        if any(port.balance for port in container.ports):
            self._joining.start(self._reweigh(container))
            self._reweigh_unfit(self._sharing(container))

    # Replacements

    async def take_over(self, new: Container, old: Container) -> None:
        """Let the ports of `old` lead to `new`, which runs, once that answers where `old` does; returns when
        the connections to `old` have ended, or after `drain` seconds.

        Raises Unavailable if `new` does not answer in time, is not healthy, or ends; `hand_back` undoes what
        has been done.
        """
        if not self._has_taken_over(new, old):
            await self._until_ready(new, _expected(new, old))
            reached("switch.ready")
            await self._set(new, new.spec.ports, old)
            self.started(new)
            reached("switch.moved")
            self._events.publish("container", "switch", new.id, {**new.attributes, "from": old.id})
        left = await self.drain(old, new.spec.drain, lambda: new.running)
        reached("switch.drained")
        if not new.running:
            raise Unavailable(
                f"container {new.name} ended with exit code {new.exit_code} after it had taken over"
            )
        if left:
            logger.warning(
                "not drained container=%s connections=%d seconds=%d", old.name, left, new.spec.drain
            )

    async def hand_back(self, new: Container, old: Container) -> None:
        """Give `old`, if it runs, the ports that `new` has taken over."""
        if old.running and not old.ports and old.spec.ports and not self._is_shut_off(old.spec):
            await self._set(old, old.spec.ports, new)
            self.started(old)

    async def drain(
        self, container: Container, seconds: float, while_: Callable[[], bool] = lambda: True
    ) -> int:
        """Wait until no connection is left that its ports have led to it, for some seconds at most, and only
        while it runs and `while_()`; returns how many there still are.
        """
        ports = frozenset(
            (port.protocol, address, port.container)
            for endpoint in container.endpoints
            for address in endpoint.addresses
            for port in container.spec.ports
        )
        if not ports:
            return 0
        deadline = time.monotonic() + seconds
        pause = _FIRST_COUNT
        left: Left | None = None
        while True:
            last = time.monotonic() >= deadline
            left = await left_at(ports, left, last=last)
            if not left.count or last or not container.running or not while_():
                return left.count
            remaining = max(0.0, deadline - time.monotonic())
            await asyncio.sleep(min(pause, remaining))
            pause = min(2 * pause, _LAST_COUNT)

    # Inside

    def _is_shut_off(self, spec: ContainerSpec) -> bool:
        """Whether no published port could lead to a container, which has left its networks while it lived."""
        return bool(self.no_way_in([network.name for network in spec.networks]))

    def _is_led_astray(self, container: Container) -> bool:
        """Whether its published ports lead elsewhere than they should, since its networks have changed."""
        address = self._networks.port_address(container.endpoints)
        right = [(one.ipv4 or "", one.ipv6 or "") for one in container.endpoints if address in one.addresses]
        published = self._networks.published(container.id)
        return any((one.container_ip, one.container_ipv6) not in right for one in published)

    def _former(self, container: Container) -> Container | None:
        return self._registry.find(container.replaces) if container.replaces else None

    def _has_taken_over(self, new: Container, old: Container) -> bool:
        return not old.ports and bool(new.ports or not new.spec.ports)

    async def _set(
        self, container: Container, wanted: Collection[PortMapping], former: Container | None
    ) -> None:
        """Publish exactly `wanted`: shared ports without connections until it answers on them."""
        shared = {(port.protocol, port.container) for port in wanted if port.balance}
        admitted = container.pid and shared and self._is_admitted(container)
        ready = readiness.answering(container.pid, shared) if container.pid and admitted else frozenset()
        mappings = [
            replace(port, weight=0) if port.balance and (port.protocol, port.container) not in ready else port
            for port in self._networks.bound(container.endpoints, wanted)
        ]
        address = self._networks.port_address(container.endpoints)
        published = await self._networks.publish(
            container.id, mappings, address, taking_over=None if former is None else former.id
        )
        container.ports = tuple(sorted(published, key=lambda port: port.place))
        if former is not None:
            former.ports = ()

    async def _join(self, container: Container) -> None:
        """Let a container have its share of the ports that it has in common with others."""
        pause, began, told = _FIRST_LOOK, time.monotonic(), False
        while container.running and container.ports:
            missing = self._unjoined(container)
            if not missing:
                return
            if readiness.answering(container.pid or 0, missing):
                if not self._is_admitted(container):
                    await self._health.answer(container, container.spec.ready_timeout)
                    if not self._is_admitted(container):
                        return  # `health_turned` follows
                async with container.lock:
                    if container.wanted and container.ports:
                        await self._set(container, container.spec.ports, None)
                        self._reweigh_unfit(self._sharing(container))
                        continue
            if not told and time.monotonic() - began > container.spec.ready_timeout:
                told = True
                logger.warning(
                    "no connections yet container=%s: it does not answer on %s",
                    container.name,
                    _spelled(missing),
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)

    def _is_admitted(self, container: Container) -> bool:
        """Whether it may have connections to the ports that it shares: it is healthy, or none of the others
        that have some is.
        """
        return is_fit(container) or not any(
            is_fit(other) and any(port.balance and port.weight for port in other.ports)
            for other in self._sharing(container)
        )

    def _sharing(self, container: Container) -> Iterator[Container]:
        """The others with which it has a published port in common."""
        return filter(None, map(self._registry.find, self._networks.ports.sharing(container.id)))

    def _reweigh_unfit(self, containers: Iterable[Container]) -> None:
        for container in containers:
            if not is_fit(container):
                self._joining.start(self._reweigh(container))

    async def _reweigh(self, container: Container) -> None:
        """Give a container its share of the ports that it has in common with others, or none."""
        async with container.lock:
            if not container.running or not container.wanted:
                return
            has = any(port.balance and port.weight for port in container.ports)
            if has and not self._is_admitted(container):
                await self._set(container, container.spec.ports, None)
            elif not has and self._is_admitted(container):
                self.started(container)

    def _unjoined(self, container: Container) -> set[readiness.Port]:
        """The shared ports on which it has less than its share."""
        shares = {(port.host, port.host_ip, port.protocol): port.weight for port in container.ports}
        return {
            (port.protocol, port.container)
            for port in self._networks.bound(container.endpoints, container.spec.ports)
            if port.balance and shares.get((port.host, port.host_ip, port.protocol)) != port.weight
        }

    async def _until_ready(self, container: Container, expected: Collection[readiness.Port]) -> None:
        deadline = time.monotonic() + container.spec.ready_timeout
        await self._until_answering(container, expected, deadline)
        await self._health.until_healthy(container, max(0.0, deadline - time.monotonic()))

    async def _until_answering(
        self, container: Container, expected: Collection[readiness.Port], deadline: float
    ) -> None:
        pause = _FIRST_LOOK
        while True:
            answering = readiness.answering(container.pid, expected) if container.pid else frozenset()
            missing = set(expected) - answering
            if container.running and not missing:
                return
            if not container.running and container.status != "restarting":
                raise Unavailable(
                    f"container {container.name} ended with exit code {container.exit_code} before it "
                    f"answered on {_spelled(expected) or 'any port'}: see its log"
                )
            if time.monotonic() >= deadline:
                raise Unavailable(
                    f"container {container.name} does not answer on {_spelled(missing)} "
                    f"{container.spec.ready_timeout} s after its start: let it listen there, on all of its "
                    "addresses, or give it more time with ready_timeout"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LAST_LOOK)


def _expected(new: Container, old: Container) -> frozenset[readiness.Port]:
    """The ports on which `new` has to answer: those that take the place of one on which `old` does. What
    nobody answers now needs nobody to be lost.
    """
    theirs = {_place(port): (port.protocol, port.container) for port in old.spec.ports}
    answering = readiness.answering(old.pid, set(theirs.values())) if old.pid else frozenset()
    return frozenset(
        (port.protocol, port.container) for port in new.spec.ports if theirs.get(_place(port)) in answering
    )


def _place(port: PortMapping) -> tuple[object, ...]:
    """What two specs mean the same port of the host by."""
    return (port.host, port.protocol) if port.host else (None, port.protocol, port.container)


def _spelled(ports: Collection[readiness.Port]) -> str:
    return ", ".join(f"{port}/{protocol}" for protocol, port in sorted(ports))
