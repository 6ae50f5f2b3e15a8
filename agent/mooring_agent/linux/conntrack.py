# SPDX-License-Identifier: Apache-2.0
"""The kernel's connection tracking over netlink: which connections lead where, and forgetting some.

Formats follow Documentation/netlink/specs/conntrack.yaml; constants are from
<linux/netfilter/nfnetlink.h>, <linux/netfilter/nfnetlink_conntrack.h> and
<linux/netfilter/nf_conntrack_tcp.h>.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Container, Iterator
from typing import NamedTuple

from .netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NetlinkError,
    NetlinkSocket,
    attribute,
    attributes,
    message,
    nested,
    u32,
)

NETLINK_NETFILTER = 12
NFNL_SUBSYS_CTNETLINK = 1
IPCTNL_MSG_CT_GET = 1
IPCTNL_MSG_CT_DELETE = 2
CTA_TUPLE_ORIG = 1
CTA_TUPLE_REPLY = 2
CTA_STATUS = 3
CTA_PROTOINFO = 4
CTA_ID = 12
CTA_ZONE = 18
CTA_FILTER = 25
CTA_STATUS_MASK = 26
CTA_TUPLE_IP = 1
CTA_TUPLE_PROTO = 2
CTA_IP_V4_SRC = 1
CTA_IP_V4_DST = 2
CTA_IP_V6_SRC = 3
CTA_IP_V6_DST = 4
CTA_PROTO_NUM = 1
CTA_PROTO_SRC_PORT = 2
CTA_PROTO_DST_PORT = 3
CTA_PROTOINFO_TCP = 1
CTA_PROTOINFO_SCTP = 3
CTA_PROTOINFO_STATE = 1  # of either
CTA_FILTER_ORIG_FLAGS = 1
CTA_FILTER_REPLY_FLAGS = 2
# CTA_FILTER_FLAG of net/netfilter/nf_conntrack_netlink.c, as libnetfilter_conntrack has them too
CTA_FILTER_IP_SRC = 1 << 0
CTA_FILTER_PROTO_NUM = 1 << 3
CTA_FILTER_PROTO_SRC_PORT = 1 << 4
# <linux/netfilter/nf_conntrack_common.h>
IPS_SEEN_REPLY = 1 << 1
IPS_DST_NAT = 1 << 5

# tcp_conntrack and sctp_conntrack of <linux/netfilter/nf_conntrack_{tcp,sctp}.h>: the states in which
# somebody may still have something to send, from SYN_SENT to CLOSE_WAIT and from COOKIE_WAIT to
# SHUTDOWN_RECD.
_OPEN = {socket.IPPROTO_TCP: range(1, 6), socket.IPPROTO_SCTP: range(2, 7)}

# LAST_ACK and TIME_WAIT.
_ENDING = {socket.IPPROTO_TCP: (6, 7)}

_SYN_SENT = 1
_CLOSE = 8  # by a reset

_FAMILY = struct.Struct("=BBH")  # nfgenmsg: family, version, resource id
_PORT = struct.Struct(">H")
_STATUS = struct.Struct(">I")


class Flow(NamedTuple):
    """A tracked connection, from the side that opened it: where it was sent to, and who answers.

    `state` is that of TCP or SCTP, 0 for other protocols. `original`, `zone` and `id` are what the kernel
    knows it by.
    """

    family: int
    protocol: int
    destination: str
    destination_port: int
    answering: str
    answering_port: int
    state: int
    original: bytes
    zone: bytes
    id: bytes

    @property
    def open(self) -> bool:
        """Whether it is a connection that has not ended; UDP has none."""
        return self.state in _OPEN.get(self.protocol, ())

    @property
    def unanswered(self) -> bool:
        """Whether it is a connection of TCP that somebody asks for, and has had no answer yet."""
        return self.protocol == socket.IPPROTO_TCP and self.state == _SYN_SENT

    @property
    def reset(self) -> bool:
        """Whether it is a connection of TCP that one of its ends has reset."""
        return self.protocol == socket.IPPROTO_TCP and self.state == _CLOSE

    @property
    def translated(self) -> bool:
        """Whether somebody else answers than it was sent to, or at another port."""
        return (self.destination, self.destination_port) != (self.answering, self.answering_port)


class ConntrackSocket(NetlinkSocket):
    """A netlink socket of the tracking of one network namespace. Use it from one thread at a time."""

    def __init__(self) -> None:
        super().__init__(NETLINK_NETFILTER)

    def answered_by(self, address: str, protocol: int) -> list[Flow]:
        """The flows of a protocol that an address answers, whatever address they were sent to; of TCP without
        those that are closing or wait for stragglers, of which a busy server has thousands.

        The kernel looks through all that it tracks, but sends these only (older than 5.8: all).
        """
        flags = CTA_FILTER_IP_SRC | CTA_FILTER_PROTO_NUM
        found = self._flows(*_answered(address, protocol, flags), passing_by=_ENDING.get(protocol, ()))
        return [flow for flow in found if (flow.protocol, flow.answering) == (protocol, address)]

    def forget_unanswered(self, address: str, protocol: int, port: int) -> bool:
        """Delete the flows that have been led to a port of an address and not been answered, each only if
        that holds at the moment when it goes; returns whether the kernel can do this (6.12 and later).
        """
        flags = CTA_FILTER_IP_SRC | CTA_FILTER_PROTO_NUM | CTA_FILTER_PROTO_SRC_PORT
        family, *wanted = _answered(address, protocol, flags, attribute(CTA_PROTO_SRC_PORT, _PORT.pack(port)))
        status = [
            attribute(CTA_STATUS, _STATUS.pack(IPS_DST_NAT)),
            attribute(CTA_STATUS_MASK, _STATUS.pack(IPS_DST_NAT | IPS_SEEN_REPLY)),
        ]
        try:
            self.execute(_message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, family, *wanted, *status))
        except NetlinkError as error:
            # Older kernels take the tuple for that of one flow, and miss its other half.
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise
            return False
        return True

    def of_protocol(self, protocol: int) -> list[Flow]:
        """All flows of a protocol, over IPv4 and IPv6."""
        tuples = nested(CTA_TUPLE_ORIG, nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([protocol]))))
        wanted = nested(
            CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, CTA_FILTER_PROTO_NUM), u32(CTA_FILTER_REPLY_FLAGS, 0)
        )
        return [
            flow
            for family in (socket.AF_INET, socket.AF_INET6)  # the kernel filters within one only
            for flow in self._flows(family, tuples, wanted)
            if flow.protocol == protocol
        ]

    def forget(self, flow: Flow) -> None:
        """Delete a flow, so that its next packet is looked at as a new one's; gone is as well."""
        parts = [nested(CTA_TUPLE_ORIG, flow.original)]
        parts += [
            attribute(kind, value) for kind, value in ((CTA_ZONE, flow.zone), (CTA_ID, flow.id)) if value
        ]
        try:
            self.execute(_message(IPCTNL_MSG_CT_DELETE, NLM_F_ACK, flow.family, *parts))
        except NetlinkError as error:
            if error.errno != errno.ENOENT:
                raise

    def _flows(self, family: int, *wanted: bytes, passing_by: Container[int] = ()) -> Iterator[Flow]:
        """Those that the kernel finds, but none in a state of `passing_by`."""
        for payload in self.dump(_message(IPCTNL_MSG_CT_GET, NLM_F_DUMP, family, *wanted)):
            flow = parse_flow(payload, passing_by)
            if flow is not None:
                yield flow


