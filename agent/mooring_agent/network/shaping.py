# SPDX-License-Identifier: Apache-2.0
"""How fast a container sends and receives: limits of a cable, carried out at its outer end.

What a container receives leaves the host through the outer end, where a token bucket (tc-tbf(8)) holds it
back. What it sends comes *in* there, where nothing can wait: so it is led through an intermediate device
(ifb) with a token bucket of its own, and goes on from there as if nothing had been. Dropping what comes too
fast (policing) would need no device, but TCP takes each drop for congestion: a single stream stays well below
a policed rate, and at the rate behind a queue.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from ..errors import MooringError
from ..linux import rtnetlink, tc
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import RouteSocket
from . import ingress

PREFERENCE = 2
"""After the port's guard."""

SLOWEST, FASTEST = 8_000, 400_000_000_000
"""Rates in bits a second: a kilobyte a second, and what no interface does yet."""

SMALLEST_BURST = 2_048
"""In bytes: a frame of Ethernet, which a bucket must hold."""

# The kernel counts the headers of Ethernet, rates here do not: they are of IP packets, the longest ones of
# 1500 bytes. Else no TCP stream could come within five percent of its rate (1448 of 1514 bytes are its own).
_FRAMED = (1514, 1500)

# What a busy host may be late by before a waiting queue loses some of its rate.
_BURST_SECONDS = 0.04
_LEAST_BURST = 16_384
# How long a full queue takes to drain: a round trip through half the world, so that one TCP stream fills the
# rate (RFC 6349), and no longer, since what waits in it waits for everybody.
_QUEUE_SECONDS = 0.1
_LEAST_QUEUE = 65_536


@dataclass(frozen=True, slots=True)
class Limits:
    """What one attachment may do: bits a second into the container and out of it, None without a limit, and
    the bytes that may go at once after a pause, None for what suits the rate.
    """

    rate_in: int | None = None
    rate_out: int | None = None
    burst: int | None = None

    def bucket(self, bits: int) -> tuple[int, int, int]:
        """Rate in bytes a second, burst and queue in bytes of the token bucket for a rate in bits."""
        rate = bits * _FRAMED[0] // (_FRAMED[1] * 8)
        burst = self.burst or max(int(rate * _BURST_SECONDS), _LEAST_BURST)
        return rate, burst, max(int(rate * _QUEUE_SECONDS), _LEAST_QUEUE) + burst


NO_LIMITS = Limits()


def queue_prefix(bridge_prefix: str) -> str:
    """What the names of an agent's queues begin with, that of its bridges given."""
    return f"mi{bridge_prefix[2:]}"


def queue_ifname(prefix: str, host_ifname: str) -> str:
    """The name of the device in which wait the frames that come in through an outer end."""
    return prefix + host_ifname[-8:]


def shape(netlink: RouteSocket, prefix: str, host_ifname: str, limits: Limits) -> None:
    """Give a cable these limits, whatever it had. One that changes loses no frame that waits. The queue of
    one that may send as fast as it can from now on is led to no more, and stays for the caller to remove.

    Raises MooringError where the kernel lacks what is needed, OSError if there is no such cable.
    """
    index = netlink.index(host_ifname)
    queue = queue_ifname(prefix, host_ifname)
    try:
        if limits.rate_in is not None:
            netlink.execute(_bucket(index, limits, limits.rate_in))
        else:
            _unless_absent(netlink, tc.root_delete(index))
        if limits.rate_out is not None:
            queue_index = _ensure_queue(netlink, queue)
            ingress.make_room_for_filters(netlink, index)
            netlink.execute(
                _bucket(queue_index, limits, limits.rate_out),
                tc.ingress_redirect(index, PREFERENCE, queue_index),
            )
        else:
            ingress.remove_filter(netlink, index, PREFERENCE)
    except NetlinkError as error:
        raise MooringError(
            f"interface {host_ifname} cannot be limited: {error.strerror}; rates need the kernel's modules "
            "sch_tbf, ifb, act_mirred and cls_bpf"
        ) from error


def unlike(netlink: RouteSocket, prefix: str, wanted: Iterable[tuple[str, Limits]]) -> list[str]:
    """Which of these cables (by their outer ends) have other limits than they should."""
    links = {link.name: link.ifindex for link in netlink.links()}
    buckets = {
        qdisc.ifindex: (qdisc.rate, qdisc.limit)
        for qdisc in map(tc.parse_qdisc, netlink.dump(tc.qdisc_dump()))
        if qdisc.kind == "tbf"
    }
    found = []
    for name, limits in wanted:
        if name not in links:
            continue  # its container does not run
        queue = links.get(queue_ifname(prefix, name), 0)
        present = buckets.get(links[name]), buckets.get(queue)
        if present != (_shown(limits, limits.rate_in), _shown(limits, limits.rate_out)) or (
            queue and not _leads(netlink, links[name])
        ):
            found.append(name)
    return found


def _leads(netlink: RouteSocket, index: int) -> bool:
    """Whether what comes in through an interface is led to its queue."""
    found = map(tc.parse_filter, netlink.dump(tc.ingress_dump(index)))
    return any(one.preference == PREFERENCE for one in found)


def strays(netlink: RouteSocket, prefix: str, cables: Collection[str]) -> list[str]:
    """The queues of this agent that belong to none of these outer ends."""
    kept = {queue_ifname(prefix, name) for name in cables}
    return [
        link.name
        for link in netlink.links()
        if link.kind == "ifb" and link.name.startswith(prefix) and link.name not in kept
    ]


def _ensure_queue(netlink: RouteSocket, name: str) -> int:
    if netlink.link(name) is None:
        netlink.execute(tc.ifb_add(name))
        if os.path.exists(rtnetlink.IPV6_SETTINGS):
            netlink.execute(rtnetlink.link_local_off(name))
    return netlink.index(name)


def _shown(limits: Limits, bits: int | None) -> tuple[int, int] | None:
    """What the kernel tells of the token bucket for a rate: its rate in bytes, and what waits at most."""
    if bits is None:
        return None
    rate, _, limit = limits.bucket(bits)
    return rate, limit


def _bucket(index: int, limits: Limits, bits: int) -> bytes:
    rate, burst, limit = limits.bucket(bits)
    return tc.tbf_replace(index, rate=rate, burst=burst, limit=limit)


def _unless_absent(netlink: RouteSocket, request: bytes) -> None:
    try:
        netlink.execute(request)
    except NetlinkError as error:
        if error.errno not in tc.ABSENT:
            raise
