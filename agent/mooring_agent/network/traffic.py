# SPDX-License-Identifier: Apache-2.0
"""What may pass the outer ends of cables, and how fast: who speaks there, and limits of rate."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from ..errors import InvalidSpec
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from . import shaping
from .portguard import PortGuard, Sender
from .records import Endpoint
from .shaping import NO_LIMITS, Limits

logger = logging.getLogger(__name__)

_UNDISTURBED = 5.0  # seconds after the last container has come, until guards are moved to where they stay
_APART = 0.5  # seconds between two of them: each keeps the agent for 10 ms


@dataclass(frozen=True, slots=True)
class Terms:
    """What a container is allowed on its networks: limits by network, where it may send as anybody, and
    further addresses of its by network.

    `traffic_class` is that of what it sends for the host's queues, such as "1:10", or "".
    """

    limits: Mapping[str, Limits] = field(default_factory=dict)
    trusted: frozenset[str] = frozenset()
    traffic_class: str = ""
    link_local: Mapping[str, Collection[str]] = field(default_factory=dict)

    def on(self, network: str) -> Limits:
        """The limits on a network."""
        return self.limits.get(network, NO_LIMITS)


PLAIN_TERMS = Terms()


class Traffic:
    """The outer ends of an agent's cables. `terms_of` tells what is allowed to a container, by its id."""

    def __init__(self, bridge_prefix: str, terms_of: Callable[[str], Terms]) -> None:
        self._prefix = shaping.queue_prefix(bridge_prefix)
        self._terms_of = terms_of
        self.guard = PortGuard()
        self._queues: set[str] = set()
        self._going: dict[str, asyncio.Future[None]] = {}  # queues that are being removed
        self._ports: dict[
            tuple[str, str], int
        ] = {}  # by container and network: the interface that is guarded
        self._unsettled: set[int] = set()  # those of them whose guard has a better place
        self._timer: asyncio.TimerHandle | None = None

    def classes(self, endpoints: Iterable[Endpoint]) -> dict[str, str]:
        """The classes of what comes from the addresses of these endpoints, of those that have one."""
        return {
            address: traffic_class
            for endpoint in endpoints
            if (traffic_class := self._terms_of(endpoint.container_id).traffic_class)
            for address in endpoint.addresses
        }

    def has_class(self, container_id: str) -> bool:
        """Whether what a container sends has a class."""
        return bool(self._terms_of(container_id).traffic_class)

    async def settled(self, host_ifname: str) -> None:
        """Return when nothing of a former cable of this name is left."""
        going = self._going.get(shaping.queue_ifname(self._prefix, host_ifname))
        if going is not None:
            await asyncio.wait([going])

    def admit(self, netlink: RouteSocket, endpoint: Endpoint, host_ifname: str, ifindex: int) -> None:
        """Let the container speak through a cable that is its endpoint's from now on, and limit it.

        Raises MooringError.
        """
        terms = self._terms_of(endpoint.container_id)
        limits = terms.on(endpoint.network)
        if limits.rate_out is None or host_ifname != endpoint.host_ifname:
            self._remove_queue(endpoint)
        self._admit(endpoint, ifindex, terms)
        if limits != NO_LIMITS:
            self._shape(netlink, host_ifname, limits)
        if self.guard.can_settle:
            self._unsettled.add(ifindex)
            self._settle_after(_UNDISTURBED, netlink)

    def require_unlimited(self, endpoint: Endpoint, terms: Terms | None = None) -> None:
        """Refuse limits where there is no outer end that could carry them out. Raises InvalidSpec."""
        terms = terms or self._terms_of(endpoint.container_id)
        if terms.on(endpoint.network) != NO_LIMITS:
            raise InvalidSpec(
                f"network_limits cannot hold on network {endpoint.network}, which is of macvlan: nothing of "
                "this host is between its containers and their network; name the networks to be limited"
            )

    async def change(self, netlink: RouteSocket, endpoints: Iterable[Endpoint], terms: Terms) -> None:
        """Bring those cables of a container's endpoints that are there to other terms.

        Raises MooringError.
        """
        for endpoint in endpoints:
            if not endpoint.host_ifname:
                self.require_unlimited(endpoint, terms)
                continue
            await self.settled(endpoint.host_ifname)
            link = netlink.link(endpoint.host_ifname)
            if link is None:
                continue
            self._admit(endpoint, link.ifindex, terms)
            limits = terms.on(endpoint.network)
            self._shape(netlink, endpoint.host_ifname, limits)
            if limits.rate_out is None:
                self._remove_queue(endpoint)
                await self.settled(endpoint.host_ifname)

    def forget(self, endpoints: Iterable[Endpoint], network: str | None = None) -> None:
        """Remove what outlives the cables of these endpoints, of those on one network or all."""
        for endpoint in endpoints:
            if network not in (None, endpoint.network):
                continue
            self._remove_queue(endpoint)
            port = self._ports.pop(_key(endpoint), None)
            if port is not None:
                self.guard.dismiss([port])

    def restore(self, netlink: RouteSocket, endpoints: Collection[Endpoint]) -> None:
        """Guard and limit all cables that are there, and remove what is left of others."""
        links = {link.name: link.ifindex for link in netlink.links()}
        present = {one.host_ifname: one for one in endpoints if one.host_ifname in links}
        ports = {_key(endpoint): links[name] for name, endpoint in present.items()}
        self.guard.dismiss(set(self._ports.values()).difference(ports.values()))
        self._ports = ports
        self.guard.restore(
            netlink,
            {
                links[name]: _sender(endpoint, self._terms_of(endpoint.container_id))
                for name, endpoint in present.items()
            },
        )
        wanted = [(name, self._limits(endpoint)) for name, endpoint in present.items()]
        for name in shaping.unlike(netlink, self._prefix, wanted):
            self._shape(netlink, name, self._limits(present[name]))
        limited = [name for name, limits in wanted if limits.rate_out is not None]
        self._queues = {shaping.queue_ifname(self._prefix, name) for name in limited}
        rtnetlink.delete_links(netlink, shaping.strays(netlink, self._prefix, limited))

    def differences(self, netlink: RouteSocket, endpoints: Collection[Endpoint]) -> list[str]:
        """What at the cables that are there is not as it should be, a sentence each."""
        links = {link.name: link.ifindex for link in netlink.links()}
        present = {one.host_ifname: one for one in endpoints if one.host_ifname in links}
        found = [
            f"interface {name} of network {endpoint.network} does not keep its container from false senders"
            for name, endpoint in present.items()
            if self._is_unguarded(netlink, links[name])
        ]
        wanted = [(name, self._limits(endpoint)) for name, endpoint in present.items()]
        for name in shaping.unlike(netlink, self._prefix, wanted):
            network = present[name].network
            found.append(f"interface {name} of network {network} has not the rates that it should have")
        return found

    def teardown(self, netlink: RouteSocket) -> None:
        """Remove all queues; nobody speaks any more."""
        rtnetlink.delete_links(netlink, shaping.strays(netlink, self._prefix, ()))
        self._queues.clear()
        self.guard.dismiss(self._ports.values())
        self._ports.clear()
        self._unsettled.clear()

    async def close(self) -> None:
        """Let go of the guard, when what is under way is done; what is plugged in stays as it is."""
        if self._timer is not None:
            self._timer.cancel()
        if self._going:
            await asyncio.wait(list(self._going.values()))
        self.guard.close()

    def _is_unguarded(self, netlink: RouteSocket, ifindex: int) -> bool:
        try:
            return not self.guard.is_on(netlink, ifindex)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return False  # it has gone since it was listed

    def _settle_after(self, seconds: float, netlink: RouteSocket) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._settle_one, netlink)

    def _settle_one(self, netlink: RouteSocket) -> None:
        """Move the guard of one cable; the next one follows."""
        self._timer = None
        self._unsettled.intersection_update(self._ports.values())
        if not self._unsettled:
            return
        ifindex = self._unsettled.pop()
        try:
            self.guard.settle(netlink, ifindex)
        except OSError as error:  # its container has just ended; a guard that is missed is put back
            logger.info("guard not moved interface=%s error=%r", ifindex, str(error))
        if self._unsettled:
            self._settle_after(_APART, netlink)

    def _limits(self, endpoint: Endpoint) -> Limits:
        return self._terms_of(endpoint.container_id).on(endpoint.network)

    def _admit(self, endpoint: Endpoint, ifindex: int, terms: Terms) -> None:
        """Let an endpoint speak through a port, and not through the one that it had before."""
        before = self._ports.get(_key(endpoint), ifindex)
        if before != ifindex:
            self.guard.dismiss([before])
        self.guard.admit(ifindex, _sender(endpoint, terms))
        self._ports[_key(endpoint)] = ifindex

    def _remove_queue(self, endpoint: Endpoint) -> None:
        """Remove the queue of an endpoint's cable, in a worker thread: the kernel takes its time."""
        queue = shaping.queue_ifname(self._prefix, endpoint.host_ifname)
        if queue in self._queues:
            self._queues.discard(queue)
            going = asyncio.ensure_future(asyncio.to_thread(rtnetlink.remove_links, [queue]))
            self._going[queue] = going
            going.add_done_callback(lambda done: self._gone(queue, done))

    def _gone(self, queue: str, going: asyncio.Future[None]) -> None:
        if self._going.get(queue) is going:
            del self._going[queue]
        error = None if going.cancelled() else going.exception()
        if error is not None:  # the next start removes it
            logger.warning("queue not removed interface=%s error=%r", queue, str(error))

    def _shape(self, netlink: RouteSocket, host_ifname: str, limits: Limits) -> None:
        shaping.shape(netlink, self._prefix, host_ifname, limits)
        if limits.rate_out is not None:
            self._queues.add(shaping.queue_ifname(self._prefix, host_ifname))


def _key(endpoint: Endpoint) -> tuple[str, str]:
    return endpoint.container_id, endpoint.network


def _sender(endpoint: Endpoint, terms: Terms) -> Sender:
    further = tuple(terms.link_local.get(endpoint.network, ()))
    return Sender(endpoint.mac, endpoint.ipv4, endpoint.ipv6, endpoint.network in terms.trusted, further)
