# SPDX-License-Identifier: Apache-2.0
"""The WireGuard device beside the bridge of an encrypted overlay network: its peers are the other hosts.

WireGuard leads a packet to the peer that has its address among its own, and takes one from a peer only with
such an address. So one route leads the whole subnet into the device, and a host that comes or goes is a peer
more or less. A second route, that counts when the first is gone with the device, says that nobody is there:
what is to be encrypted is not sent to the host's gateway instead.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from ..errors import Conflict, MooringError
from ..failpoints import reached
from ..linux import rtnetlink, subnetroutes, wireguard
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import RT_TABLE_MAIN, Link, Route, RouteSocket
from ..linux.subnetroutes import Prefix
from ..linux.wireguard import Device, Peer, Settings, WireGuardSocket
from . import sysctls
from .encryption import key_bytes
from .overlay import IPNetwork, Overlay, gateway_of
from .overlaykeys import OverlayKeys, not_supported

KEEPALIVE_S = 25
"""How often hosts that have nothing to say tell that they are there. It begins at once, so that a host which
has been away is known again before anything is to be sent to it.
"""


def private_key(
    netlink: RouteSocket, network: str, name: str, overlay: Overlay, keys: OverlayKeys
) -> bytes | None:
    """The key that the device has to be told; None if it has it. Asked for before anything is changed, since
    much stands against it: raises InvalidSpec if it is not this host's, NotSupported, MooringError.
    """
    _, device = _present(netlink, name)
    if device is not None and device.public_key == key_bytes(overlay.here.public_key):
        return None
    return keys.private_of(overlay.here.public_key, network)


def seal(netlink: RouteSocket, network: str, overlay: Overlay) -> None:
    """Keep packets from other ways than the device, which does not have to be there. Raises MooringError."""
    sealed = _sealed(_routes(netlink, overlay))
    try:
        for prefix in _prefixes(overlay):
            if prefix not in sealed:
                netlink.execute(subnetroutes.nowhere_set(prefix))
    except NetlinkError as error:
        raise MooringError(
            f"network {network} cannot be kept from unencrypted ways: {error.strerror}"
        ) from error


def unseal(netlink: RouteSocket, overlay: Overlay) -> None:
    """Take back `seal`, if that was done."""
    for prefix in _prefixes(overlay):
        try:
            netlink.execute(subnetroutes.nowhere_delete(prefix))
        except NetlinkError as error:
            if error.errno != errno.ESRCH:
                raise


def ensure(
    netlink: RouteSocket, network: str, name: str, overlay: Overlay, mtu: int, private: bytes | None
) -> None:
    """Make the device and what it knows what they should be; what is right is not touched, and so peers that
    stay don't notice. Raises Conflict if somebody has the port, MooringError.
    """
    what = f"device {name} of the encrypted network {network} cannot be made"
    try:
        link = netlink.link(name)
        if link is None:
            netlink.execute(wireguard.link_add(name, mtu))
            link = netlink.link(name)
            assert link is not None
            reached("network.tunnel-without-key")
        if link.kind != wireguard.KIND:
            raise Conflict(
                f"network {network} needs the interface name {name}, which a {link.kind or 'physical'} "
                "interface of the host has; remove or rename that one"
            )
        with WireGuardSocket() as socket:
            present = socket.device(link.ifindex)
            if private is not None:
                # Keepalives that begin anew are sent at once: peers learn that they need another handshake.
                silent = tuple(replace(peer, keepalive=0) for peer in present.peers)
                socket.set(link.ifindex, Settings(private_key=private, peers=silent))
                present = socket.device(link.ifindex)
            told = changes(present, overlay)
            if told != Settings():
                socket.set(link.ifindex, told)
        reached("network.tunnel-without-routes")
        if link.mtu != mtu:
            netlink.execute(rtnetlink.link_set(link.ifindex, mtu=mtu))
        for path, value in _settings(name, overlay):
            sysctls.write(path, value)
        if not link.up:
            netlink.execute(rtnetlink.link_set(link.ifindex, up=True))
        for message in _corrections(_routes(netlink, overlay), link.ifindex, overlay):
            netlink.execute(message)
    except NetlinkError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"{what}: UDP port {overlay.port} is in use on this host; say another one with the option "
                "port, on all hosts of the network, or end what has it"
            ) from error
        raise not_supported(error, what) from error


def differences(netlink: RouteSocket, network: str, name: str, overlay: Overlay, mtu: int) -> list[str]:
    """What is not as it should be, a sentence each."""
    link, present = _present(netlink, name)
    if link is None or present is None or (link.mtu, link.up) != (mtu, True):
        return [f"device {name} of the encrypted network {network} is missing or not as declared"]
    found = []
    if present.public_key != key_bytes(overlay.here.public_key):
        found.append(f"device {name} of the encrypted network {network} has another key")
    if changes(_as_declared(present, overlay), overlay) != Settings():
        found.append(f"device {name} of the encrypted network {network} does not know exactly its hosts")
    found += (
        f"device {name} of the encrypted network {network} needs {value} in {path}"
        for path, value in _settings(name, overlay)
        if sysctls.read(path) not in (None, value)
    )
    routes = _routes(netlink, overlay)
    sealed = _prefixes(overlay) <= _sealed(routes)
    if not sealed or list(_corrections(routes, link.ifindex, overlay)):
        found.append(f"routes of the encrypted network {network} are missing, too many or not as declared")
    return found


def _settings(name: str, overlay: Overlay) -> Iterator[tuple[Path, str]]:
    if overlay.subnet6 is not None:
        yield sysctls.of_link(6, name, "disable_ipv6"), "0"


def changes(present: Device, overlay: Overlay) -> Settings:
    """What a device has to be told, but for its key: hosts that come and change first, then those that go."""
    known = {peer.public_key: peer for peer in present.peers}
    wanted = [peer for peer in _peers(overlay) if known.get(peer.public_key) != peer]
    staying = {key_bytes(host.public_key) for host in overlay.others}
    return Settings(
        port=overlay.port if present.port != overlay.port else None,
        peers=tuple(wanted),
        replaced=frozenset(
            peer.public_key
            for peer in wanted
            if (before := known.get(peer.public_key)) is not None and not before.prefixes <= peer.prefixes
        ),
        removed=tuple(key for key in known if key not in staying),
    )


def _present(netlink: RouteSocket, name: str) -> tuple[Link | None, Device | None]:
    """The device; (None, None) if there is none of WireGuard, or not any more."""
    link = netlink.link(name)
    if link is None or link.kind != wireguard.KIND:
        return None, None
    with WireGuardSocket() as socket:
        try:
            return link, socket.device(link.ifindex)
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise
            return None, None


def _peers(overlay: Overlay) -> Iterator[Peer]:
    for host in overlay.others:
        endpoint = str(host.address), overlay.port
        slices = frozenset(map(_prefix, host.slices))
        yield Peer(key_bytes(host.public_key), endpoint, slices, KEEPALIVE_S)


def _as_declared(present: Device, overlay: Overlay) -> Device:
    """A device with its peers where they are declared to be. WireGuard follows a peer to the address that it
    sends from, and a host may have several: that is no fault.
    """
    endpoints = {peer.public_key: peer.endpoint for peer in _peers(overlay)}
    return replace(
        present,
        peers=tuple(
            replace(peer, endpoint=endpoints.get(peer.public_key, peer.endpoint)) for peer in present.peers
        ),
    )


def _corrections(routes: Iterable[Route], index: int, overlay: Overlay) -> Iterator[bytes]:
    """Of the host's routes through the device. One of IPv6 loses its source with the address, and stays."""
    there = {
        _where(route): route.source
        for route in routes
        if route.ifindex == index and route.table == RT_TABLE_MAIN
    }
    for subnet, slice in zip(overlay.subnets, overlay.here.slices, strict=True):
        if there.pop(_prefix(subnet), None) != gateway_of(slice):
            yield subnetroutes.through_set(index, _prefix(subnet), gateway_of(slice))
    for prefix in there:
        yield subnetroutes.through_delete(index, prefix)


def _sealed(routes: Iterable[Route]) -> set[Prefix]:
    return {_where(route) for route in routes if route.kind == subnetroutes.RTN_UNREACHABLE}


def _prefixes(overlay: Overlay) -> set[Prefix]:
    return set(map(_prefix, overlay.subnets))


def _routes(netlink: RouteSocket, overlay: Overlay) -> list[Route]:
    """The host's routes of the network's IP versions."""
    families = (rtnetlink.ip_bytes(str(subnet.network_address))[0] for subnet in overlay.subnets)
    return [route for family in families for route in netlink.routes(family)]


def _prefix(subnet: IPNetwork) -> Prefix:
    return str(subnet.network_address), subnet.prefixlen


def _where(route: Route) -> Prefix:
    return route.destination, route.prefix_length
