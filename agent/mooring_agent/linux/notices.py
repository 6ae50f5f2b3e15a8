# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of changes to links, addresses and nftables: netlink(7), multicast groups.

A socket here never blocks. Constants are from <linux/rtnetlink.h>, <linux/netfilter/nfnetlink.h>,
<linux/netfilter/nf_tables.h>, <linux/filter.h> and <linux/bpf_common.h>.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from .conntrack import NETLINK_NETFILTER
from .netlink import RECEIVE_BYTES, SOL_NETLINK, NetlinkError, attributes, split, string
from .rtnetlink import IFF_UP, RTM_DELADDR, RTM_DELLINK, RTM_NEWLINK

NETLINK_ADD_MEMBERSHIP = 1
SO_ATTACH_FILTER = 26
RTNLGRP_LINK = 1
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV6_IFADDR = 9
NFNLGRP_NFTABLES = 7
NFNL_SUBSYS_NFTABLES = 10
NFT_MSG_NEWTABLE = 0
NFT_MSG_DELTABLE = 2
NFT_MSG_NEWGEN = 15
NFTA_TABLE = 1
"""The name of the table in every message about a table or what is in it."""
NFTA_GEN_PROC_PID = 2
_NFGENMSG = 4  # its size
_MESSAGES_AT_ONCE = 64

# Where a message of NETLINK_ROUTE has the index of the interface, be it about a link or an address.
_INDEX_OFFSET = 20
_BPF_LD_W_ABS = 0x20
_BPF_JEQ_K = 0x15
_BPF_RET_K = 0x06
_MOST_INDICES = 255  # what a jump of a classic filter reaches over
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, which of them change
_INSTRUCTION = struct.Struct("=HBBI")


class Overrun(Exception):
    """The kernel had more to tell than there was room for, so that something was missed."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A change of nftables that has been carried out: by which thread (its id in the first process
    namespace), and which tables it touched.
    """

    thread: int
    tables: frozenset[str]


class Notices:
    """A socket that receives what some groups are told."""

    def __init__(self, protocol: int, *groups: int) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        try:
            # The kernel tells nobody of the sender's own number, which is 0: an unbound socket's too.
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, which is readable when there is something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hear nothing more."""
        self._socket.close()

    def receive(self) -> list[tuple[int, bytes]]:
        """The type and the payload of what has been told, empty if nothing; not more than some at a time.

        Raises Overrun.
        """
        found: list[tuple[int, bytes]] = []
        for _ in range(_MESSAGES_AT_ONCE):
            try:
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise Overrun from None
            found += ((kind, payload) for kind, _, _, payload in split(data))
        return found


class LinkNotices(Notices):
    """Tells that some links or their addresses have changed, or are gone."""

    def __init__(self) -> None:
        super().__init__(socket.NETLINK_ROUTE, RTNLGRP_LINK, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR)
        self.watch(())

    def watch(self, indices: Collection[int]) -> None:
        """Hear of the links with these indices only: a filter in the kernel, so that what happens to all
        others, such as those of containers that start, costs this process nothing.
        """
        program = link_filter(indices)
        buffer = ctypes.create_string_buffer(program, len(program))
        # sock_fprog: the number of instructions, and where they are
        argument = struct.pack("HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, argument)


class TableNotices(Notices):
    """Tells of changes of nftables."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER, NFNLGRP_NFTABLES)
        self._tables: set[str] = set()

    def transactions(self) -> list[Transaction]:
        """The changes since the last call. Raises Overrun."""
        done = []
        try:
            told = self.receive()
        except Overrun:
            self._tables.clear()
            raise
        for kind, payload in told:
            if kind >> 8 != NFNL_SUBSYS_NFTABLES:
                continue
            try:
                found = attributes(payload, _NFGENMSG)
            except NetlinkError:
                continue  # cut off: something about our table is told by others of the same change
            if kind & 0xFF == NFT_MSG_NEWGEN:
                thread = int.from_bytes(found.get(NFTA_GEN_PROC_PID, b"\0"), "big")
                done.append(Transaction(thread, frozenset(self._tables)))
                self._tables.clear()
            elif NFTA_TABLE in found:
                self._tables.add(string(found[NFTA_TABLE]))
        return done


def bridge_harmed(kind: int, payload: bytes) -> bool:
    """Whether a message about a bridge tells that it has gone, is down or has lost an address; that it has
    got a port or a carrier is of no concern.
    """
    if kind == RTM_NEWLINK:
        return len(payload) >= _LINK.size and not _LINK.unpack_from(payload)[3] & IFF_UP
    return kind in (RTM_DELLINK, RTM_DELADDR)


def link_filter(indices: Collection[int]) -> bytes:
    """A classic BPF program that lets messages about the links with these indices pass, and no other; more
    than a classic program can hold, and it lets all pass.
    """
    wanted = sorted(set(indices))
    if len(wanted) > _MOST_INDICES:
        return _INSTRUCTION.pack(_BPF_RET_K, 0, 0, 0xFFFFFFFF)
    program = [_INSTRUCTION.pack(_BPF_LD_W_ABS, 0, 0, _INDEX_OFFSET)]
    for number, index in enumerate(wanted):
        # A classic filter reads numbers in network byte order; those of netlink are in the host's.
        value = int.from_bytes(struct.pack("=I", index), "big")
        program.append(_INSTRUCTION.pack(_BPF_JEQ_K, len(wanted) - number, 0, value))
    program.append(_INSTRUCTION.pack(_BPF_RET_K, 0, 0, 0))
    program.append(_INSTRUCTION.pack(_BPF_RET_K, 0, 0, 0xFFFFFFFF))
    return b"".join(program)
