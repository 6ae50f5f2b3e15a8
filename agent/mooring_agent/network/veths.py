# SPDX-License-Identifier: Apache-2.0
"""The cable between a container and its network's bridge: a veth pair.

Its outer end is a port of the bridge, its inner end is born inside the container's network namespace and dies
with that, taking the outer end along.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass

from ..errors import Conflict, Ended, MooringError
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from .portguard import PortGuard
from .records import Endpoint, Network

FORWARDS_WITHIN_MS = 200

_LINK_LOCAL_LENGTHS = (16, 64)  # of IPv4 and of IPv6: RFC 3927, RFC 4291


def host_ifname(container_id: str, network: str) -> str:
    """The name of the outer end: always the same for an endpoint, within the kernel's 15 characters."""
    return "mv" + hashlib.sha256(f"{container_id}/{network}".encode()).hexdigest()[:11]


@dataclass(frozen=True)
class Cable:
    """What leads from a network into a network namespace, where nobody uses it yet: a veth pair, or another
    interface, which has no outer end (`host_ifname` is "").

    `inside` is a socket of that namespace, to be closed by whoever has the cable, `inner` the index of the
    inner end there, `ifname` its name, and `outer` the index of the outer end here, 0 without one.
    """

    network: str
    host_ifname: str
    inside: RouteSocket
    ifname: str
    inner: int
    outer: int = 0


def spare_ifname() -> str:
    """A name for the outer end of a cable that nobody uses yet."""
    return f"mv{secrets.token_hex(5)}"


def lay(
    socket: RouteSocket,
    bridge: int,
    network: Network,
    host_ifname: str,
    pid: int,
    ifname: str,
    guard: PortGuard,
) -> Cable:
    """Make a cable from a bridge to the network namespace of process `pid`, its inner end called `ifname`.

    Nothing gets out of the container before `guard` admits it. A container may reach itself through its
    published port, so the bridge's port reflects.
    """
    socket.execute(
        rtnetlink.veth_add(host_ifname, master=bridge, peer_name=ifname, peer_pid=pid, mtu=network.mtu)
    )
    outer = socket.index(host_ifname)
    guard.install(socket, outer)
    messages = [rtnetlink.bridge_port_set(host_ifname, hairpin=True, isolated=network.port_isolation)]
    if os.path.exists(rtnetlink.IPV6_SETTINGS):
        messages.append(rtnetlink.link_local_off(host_ifname))
    socket.execute(*messages)
    inside = rtnetlink.socket_inside(pid)
    try:
        return Cable(network.name, host_ifname, inside, ifname, inside.index(ifname), outer)
    except OSError:
        inside.close()
        raise


def configure(
    cable: Cable,
    network: Network,
    endpoint: Endpoint,
    default_routes: Collection[int],
    link_local: Collection[str] = (),
) -> None:
    """Make the inner end of a cable, and loopback beside it, what the endpoint says; closes its socket.

    `default_routes` are the IP versions whose default route leads through it, `link_local` further addresses.
    """
    messages = [rtnetlink.link_set(rtnetlink.LOOPBACK, up=True)]
    if endpoint.ipv4 is not None and network.ipv4 is not None:
        broadcast = str(network.ipv4.cidr.broadcast_address)
        messages.append(rtnetlink.address_add(cable.inner, endpoint.ipv4, endpoint.prefix_length, broadcast))
    if endpoint.ipv6 is not None:
        messages.append(rtnetlink.address_add(cable.inner, endpoint.ipv6, endpoint.prefix_length6))
    for address in link_local:
        length = _LINK_LOCAL_LENGTHS[":" in address]
        messages.append(rtnetlink.address_add(cable.inner, address, length))
    messages.append(rtnetlink.link_set(cable.inner, up=True, mac=endpoint.mac))
    for version, gateway in ((4, endpoint.gateway), (6, endpoint.gateway6)):
        if version in default_routes and gateway is not None and not network.internal:
            messages.append(rtnetlink.route_add(cable.inner, gateway=gateway))
    for whole in network.overlay.subnets if network.overlay is not None else ():
        messages.append(
            rtnetlink.route_add(
                cable.inner,
                gateway=endpoint.gateway if whole.version == 4 else endpoint.gateway6,
                destination=str(whole.network_address),
                prefix_length=whole.prefixlen,
            )
        )
    with cable.inside as inside:
        inside.execute(*messages)


async def forwards(socket: RouteSocket, host_ifname: str) -> bool:
    """Wait until packets pass; False if they do not in time, or if the link is no port of a bridge.

    The kernel makes a port of a bridge forward when its other end has come up, but not at once: a container's
    first packet would be lost before, and sent again only after a second. Kernels from 6.8 on do it when they
    are asked for the link, so there is nothing to wait for.
    """
    for _ in range(FORWARDS_WITHIN_MS):
        link = socket.link(host_ifname)
        if link is None or link.forwarding or not link.master:
            return link is not None and link.forwarding
        await asyncio.sleep(0.001)
    return False


def failure(error: OSError, endpoint: Endpoint, pid: int) -> MooringError:
    """What a refused `plug` means to a user."""
    if error.errno in (errno.ESRCH, errno.ENOENT):
        return Ended(
            f"process {pid} of the container ended before it was connected to network {endpoint.network}; "
            "start it again"
        )
    if error.errno == errno.EEXIST:
        return Conflict(
            f"container cannot be connected to network {endpoint.network}: it has an interface "
            f"{endpoint.ifname} already, or an address or a route that the network brings; remove that first"
        )
    if error.errno == errno.EACCES and endpoint.ipv6 is not None:
        return Conflict(
            f"network {endpoint.network} has IPv6, which is switched off inside the container (sysctl "
            "disable_ipv6); leave that out"
        )
    return MooringError(
        f"interface {endpoint.host_ifname or endpoint.ifname} of network {endpoint.network} cannot be made: "
        f"{error.strerror}"
    )
