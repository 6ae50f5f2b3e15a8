# SPDX-License-Identifier: Apache-2.0
"""Routes of whole subnets: into a device that finds out by itself who has an address, and to nowhere.

Constants are from <linux/rtnetlink.h>. Building is pure.
"""

from __future__ import annotations

from .netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, attribute, message, u32
from .rtnetlink import (
    ROUTE,
    RT_SCOPE_LINK,
    RT_SCOPE_UNIVERSE,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_OIF,
    RTA_PREFSRC,
    RTM_DELROUTE,
    RTM_NEWROUTE,
    RTN_UNICAST,
    RTPROT_BOOT,
    ip_bytes,
)

RTN_UNREACHABLE = 7
RT_SCOPE_NOWHERE = 255
RTA_PRIORITY = 6

Prefix = tuple[str, int]
"""An address and the length of its prefix."""

_LAST = 2**32 - 16  # a priority behind that of any route that leads somewhere
_SET = NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE


def through_set(ifindex: int, prefix: Prefix, source: str) -> bytes:
    """Lead a subnet into a device; who sends without an address of its own takes `source`. The route that
    was there is replaced.
    """
    family, packed = ip_bytes(prefix[0])
    return message(
        RTM_NEWROUTE,
        _SET,
        ROUTE.pack(family, prefix[1], 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_LINK, RTN_UNICAST, 0),
        attribute(RTA_DST, packed),
        attribute(RTA_PREFSRC, ip_bytes(source)[1]),
        u32(RTA_OIF, ifindex),
    )


def through_delete(ifindex: int, prefix: Prefix) -> bytes:
    """Remove a route to a subnet through a device."""
    family, packed = ip_bytes(prefix[0])
    body = ROUTE.pack(family, prefix[1], 0, 0, RT_TABLE_MAIN, 0, RT_SCOPE_NOWHERE, 0, 0)
    return message(RTM_DELROUTE, NLM_F_ACK, body, attribute(RTA_DST, packed), u32(RTA_OIF, ifindex))


def nowhere_set(prefix: Prefix) -> bytes:
    """Have addresses of a subnet be unreachable as long as no other route to it says where they are."""
    family, packed = ip_bytes(prefix[0])
    body = ROUTE.pack(
        family, prefix[1], 0, 0, RT_TABLE_MAIN, RTPROT_BOOT, RT_SCOPE_UNIVERSE, RTN_UNREACHABLE, 0
    )
    return message(RTM_NEWROUTE, _SET, body, attribute(RTA_DST, packed), u32(RTA_PRIORITY, _LAST))


def nowhere_delete(prefix: Prefix) -> bytes:
    """Take back `nowhere_set`. Refused with ESRCH if it is not there."""
    family, packed = ip_bytes(prefix[0])
    body = ROUTE.pack(family, prefix[1], 0, 0, RT_TABLE_MAIN, 0, RT_SCOPE_NOWHERE, RTN_UNREACHABLE, 0)
    return message(RTM_DELROUTE, NLM_F_ACK, body, attribute(RTA_DST, packed), u32(RTA_PRIORITY, _LAST))
