# SPDX-License-Identifier: Apache-2.0
"""What a bridge does beside bridging, over rtnetlink. Pure; constants are from <linux/if_link.h>."""

from __future__ import annotations

import struct

from .netlink import NLM_F_ACK, attribute, message, text
from .rtnetlink import IFLA_IFNAME, IFLA_INFO_DATA, IFLA_INFO_KIND, IFLA_LINKINFO, RTM_NEWLINK

IFLA_BR_NF_CALL_IPTABLES = 36
IFLA_BR_NF_CALL_IP6TABLES = 37

_ANY_LINK = struct.pack("=BxHiII", 0, 0, 0, 0, 0)


def bridge_netfilter(name: str, *, on: bool) -> bytes:
    """Hand the IP packets that the bridge `name` passes on to netfilter, as if they were routed, or do not.

    It needs the module br_netfilter, and says nothing if that is not there.
    """
    value = bytes([on])
    data = attribute(IFLA_BR_NF_CALL_IPTABLES, value) + attribute(IFLA_BR_NF_CALL_IP6TABLES, value)
    return message(
        RTM_NEWLINK,
        NLM_F_ACK,
        _ANY_LINK,
        text(IFLA_IFNAME, name),
        attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "bridge") + attribute(IFLA_INFO_DATA, data)),
    )
