# SPDX-License-Identifier: Apache-2.0
"""The cable between a container and its network's bridge: a veth pair.

Its outer end is a port of the bridge, its inner end is born inside the container's network namespace and dies
with that, taking the outer end along.
"""

from __future__ import annotations

import errno
import hashlib

from ..errors import Conflict, MooringError, Unavailable
from ..linux import rtnetlink
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import RouteSocket
from .records import Endpoint, Network


def host_ifname(container_id: str, network: str) -> str:
    """The name of the outer end: always the same for an endpoint, within the kernel's 15 characters."""
    return "mv" + hashlib.sha256(f"{container_id}/{network}".encode()).hexdigest()[:11]


def plug(socket: RouteSocket, bridge: int, endpoint: Endpoint, pid: int, ifname: str) -> int:
    """Connect the network namespace of process `pid` with a bridge; returns the index of the inner end.

    A container may reach itself through its published port, so the bridge's port reflects.
    """
    answers = socket.execute(
        rtnetlink.veth_add(
            endpoint.host_ifname, master=bridge, peer_name=ifname, peer_mac=endpoint.mac, peer_pid=pid
        ),
        rtnetlink.bridge_port_set(endpoint.host_ifname, hairpin=True),
        rtnetlink.link_get(endpoint.host_ifname),
    )
    return rtnetlink.parse_link(answers[0]).peer


def inner_messages(
    endpoint: Endpoint, network: Network, ifindex: int, default_route: bool
) -> tuple[bytes, ...]:
    """What has to be sent inside the container's namespace, in this order."""
    broadcast = str(network.subnet.broadcast_address)
    messages = (
        rtnetlink.link_set(rtnetlink.LOOPBACK, up=True),
        rtnetlink.address_add(ifindex, endpoint.ipv4, endpoint.prefix_length, broadcast),
        rtnetlink.link_set(ifindex, up=True),
    )
    return (*messages, rtnetlink.route_add(ifindex, gateway=endpoint.gateway)) if default_route else messages


def failure(error: NetlinkError, endpoint: Endpoint, pid: int) -> MooringError:
    """What a refused `plug` means to a user."""
    if error.errno == errno.ESRCH:
        return Unavailable(
            f"process {pid} of the container ended before it was connected to network {endpoint.network}; "
            "start it again"
        )
    if error.errno == errno.EXFULL:
        return Conflict(
            f"network {endpoint.network} is full: its bridge takes no more than 1024 containers; "
            "declare another network"
        )
    return MooringError(
        f"interface {endpoint.host_ifname} of network {endpoint.network} cannot be made: {error.strerror}"
    )
