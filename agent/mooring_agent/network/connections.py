# SPDX-License-Identifier: Apache-2.0
"""Connections that published ports have led to containers, as the kernel tracks them.

A connection keeps the target that it has got, whatever becomes of the port; that is what makes switching
possible, and why one has to look where they lead. The kernel goes through all that it tracks to answer, which
takes some tens of milliseconds, so this is done in worker threads.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Collection
from dataclasses import dataclass

from ..errors import MooringError
from ..linux.barrier import pass_processors
from ..linux.conntrack import ConntrackSocket, Flow
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import RouteSocket
from .records import Publication

Port = tuple[str, str, int]
"""Protocol, address of a container, port of the container."""

# Those with connections that end.
_NUMBERS = {"tcp": socket.IPPROTO_TCP, "sctp": socket.IPPROTO_SCTP}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)


def ports_of(publications: Collection[Publication]) -> frozenset[Port]:
    """The ports of containers that publications lead to."""
    return frozenset(
        (publication.protocol, address, publication.container_port)
        for publication in publications
        for address in (publication.container_ip, publication.container_ipv6)
        if address
    )


@dataclass(frozen=True, slots=True)
class Left:
    """Connections that have not ended: how many, and how many of them nobody has answered yet."""

    count: int
    unanswered: int = 0


async def left_at(ports: Collection[Port], earlier: Left | None = None, *, last: bool = False) -> Left:
    """The connections that have been led to these ports of containers, where new ones are not any more.

    `earlier` is what was left when it was last asked. Somebody whose connection is not answered asks again
    after a second, and longer the next time: the kernel forgets where those that were unanswered then, and
    still are, were led to, so that they get to whom the port leads now. Who has not answered all the while
    has no room for them. A kernel before 6.12 cannot forget a connection only if nobody has answered it
    meanwhile, so there they are waited for until the `last` look. One that was reset is forgotten at once:
    the next attempt from the same port would be led where this one was.

    Raises MooringError.
    """
    return await asyncio.to_thread(_left_at, ports, earlier, last)


async def forget_datagrams_to(removed: Collection[Publication], added: Collection[Publication]) -> None:
    """Let UDP clients that go on sending from the same port reach whom the port leads to now, and not the
    target of before, to which what the kernel has seen of theirs leads as long as they go on. Raises
    MooringError.
    """
    old = ports_of([publication for publication in removed if publication.protocol == "udp"])
    if stale := old - ports_of(added):
        await asyncio.to_thread(_forget, stale, frozenset())


async def forget_datagrams_before(added: Collection[Publication]) -> None:
    """The same for clients that have sent before the port was published: what the kernel has seen of theirs
    stays on the host.
    """
    new = {publication.host_port for publication in added if publication.protocol == "udp"}
    if new:
        await asyncio.to_thread(_forget, frozenset(), new)


def _left_at(ports: Collection[Port], earlier: Left | None, last: bool) -> Left:
    if earlier is None:
        pass_processors()
    answering = {(protocol, address) for protocol, address, _ in ports if protocol in _NUMBERS}
    try:
        with ConntrackSocket() as tracking:
            able = True
            if last or (earlier is not None and earlier.unanswered):
                for protocol, address, port in ports:
                    if protocol == "tcp" and able:
                        able = tracking.forget_unanswered(address, socket.IPPROTO_TCP, port)
            flows = [
                flow
                for protocol, address in answering
                for flow in tracking.answered_by(address, _NUMBERS[protocol])
                if flow.translated and (protocol, address, flow.answering_port) in ports
            ]
            for flow in flows:
                if flow.reset or (flow.unanswered and last and not able):
                    tracking.forget(flow)
    except NetlinkError as error:
        raise MooringError(f"the host's connections cannot be looked at: {error.strerror}") from error
    return Left(sum(flow.open for flow in flows), sum(flow.unanswered for flow in flows))


def _forget(old: Collection[Port], new: Collection[int]) -> None:
    try:
        with ConntrackSocket() as tracking, RouteSocket() as route:
            own = {address.address for family in _FAMILIES for address in route.addresses(family)}
            for flow in tracking.of_protocol(socket.IPPROTO_UDP):
                if _leads_to(flow, old) or (flow.destination_port in new and _stays(flow, own)):
                    tracking.forget(flow)
    except NetlinkError as error:
        raise MooringError(f"the host's connections cannot be looked at: {error.strerror}") from error


def _leads_to(flow: Flow, ports: Collection[Port]) -> bool:
    return ("udp", flow.answering, flow.answering_port) in ports


def _stays(flow: Flow, own: Collection[str]) -> bool:
    """Whether a flow was not sent on: it is answered by the address of the host that it was sent to."""
    return flow.answering == flow.destination and flow.destination in own
