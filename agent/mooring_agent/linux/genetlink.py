# SPDX-License-Identifier: Apache-2.0
"""Generic netlink: families of the kernel that are known by name, and have a number as long as it runs.

Constants are from <linux/genetlink.h>.
"""

from __future__ import annotations

import struct

from .netlink import NLM_F_ACK, NetlinkSocket, attributes, message, text
from .rtnetlink import well_formed

NETLINK_GENERIC = 16  # <linux/netlink.h>
GENL_ID_CTRL = 0x10
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2

_VERSION = 1
_COMMAND = struct.Struct("=BBxx")  # genlmsghdr: command, version, reserved
_U16 = struct.Struct("=H")


class GenericSocket(NetlinkSocket):
    """A netlink socket for the families of the network namespace in which it was opened."""

    def __init__(self) -> None:
        super().__init__(NETLINK_GENERIC)

    def family(self, name: str) -> int:
        """The number of the family `name`. Raises NetlinkError, ENOENT if the kernel has none."""
        return parse_family(self.execute(family_get(name))[0])

    def _name(self, request: bytes) -> str:
        """What a request was about, for messages: numbers say nothing here."""
        return "asking the kernel over generic netlink"


def generic_message(family: int, flags: int, command: int, *attributes: bytes) -> bytes:
    """A request to a family; the socket numbers it."""
    return message(family, flags, _COMMAND.pack(command, _VERSION), *attributes)


def generic_attributes(payload: bytes) -> dict[int, bytes]:
    """The attributes of an answer."""
    return attributes(payload, _COMMAND.size)


def family_get(name: str) -> bytes:
    """Ask for a family; `parse_family` reads the answer."""
    return generic_message(GENL_ID_CTRL, NLM_F_ACK, CTRL_CMD_GETFAMILY, text(CTRL_ATTR_FAMILY_NAME, name))


@well_formed
def parse_family(payload: bytes) -> int:
    """The number of a family."""
    return int(_U16.unpack(generic_attributes(payload)[CTRL_ATTR_FAMILY_ID])[0])
