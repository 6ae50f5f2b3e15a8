# SPDX-License-Identifier: Apache-2.0
"""VXLAN over rtnetlink: the device, its forwarding entries, and neighbours and routes that lead to it.

RFC 7348; formats follow the kernel's Documentation/netlink/specs/rt-{link,neigh,route}.yaml, constants are
from <linux/if_link.h>, <linux/neighbour.h> and <linux/rtnetlink.h>. Building and reading is pure.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    message,
    number,
    text,
    u32,
)
from .rtnetlink import (
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_LINKINFO,
    IFLA_MTU,
    LINK,
    ROUTE,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    RTA_PREFSRC,
    RTM_DELROUTE,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_BOOT,
    ip_bytes,
    mac_bytes,
    well_formed,
)

RTM_NEWNEIGH = 28
RTM_DELNEIGH = 29
RTM_GETNEIGH = 30
NDA_DST = 1
NDA_LLADDR = 2
NTF_SELF = 0x02
NUD_NOARP = 0x40
NUD_PERMANENT = 0x80
IFLA_VXLAN_ID = 1
IFLA_VXLAN_LOCAL = 4
IFLA_VXLAN_LEARNING = 7
IFLA_VXLAN_PORT = 15
IFLA_VXLAN_LOCAL6 = 17
RTNH_F_ONLINK = 4

PORT = 4789  # RFC 7348, section 8

_NEIGHBOUR = struct.Struct("=BxHiHBB")  # ndmsg: family, padding (3 bytes), index, state, flags, type


class Neighbour(NamedTuple):
    """Who is where on a link: a neighbour's address and MAC, or, of a device's forwarding entries, the MAC
    and the underlay address that leads to it. `permanent` ones were made by hand.
    """

    ifindex: int
    address: str
    mac: str
    permanent: bool


def vxlan_add(name: str, *, vni: int, local: str, mac: str, mtu: int) -> bytes:
    """Create the device `name`, down, of the network `vni`, that sends from the underlay address `local`. It
    learns nothing from what it receives and floods nothing: it knows the entries that it is given.
    """
    family, packed = ip_bytes(local)
    data = (
        u32(IFLA_VXLAN_ID, vni)
        + attribute(IFLA_VXLAN_LOCAL6 if family == socket.AF_INET6 else IFLA_VXLAN_LOCAL, packed)
        + attribute(IFLA_VXLAN_LEARNING, b"\0")
        + attribute(IFLA_VXLAN_PORT, struct.pack("!H", PORT))
    )
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        LINK.pack(0, 0, 0, 0, 0),
        text(IFLA_IFNAME, name),
        attribute(IFLA_ADDRESS, mac_bytes(mac)),
        u32(IFLA_MTU, mtu),
        attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vxlan") + attribute(IFLA_INFO_DATA, data)),
    )


def forward_to(ifindex: int, mac: str, underlay: str) -> bytes:
    """Lead frames for a MAC to an underlay address, whatever led them before."""
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, ifindex, NUD_NOARP | NUD_PERMANENT, NTF_SELF, 0)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    entry = attribute(NDA_LLADDR, mac_bytes(mac)) + attribute(NDA_DST, ip_bytes(underlay)[1])
    return message(RTM_NEWNEIGH, flags, body, entry)


def forward_no_more(ifindex: int, mac: str) -> bytes:
    """Forget where a MAC is."""
    body = _NEIGHBOUR.pack(socket.AF_BRIDGE, 0, ifindex, 0, NTF_SELF, 0)
    return message(RTM_DELNEIGH, NLM_F_ACK, body, attribute(NDA_LLADDR, mac_bytes(mac)))


def forwarding_dump() -> bytes:
    """Ask for the forwarding entries of all devices; `parse_neighbour` reads the answers."""
    return message(RTM_GETNEIGH, NLM_F_DUMP, LINK.pack(socket.AF_BRIDGE, 0, 0, 0, 0))


def neighbour_set(ifindex: int, address: str, mac: str) -> bytes:
    """Say for good what MAC a neighbour has, so that nobody is asked."""
    family, packed = ip_bytes(address)
    body = _NEIGHBOUR.pack(family, 0, ifindex, NUD_PERMANENT, 0, 0)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE
    return message(
        RTM_NEWNEIGH, flags, body, attribute(NDA_DST, packed) + attribute(NDA_LLADDR, mac_bytes(mac))
    )


def neighbour_delete(ifindex: int, address: str) -> bytes:
    """Forget a neighbour."""
    family, packed = ip_bytes(address)
    body = _NEIGHBOUR.pack(family, 0, ifindex, 0, 0, 0)
    return message(RTM_DELNEIGH, NLM_F_ACK, body, attribute(NDA_DST, packed))


def neighbour_dump(family: int) -> bytes:
    """Ask for the neighbours of a family on all links; `parse_neighbour` reads the answers."""
    return message(RTM_GETNEIGH, NLM_F_DUMP, _NEIGHBOUR.pack(family, 0, 0, 0, 0, 0))


def route_set(ifindex: int, destination: str, prefix_length: int, gateway: str, source: str) -> bytes:
    """Lead a subnet through a device to a gateway that is behind it although no address says so; who sends
    without an address of its own takes `source`. The route to the subnet that was there is replaced.
    """
    body, route = _route(destination, prefix_length, RTNH_F_ONLINK)
    return message(
        RTM_NEWROUTE,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        body,
        route,
        attribute(RTA_GATEWAY, ip_bytes(gateway)[1]),
        attribute(RTA_PREFSRC, ip_bytes(source)[1]),
        u32(RTA_OIF, ifindex),
    )


def route_delete(ifindex: int, destination: str, prefix_length: int) -> bytes:
    """Remove the route to a subnet through a device."""
    body, route = _route(destination, prefix_length, 0)
    return message(RTM_DELROUTE, NLM_F_ACK, body, route, u32(RTA_OIF, ifindex))


@well_formed
def parse_neighbour(payload: bytes) -> Neighbour | None:
    """Read an answer to `neighbour_dump` or `forwarding_dump`; None for one that leads nowhere: a neighbour
    without a MAC, an entry without an underlay address (of a bridge).
    """
    _, _, ifindex, state, _, _ = _NEIGHBOUR.unpack_from(payload)
    found = attributes(payload, _NEIGHBOUR.size)
    packed = found.get(NDA_DST, b"")
    if NDA_LLADDR not in found or len(packed) not in (4, 16):
        return None
    return Neighbour(ifindex, _address(packed), found[NDA_LLADDR].hex(":"), bool(state & NUD_PERMANENT))


def vxlan_data(linkinfo: bytes) -> tuple[int, str, int]:
    """VNI, local underlay address and port in the IFLA_LINKINFO of a device."""
    data = attributes(attributes(linkinfo).get(IFLA_INFO_DATA, b""))
    packed = data.get(IFLA_VXLAN_LOCAL) or data.get(IFLA_VXLAN_LOCAL6) or bytes(4)
    port = struct.unpack("!H", data.get(IFLA_VXLAN_PORT, b"\0\0"))[0]
    return number(data.get(IFLA_VXLAN_ID)), _address(packed), int(port)


def _route(destination: str, prefix_length: int, flags: int) -> tuple[bytes, bytes]:
    family, packed = ip_bytes(destination)
    body = ROUTE.pack(
        family, prefix_length, 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNICAST, flags
    )
    return body, attribute(RTA_DST, packed)


def _address(packed: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(packed) == 4 else socket.AF_INET6, packed)
