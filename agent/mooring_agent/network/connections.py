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
    """Connections that have not ended: how many, and which of them nobody has answered yet."""

    count: int
    unanswered: frozenset[bytes] = frozenset()


async def left_at(ports: Collection[Port], waiting: Collection[bytes] = ()) -> Left:
    """The connections that have been led to these ports of containers, where new ones are not any more.

    Somebody whose connection is not answered asks again after a second, and longer the next time. The kernel
    forgets where the `unanswered` of an earlier look, given as `waiting`, were led to, so that they get to
    whom the port leads now: who has not answered all the while has no room for them. Raises MooringError.
    """
    return await asyncio.to_thread(_left_at, ports, waiting)


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


def _left_at(ports: Collection[Port], waiting: Collection[bytes]) -> Left:
    answering = {(protocol, address) for protocol, address, _ in ports if protocol in _NUMBERS}
    try:
        with ConntrackSocket() as tracking:
            flows = [
                flow
                for protocol, address in answering
                for flow in tracking.answered_by(address, _NUMBERS[protocol])
                if flow.open and flow.translated and (protocol, address, flow.answering_port) in ports
            ]
            given_up = [flow for flow in flows if flow.unanswered and flow.original in waiting]
            for flow in given_up:
                tracking.forget(flow)
            unanswered = frozenset(flow.original for flow in flows if flow.unanswered)
            return Left(len(flows) - len(given_up), unanswered.difference(waiting))
    except NetlinkError as error:
        raise MooringError(f"the host's connections cannot be looked at: {error.strerror}") from error


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