def parse_flow(payload: bytes, passing_by: Container[int] = ()) -> Flow | None:
    """Read the payload of a message about a flow; None for one of a protocol without ports, or in a state of
    `passing_by`.

    Raises NetlinkError for what the kernel should not have sent.
    """
    try:
        family = _FAMILY.unpack_from(payload)[0]
        found = attributes(payload, _FAMILY.size)
        info = attributes(found.get(CTA_PROTOINFO, b""))
        of_protocol = info.get(CTA_PROTOINFO_TCP) or info.get(CTA_PROTOINFO_SCTP) or b""
        state = attributes(of_protocol).get(CTA_PROTOINFO_STATE, b"\0")[0]
        if state in passing_by:
            return None
        original, reply = found[CTA_TUPLE_ORIG], found[CTA_TUPLE_REPLY]
        protocol, _, _, destination, port = _tuple(family, original)
        _, answering, answering_port, _, _ = _tuple(family, reply)
    except (IndexError, KeyError, struct.error, ValueError) as error:
        if isinstance(error, _NoPorts):
            return None
        raise NetlinkError(
            errno.EBADMSG, f"the kernel sent a connection that cannot be read: {error}"
        ) from None
    return Flow(
        family=family,
        protocol=protocol,
        destination=destination,
        destination_port=port,
        answering=answering,
        answering_port=answering_port,
        state=state,
        original=original,
        zone=found.get(CTA_ZONE, b""),
        id=found.get(CTA_ID, b""),
    )


class _NoPorts(ValueError):
    """A flow of ICMP, GRE and their like."""


def _tuple(family: int, payload: bytes) -> tuple[int, str, int, str, int]:
    """Protocol, source, its port, destination, its port."""
    parts = attributes(payload)
    addresses, proto = attributes(parts[CTA_TUPLE_IP]), attributes(parts[CTA_TUPLE_PROTO])
    if CTA_PROTO_DST_PORT not in proto:
        raise _NoPorts
    source, destination = (
        (CTA_IP_V6_SRC, CTA_IP_V6_DST) if family == socket.AF_INET6 else (CTA_IP_V4_SRC, CTA_IP_V4_DST)
    )
    return (
        proto[CTA_PROTO_NUM][0],
        socket.inet_ntop(family, addresses[source]),
        _PORT.unpack(proto[CTA_PROTO_SRC_PORT])[0],
        socket.inet_ntop(family, addresses[destination]),
        _PORT.unpack(proto[CTA_PROTO_DST_PORT])[0],
    )


def _answered(address: str, protocol: int, flags: int, *port: bytes) -> tuple[int, bytes, bytes]:
    """The family of an address, and what the kernel finds the flows by that it answers."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = CTA_IP_V6_SRC if family == socket.AF_INET6 else CTA_IP_V4_SRC
    reply = nested(
        CTA_TUPLE_REPLY,
        nested(CTA_TUPLE_IP, attribute(kind, socket.inet_pton(family, address))),
        nested(CTA_TUPLE_PROTO, attribute(CTA_PROTO_NUM, bytes([protocol])), *port),
    )
    return (
        family,
        reply,
        nested(CTA_FILTER, u32(CTA_FILTER_ORIG_FLAGS, 0), u32(CTA_FILTER_REPLY_FLAGS, flags)),
    )


def _message(kind: int, flags: int, family: int, *parts: bytes) -> bytes:
    return message(NFNL_SUBSYS_CTNETLINK << 8 | kind, flags, _FAMILY.pack(family, 0, 0), *parts)
