# SPDX-License-Identifier: Apache-2.0
"""WireGuard devices: made over rtnetlink, told their key and their peers over generic netlink.

Formats and constants are those of <linux/wireguard.h>, which is the documentation as well. Building and
reading is pure. A private key goes in and is never read: whose key it is, the device's public key tells.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from .genetlink import GenericSocket, generic_attributes, generic_message
from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    attribute,
    attributes,
    each_attribute,
    message,
    nested,
    text,
    u32,
)
from .rtnetlink import (
    IFLA_IFNAME,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    LINK,
    RTM_NEWLINK,
    RouteSocket,
    ip_bytes,
    well_formed,
)
from .subnetroutes import Prefix
from .syscalls import CLONE_NEWNET, unshare

KIND = FAMILY = "wireguard"
KEY_BYTES = 32

WG_CMD_GET_DEVICE = 0
WG_CMD_SET_DEVICE = 1
WGDEVICE_A_IFINDEX = 1
WGDEVICE_A_PRIVATE_KEY = 3
WGDEVICE_A_PUBLIC_KEY = 4
WGDEVICE_A_LISTEN_PORT = 6
WGDEVICE_A_PEERS = 8
WGPEER_F_REMOVE_ME = 1
WGPEER_F_REPLACE_ALLOWEDIPS = 2
WGPEER_A_PUBLIC_KEY = 1
WGPEER_A_FLAGS = 3
WGPEER_A_ENDPOINT = 4
WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL = 5
WGPEER_A_ALLOWEDIPS = 9
WGALLOWEDIP_A_FAMILY = 1
WGALLOWEDIP_A_IPADDR = 2
WGALLOWEDIP_A_CIDR_MASK = 3

PEERS_AT_ONCE = 200
"""How many peers go into a message: an attribute holds 64 KiB at most, and a peer takes some 150 bytes."""

_U16 = struct.Struct("=H")
_INET = struct.Struct("=H2s4s8x")  # sockaddr_in: family, port in network byte order, address
_INET6 = struct.Struct("=H2sI16sI")  # sockaddr_in6: family, port, flow, address, scope


@dataclass(frozen=True, slots=True)
class Peer:
    """Another device: its public key, where it is (an address and a UDP port, None where that is not known),
    which addresses are behind it, and after how many seconds of silence it is told that we are there (0: it
    is not).
    """

    public_key: bytes
    endpoint: tuple[str, int] | None
    prefixes: frozenset[Prefix]
    keepalive: int = 0


@dataclass(frozen=True, slots=True)
class Device:
    """A device, or what one answer says of it; `public_key` is b"" as long as it has no private one."""

    public_key: bytes
    port: int
    peers: tuple[Peer, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a device is told: only what is given changes, and of its peers only those that are named.

    `replaced` are those of `peers` that keep none of the addresses that they had, `removed` public keys.
    """

    private_key: bytes | None = field(default=None, repr=False)
    port: int | None = None
    peers: tuple[Peer, ...] = ()
    replaced: frozenset[bytes] = frozenset()
    removed: tuple[bytes, ...] = ()


class WireGuardSocket(GenericSocket):
    """A socket for the WireGuard devices of the network namespace in which it was opened."""

    def device(self, ifindex: int) -> Device:
        """The device with this index. Raises NetlinkError: EOPNOTSUPP if it is of another kind."""
        return merged(map(parse_device, self.dump(device_get(self.family(FAMILY), ifindex))))

    def set(self, ifindex: int, settings: Settings) -> None:
        """Tell a device. Raises NetlinkError, EADDRINUSE if somebody has its port."""
        for request in device_set(self.family(FAMILY), ifindex, settings):
            self.execute(request)


def link_add(name: str, mtu: int | None = None) -> bytes:
    """Create the device `name`, down. Refused with EOPNOTSUPP where the kernel has no WireGuard."""
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        LINK.pack(0, 0, 0, 0, 0),
        text(IFLA_IFNAME, name),
        b"" if mtu is None else u32(IFLA_MTU, mtu),
        attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, KIND)),
    )


def device_get(family: int, ifindex: int) -> bytes:
    """Ask for a device; `parse_device` reads the answers."""
    return generic_message(family, NLM_F_DUMP, WG_CMD_GET_DEVICE, u32(WGDEVICE_A_IFINDEX, ifindex))


def device_set(family: int, ifindex: int, settings: Settings) -> Iterator[bytes]:
    """Requests that tell a device, the first what is its own; those who go, go last."""
    peers = [_peer(peer, afresh=peer.public_key in settings.replaced) for peer in settings.peers]
    peers += map(_removal, settings.removed)
    own = b"" if settings.private_key is None else attribute(WGDEVICE_A_PRIVATE_KEY, settings.private_key)
    if settings.port is not None:
        own += attribute(WGDEVICE_A_LISTEN_PORT, _U16.pack(settings.port))
    for start in range(0, max(len(peers), 1), PEERS_AT_ONCE):
        some = peers[start : start + PEERS_AT_ONCE]
        yield generic_message(
            family,
            NLM_F_ACK,
            WG_CMD_SET_DEVICE,
            u32(WGDEVICE_A_IFINDEX, ifindex),
            own,
            nested(WGDEVICE_A_PEERS, *_listed(some)) if some else b"",
        )
        own = b""


