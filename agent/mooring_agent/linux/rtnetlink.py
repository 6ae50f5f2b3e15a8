# SPDX-License-Identifier: Apache-2.0
"""rtnetlink messages: links, addresses, routes. Building and reading them is pure, rtnetlink(7).

Formats follow the kernel's Documentation/netlink/specs/rt-{link,addr,route}.yaml, and constants are from
<linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/if_bridge.h>, <linux/veth.h>, <linux/if.h>.
Addresses are texts here and in network byte order there.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    message,
    number,
    string,
    text,
    u32,
)
from .syscalls import CLONE_NEWNET, setns

T = TypeVar("T")

RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_GETROUTE = 26
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
RTPROT_BOOT = 3
RT_SCOPE_UNIVERSE = 0
RT_SCOPE_LINK = 253
RTN_UNICAST = 1
RTA_DST = 1
RTA_OIF = 4
RTA_GATEWAY = 5
RTA_PREFSRC = 7
RTA_TABLE = 15
RTEXT_FILTER_SKIP_STATS = 8

IFF_UP = 0x1
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_AF_SPEC = 26
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_NET_NS_PID = 19
IFLA_EXT_MASK = 29
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_SLAVE_DATA = 5
IFLA_BRPORT_STATE = 1
IFLA_BRPORT_MODE = 4
IFLA_BRPORT_ISOLATED = 33
VETH_INFO_PEER = 1
IFLA_MACVLAN_MODE = 1
MACVLAN_MODE_PRIVATE = 1
MACVLAN_MODE_VEPA = 2
MACVLAN_MODE_BRIDGE = 4
MACVLAN_MODE_PASSTHRU = 8
BR_STATE_FORWARDING = 3

IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_BROADCAST = 4
IFA_F_NODAD = 0x02

LOOPBACK = 1
"""The index of `lo`, the first interface of every network namespace."""

IPV6_SETTINGS = "/proc/sys/net/ipv6"
"""Missing where the kernel has no IPv6."""

SIOCGIFINDEX = 0x8933  # <linux/sockios.h>

_IFREQ = struct.Struct("@16si20x")  # ifreq: name, index, room for the other members of its union
LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, which of them change
_ADDRESS = struct.Struct("=BBBBi")  # ifaddrmsg: family, prefix length, flags, scope, index
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, two lengths, tos, table, protocol, scope, type, flags
_ADD = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_ANY_LINK = LINK.pack(0, 0, 0, 0, 0)


class Link(NamedTuple):
    """An interface. `kind` is "" for physical ones, `master` the index of its bridge or 0.

    `forwarding` tells whether packets pass a bridge's port.
    """

    ifindex: int
    name: str
    kind: str
    mac: str
    up: bool
    mtu: int
    master: int
    forwarding: bool


class Address(NamedTuple):
    """An address of the interface with this index."""

    ifindex: int
    address: str
    prefix_length: int


class Route(NamedTuple):
    """A route. `destination` is "0.0.0.0" or "::" for the default one, `ifindex` 0 if it names none, `source`
    the address that who has none yet takes, "" if it says none.
    """

    destination: str
    prefix_length: int
    gateway: str
    ifindex: int
    table: int
    kind: int
    source: str = ""


class RouteSocket(NetlinkSocket):
    """A netlink socket that knows what the answers mean."""

    def links(self) -> list[Link]:
        """All links of the namespace."""
        return [parse_link(payload) for payload in self.dump(message(RTM_GETLINK, NLM_F_DUMP, _ANY_LINK))]

    def link(self, name: str) -> Link | None:
        """The link `name`, or None."""
        try:
            return parse_link(self.execute(link_get(name))[0])
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise

    def index(self, name: str) -> int:
        """The index of the link `name`, netdevice(7). Raises OSError if there is none.

        Cheaper than `link`, which makes recent kernels carry out pending changes of the link as well.
        """
        answer = fcntl.ioctl(self, SIOCGIFINDEX, _IFREQ.pack(name.encode(), 0))
        return int(_IFREQ.unpack(answer)[1])

    def addresses(self, family: int = socket.AF_INET) -> list[Address]:
        """All addresses of a family on all links of the namespace."""
        return [parse_address(payload) for payload in self.dump(address_dump(family))]

    def routes(self, family: int = socket.AF_INET) -> list[Route]:
        """All routes of a family, of every table of the namespace."""
        request = message(RTM_GETROUTE, NLM_F_DUMP, ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
        return [parse_route(payload) for payload in self.dump(request)]


def bridge_add(name: str, mac: str, mtu: int | None = None) -> bytes:
    """Create the bridge `name`, up, with a fixed MAC (else it would change with its ports)."""
    return message(
        RTM_NEWLINK,
        _ADD,
        LINK.pack(0, 0, 0, IFF_UP, IFF_UP),
        text(IFLA_IFNAME, name),
        attribute(IFLA_ADDRESS, mac_bytes(mac)),
        _mtu(mtu),
        attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge")),
    )


def veth_add(name: str, *, master: int, peer_name: str, peer_pid: int, mtu: int | None = None) -> bytes:
    """Create a veth pair in one request: `name` here, up, a port of the bridge with index `master`.

    Its peer, down (the kernel refuses it up), is born inside the network namespace of process `peer_pid` with
    this name. The kernel chooses its index and its MAC. Each end has one queue, as by default; but by default
    the kernel makes one for each CPU first and takes them away again, which is a third of all the work.
    """
    queues = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)
    peer = _ANY_LINK + text(IFLA_IFNAME, peer_name) + u32(IFLA_NET_NS_PID, peer_pid) + queues + _mtu(mtu)
    return message(
        RTM_NEWLINK,
        _ADD,
        LINK.pack(0, 0, 0, IFF_UP, IFF_UP),
        text(IFLA_IFNAME, name),
        u32(IFLA_MASTER, master),
        queues,
        _mtu(mtu),
        attribute(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer)),
        ),
    )


def macvlan_add(name: str, *, parent: int, mode: int, pid: int, mtu: int | None = None) -> bytes:
    """Create the macvlan interface `name`, down, on the link with index `parent`, inside the network
    namespace of process `pid`. The kernel chooses its index and its MAC.
    """
    return message(
        RTM_NEWLINK,
        _ADD,
        _ANY_LINK,
        text(IFLA_IFNAME, name),
        u32(IFLA_LINK, parent),
        u32(IFLA_NET_NS_PID, pid),
        _mtu(mtu),
        attribute(
            IFLA_LINKINFO,
            text(IFLA_INFO_KIND, "macvlan") + attribute(IFLA_INFO_DATA, u32(IFLA_MACVLAN_MODE, mode)),
        ),
    )


def bridge_port_set(name: str, *, hairpin: bool, isolated: bool = False) -> bytes:
    """Let the bridge send a frame back through the port `name` by which it came in, or forbid it; between
    ports that are `isolated` it sends none (bridge(8)).
    """
    mode = attribute(IFLA_BRPORT_MODE, bytes([hairpin]))
    if isolated:
        mode += attribute(IFLA_BRPORT_ISOLATED, bytes([isolated]))
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _ANY_LINK,
        text(IFLA_IFNAME, name),
        attribute(
            IFLA_LINKINFO, text(IFLA_INFO_SLAVE_KIND, "bridge") + attribute(IFLA_INFO_SLAVE_DATA, mode)
        ),
    )


def link_local_off(name: str) -> bytes:
    """Let the link `name` have no IPv6 address of its own (addr_gen_mode in the kernel's ip-sysctl.rst): a
    port of a bridge needs none, and what is sent to find others that have it would go to every other port.
    """
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _ANY_LINK,
        text(IFLA_IFNAME, name),
        attribute(IFLA_AF_SPEC, attribute(socket.AF_INET6, mode)),
    )


def link_set(
    ifindex: int,
    *,
    up: bool | None = None,
    mac: str | None = None,
    mtu: int | None = None,
    master: int | None = None,
) -> bytes:
    """Change what is given of the link with this index; `master` 0 takes it out of its bridge."""
    flags, change = (0, 0) if up is None else (IFF_UP if up else 0, IFF_UP)
    return message(
        RTM_SETLINK,
        NLM_F_ACK,
        LINK.pack(0, 0, ifindex, flags, change),
        b"" if mac is None else attribute(IFLA_ADDRESS, mac_bytes(mac)),
        _mtu(mtu),
        b"" if master is None else u32(IFLA_MASTER, master),
    )


def link_get(name: str) -> bytes:
    """Ask for the link `name`; `parse_link` reads the answer."""
    mask = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
    return message(RTM_GETLINK, NLM_F_ACK, _ANY_LINK, text(IFLA_IFNAME, name), mask)


def link_delete(name: str) -> bytes:
    """Delete the link `name`; of a veth pair both ends go. Takes some 15 ms: keep it off a reply's path."""
    return message(RTM_DELLINK, NLM_F_ACK, _ANY_LINK, text(IFLA_IFNAME, name))


def link_move(ifindex: int, name: str, pid: int) -> bytes:
    """Give the link with this index to the network namespace of `pid`, as `name` ("eth%d" takes a number
    that is free there).
    """
    body = LINK.pack(0, 0, ifindex, 0, 0)
    return message(RTM_SETLINK, NLM_F_ACK, body, u32(IFLA_NET_NS_PID, pid), text(IFLA_IFNAME, name))


def address_dump(family: int) -> bytes:
    """Ask for all addresses of a family."""
    return message(RTM_GETADDR, NLM_F_DUMP, _ADDRESS.pack(family, 0, 0, 0, 0))


def address_add(ifindex: int, address: str, prefix_length: int, broadcast: str | None = None) -> bytes:
    """Give the link with this index an IPv4 or IPv6 address; one of IPv6 is usable at once, without a search
    for others who have it (RFC 4862, 5.4).
    """
    family, packed = ip_bytes(address)
    flags = IFA_F_NODAD if family == socket.AF_INET6 else 0
    return message(
        RTM_NEWADDR,
        _ADD,
        _ADDRESS.pack(family, prefix_length, flags, RT_SCOPE_UNIVERSE, ifindex),
        attribute(IFA_LOCAL, packed),
        attribute(IFA_ADDRESS, packed),
        b"" if broadcast is None else attribute(IFA_BROADCAST, ip_bytes(broadcast)[1]),
    )


def address_delete(ifindex: int, address: str, prefix_length: int) -> bytes:
    """Take an address from the link with this index."""
    family, packed = ip_bytes(address)
    body = _ADDRESS.pack(family, prefix_length, 0, RT_SCOPE_UNIVERSE, ifindex)
    return message(RTM_DELADDR, NLM_F_ACK, body, attribute(IFA_LOCAL, packed))


def route_add(
    ifindex: int, *, gateway: str | None, destination: str | None = None, prefix_length: int = 0
) -> bytes:
    """Add a route of the main table through the link with this index.

    Without `destination` it is the default route. `gateway` None means that the destination is on the link
    itself; then a destination is needed.
    """
    family, _ = ip_bytes(gateway or destination or "")
    scope = RT_SCOPE_LINK if gateway is None else RT_SCOPE_UNIVERSE
    return message(
        RTM_NEWROUTE,
        _ADD,
        ROUTE.pack(family, prefix_length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, scope, RTN_UNICAST, 0),
        b"" if destination is None else attribute(RTA_DST, ip_bytes(destination)[1]),
        b"" if gateway is None else attribute(RTA_GATEWAY, ip_bytes(gateway)[1]),
        u32(RTA_OIF, ifindex),
    )


def route_delete(ifindex: int, family: int) -> bytes:
    """Delete the default route of an address family through the link with this index."""
    body = ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    return message(RTM_DELROUTE, NLM_F_ACK, body, u32(RTA_OIF, ifindex))


def socket_inside(pid: int) -> RouteSocket:
    """A socket of the network namespace of process `pid`. Raises OSError if the process is gone."""
    with inside_network(pid):
        return RouteSocket()


@contextmanager
def inside_network(pid: int) -> Iterator[None]:
    """Have the calling thread in the network namespace of process `pid`, setns(2), for sockets and
    /proc/sys/net. Raises OSError if the process is gone.
    """
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        theirs = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(theirs, CLONE_NEWNET)
        finally:
            os.close(theirs)
        try:
            yield
        finally:
            _return_to(own)
    finally:
        os.close(own)


def _return_to(namespace: int) -> None:
    try:
        setns(namespace, CLONE_NEWNET)
    except OSError:
        # A thread that stayed in a container's namespace would harm everybody else there.
        os.abort()


def remove_links(names: Iterable[str]) -> None:
    """Delete those of the links that are there, over a socket of its own: for use in a worker thread."""
    with RouteSocket() as netlink:
        delete_links(netlink, names)


def delete_links(netlink: RouteSocket, names: Iterable[str]) -> None:
    """Delete those of the links that are there."""
    for name in names:
        try:
            netlink.execute(link_delete(name))
        except NetlinkError as error:
            if error.errno != errno.ENODEV:
                raise


def well_formed(parse: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Let a message that the kernel should not have sent be a NetlinkError, whatever is wrong with it."""

    def checked(payload: bytes) -> T:
        try:
            return parse(payload)
        except (struct.error, ValueError, KeyError) as error:
            raise NetlinkError(
                errno.EBADMSG, f"the kernel sent a message that cannot be read: {error}"
            ) from None

    return checked


@well_formed
def parse_link(payload: bytes) -> Link:
    """Read the payload of an RTM_NEWLINK."""
    _, _, ifindex, flags, _ = LINK.unpack_from(payload)
    found = attributes(payload, LINK.size)
    info = attributes(found.get(IFLA_LINKINFO, b""))
    is_port = string(info.get(IFLA_INFO_SLAVE_KIND, b"")) == "bridge"
    port = attributes(info.get(IFLA_INFO_SLAVE_DATA, b"")) if is_port else {}
    return Link(
        ifindex=ifindex,
        name=string(found.get(IFLA_IFNAME, b"")),
        kind=string(info.get(IFLA_INFO_KIND, b"")),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        up=bool(flags & IFF_UP),
        mtu=number(found.get(IFLA_MTU)),
        master=number(found.get(IFLA_MASTER)),
        forwarding=port.get(IFLA_BRPORT_STATE) == bytes([BR_STATE_FORWARDING]),
    )


@well_formed
def parse_address(payload: bytes) -> Address:
    """Read the payload of an RTM_NEWADDR."""
    family, prefix_length, _, _, ifindex = _ADDRESS.unpack_from(payload)
    found = attributes(payload, _ADDRESS.size)
    packed = found.get(IFA_LOCAL) or found[IFA_ADDRESS]
    return Address(ifindex, socket.inet_ntop(family, packed), prefix_length)


@well_formed
def parse_route(payload: bytes) -> Route:
    """Read the payload of an RTM_NEWROUTE."""
    family, prefix_length, _, _, table, _, _, kind, _ = ROUTE.unpack_from(payload)
    found = attributes(payload, ROUTE.size)
    size = 16 if family == socket.AF_INET6 else 4
    gateway, source = found.get(RTA_GATEWAY), found.get(RTA_PREFSRC)
    return Route(
        destination=socket.inet_ntop(family, found.get(RTA_DST, bytes(size))),
        prefix_length=prefix_length,
        gateway="" if gateway is None else socket.inet_ntop(family, gateway),
        ifindex=number(found.get(RTA_OIF)),
        table=number(found[RTA_TABLE]) if RTA_TABLE in found else table,
        kind=kind,
        source="" if source is None else socket.inet_ntop(family, source),
    )


def _mtu(mtu: int | None) -> bytes:
    return b"" if mtu is None else u32(IFLA_MTU, mtu)


def mac_bytes(mac: str) -> bytes:
    """The six bytes of a MAC address. Raises ValueError."""
    packed = bytes.fromhex(mac.replace(":", ""))
    if len(packed) != 6:
        raise ValueError(f"{mac!r} is no MAC address of six bytes")
    return packed


def ip_bytes(address: str) -> tuple[int, bytes]:
    """The family of an IPv4 or IPv6 address, and its bytes."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)