def merged(answers: Iterable[Device]) -> Device:
    """The device of the answers to `device_get`: the first says what is its own, and a peer whose addresses
    are many is continued in the next.
    """
    first, *rest = answers
    peers: dict[bytes, Peer] = {}
    for peer in (*first.peers, *(peer for answer in rest for peer in answer.peers)):
        before = peers.get(peer.public_key)
        known = peer if before is None else replace(before, prefixes=before.prefixes | peer.prefixes)
        peers[peer.public_key] = known
    return replace(first, peers=tuple(peers.values()))


@well_formed
def parse_device(payload: bytes) -> Device:
    """Read one of the answers to `device_get`."""
    found = generic_attributes(payload)
    return Device(
        found.get(WGDEVICE_A_PUBLIC_KEY, b""),
        _number(found.get(WGDEVICE_A_LISTEN_PORT, b"\0\0")),
        tuple(map(_parse_peer, _each(found.get(WGDEVICE_A_PEERS, b"")))),
    )


def _parse_peer(payload: bytes) -> Peer:
    found = attributes(payload)
    return Peer(
        found[WGPEER_A_PUBLIC_KEY],
        _parse_endpoint(found.get(WGPEER_A_ENDPOINT, b"")),
        frozenset(map(_parse_prefix, _each(found.get(WGPEER_A_ALLOWEDIPS, b"")))),
        _number(found.get(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, b"\0\0")),
    )


def public_key(private_key: bytes) -> bytes:
    """The public key of a private one, which the kernel works out for a device in a network namespace that
    lasts as long as this call, so that nobody sees it and nothing can stay. Takes some milliseconds.

    Raises NetlinkError, EOPNOTSUPP where the kernel has no WireGuard, and OSError.
    """
    found: list[bytes] = []
    failures: list[OSError] = []

    def ask() -> None:
        try:
            unshare(CLONE_NEWNET)
            with RouteSocket() as netlink, WireGuardSocket() as wireguard:
                netlink.execute(link_add(KIND))
                index = netlink.index(KIND)
                wireguard.set(index, Settings(private_key=private_key))
                found.append(wireguard.device(index).public_key)
        except OSError as error:
            failures.append(error)

    thread = threading.Thread(target=ask, name="wireguard-key")
    thread.start()
    thread.join()  # each of its requests has a limit of its own
    if failures:
        raise failures[0]
    return found[0]


def _peer(peer: Peer, *, afresh: bool) -> bytes:
    prefixes = [_prefix(*prefix) for prefix in sorted(peer.prefixes)]
    return (
        attribute(WGPEER_A_PUBLIC_KEY, peer.public_key)
        + (u32(WGPEER_A_FLAGS, WGPEER_F_REPLACE_ALLOWEDIPS) if afresh else b"")
        + (b"" if peer.endpoint is None else attribute(WGPEER_A_ENDPOINT, _endpoint(*peer.endpoint)))
        + attribute(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, _U16.pack(peer.keepalive))
        + nested(WGPEER_A_ALLOWEDIPS, *_listed(prefixes))
    )


def _removal(public_key: bytes) -> bytes:
    return attribute(WGPEER_A_PUBLIC_KEY, public_key) + u32(WGPEER_A_FLAGS, WGPEER_F_REMOVE_ME)


def _listed(items: Sequence[bytes]) -> Iterator[bytes]:
    return (nested(0, item) for item in items)


def _prefix(address: str, length: int) -> bytes:
    family, packed = ip_bytes(address)
    return (
        attribute(WGALLOWEDIP_A_FAMILY, _U16.pack(family))
        + attribute(WGALLOWEDIP_A_IPADDR, packed)
        + attribute(WGALLOWEDIP_A_CIDR_MASK, bytes([length]))
    )


def _parse_prefix(payload: bytes) -> Prefix:
    found = attributes(payload)
    return _address(found[WGALLOWEDIP_A_IPADDR]), int.from_bytes(found[WGALLOWEDIP_A_CIDR_MASK])


def _endpoint(address: str, port: int) -> bytes:
    family, packed = ip_bytes(address)
    number = port.to_bytes(2, "big")
    if family == socket.AF_INET:
        return _INET.pack(family, number, packed)
    return _INET6.pack(family, number, 0, packed, 0)


def _parse_endpoint(payload: bytes) -> tuple[str, int] | None:
    if not payload:
        return None
    if _number(payload[:2]) == socket.AF_INET:
        _, port, packed = _INET.unpack(payload)
    else:
        _, port, _, packed, _ = _INET6.unpack(payload)
    return _address(packed), int.from_bytes(port, "big")


def _each(payload: bytes) -> Iterator[bytes]:
    """The items of a list."""
    return (item for _, item in each_attribute(payload))


def _address(packed: bytes) -> str:
    return str(ipaddress.ip_address(packed))


def _number(payload: bytes) -> int:
    return int(_U16.unpack(payload)[0])
