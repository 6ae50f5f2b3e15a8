# SPDX-License-Identifier: Apache-2.0
"""Netlink framing and a synchronous socket, of NETLINK_ROUTE unless told otherwise: netlink(7), RFC 3549.

A message is plain `bytes`: the agent prepares those that must be sent inside a container's network namespace
(`linux.rtnetlink` builds them), and the launcher hands them to `execute` there. Nothing but the standard
library is imported, because the launcher imports this module (docs/decisions/0002-own-rtnetlink.md).
Integers are in the host's byte order.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

# <linux/netlink.h>
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLM_F_REQUEST = 0x001
NLM_F_ACK = 0x004
NLM_F_DUMP_INTR = 0x010
NLM_F_ACK_TLVS = 0x200
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLMSGERR_ATTR_MSG = 1
SOL_NETLINK = 270
NETLINK_CAP_ACK = 10
NETLINK_EXT_ACK = 11
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF

RECEIVE_BYTES = 65536
ANSWER_TIMEOUT_S = 5
DUMP_ATTEMPTS = 50  # where containers come and go all the time, a few are not enough

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_CODE = struct.Struct("=i")  # nlmsgerr: a negative errno, then the request's header, then attributes
_U32 = struct.Struct("=I")
_SEQUENCE_OFFSET = 8

# RTM_* of <linux/rtnetlink.h>
_REQUESTS = {
    16: "adding or changing a link",
    17: "deleting a link",
    18: "looking up a link",
    19: "changing a link",
    20: "adding an address",
    21: "deleting an address",
    22: "listing addresses",
    24: "adding a route",
    25: "deleting a route",
    26: "listing routes",
    28: "adding a neighbour",
    29: "deleting a neighbour",
    30: "listing neighbours",
    36: "adding or changing a queueing discipline",
    37: "deleting a queueing discipline",
    38: "listing queueing disciplines",
    44: "adding a filter",
    45: "deleting a filter",
    46: "listing filters",
    # IPCTNL_MSG_* of <linux/netfilter/nfnetlink_conntrack.h>
    0x101: "listing connections",
    0x102: "forgetting a connection",
}

_MAX_ERRNO = 4095  # linux/err.h


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and in the text its extended acknowledgement if it gave one."""


class NetlinkSocket:
    """A socket of the network namespace in which it was opened. Use it from one thread at a time."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, protocol)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        timeout = struct.pack("@ll", ANSWER_TIMEOUT_S, 0)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
        self._sequence = 0

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for ioctl(2)."""
        return self._socket.fileno()

    def execute(self, *messages: bytes) -> list[bytes]:
        """Send all messages at once, wait for the answer to each, return the payloads of what was asked for.

        The kernel carries all of them out, in order, even when one fails; the first failure is then raised as
        NetlinkError. Each message must ask for an acknowledgement.
        """
        if not messages:
            return []
        first = self._send(messages)
        waiting = set(range(first, first + len(messages)))
        payloads: list[bytes] = []
        failure: NetlinkError | None = None
        while waiting:
            for kind, flags, sequence, payload in self._receive():
                if sequence not in waiting:
                    continue
                if kind == NLMSG_ERROR:
                    waiting.discard(sequence)
                    failure = failure or self._failure(messages[sequence - first], flags, payload)
                else:
                    payloads.append(payload)
        if failure is not None:
            raise failure
        return payloads

    def dump(self, request: bytes) -> list[bytes]:
        """The payloads of all entries of a table; asked for again if the table changed meanwhile."""
        for _ in range(DUMP_ATTEMPTS):
            payloads = self._dump_once(request)
            if payloads is not None:
                return payloads
        name = self._name(request)
        raise NetlinkError(errno.EAGAIN, f"{name}: the kernel's table kept changing meanwhile")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dump_once(self, request: bytes) -> list[bytes] | None:
        """What `dump` returns, or None if the kernel says that the table changed meanwhile."""
        expected = self._send((request,))
        payloads: list[bytes] = []
        interrupted = False
        while True:
            for kind, flags, sequence, payload in self._receive():
                if sequence != expected:
                    continue
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_DONE, NLMSG_ERROR):
                    failure = self._failure(request, flags, payload)
                    if failure is not None:
                        raise failure
                    return None if interrupted else payloads
                payloads.append(payload)

    def _send(self, messages: Sequence[bytes]) -> int:
        """Stamp the messages with consecutive sequence numbers, send them, and return the first number."""
        first = self._sequence + 1
        self._sequence += len(messages)
        buffer = bytearray()
        for sequence, data in enumerate(messages, first):
            start = len(buffer)
            buffer += data
            _U32.pack_into(buffer, start + _SEQUENCE_OFFSET, sequence)
        self._socket.send(buffer)
        return first

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except BlockingIOError as error:
            text = f"the kernel did not answer a netlink request within {ANSWER_TIMEOUT_S} s"
            raise NetlinkError(errno.ETIMEDOUT, text) from error
        return split(data)

    def _name(self, request: bytes) -> str:
        """What a request was about, for messages."""
        kind = _HEADER.unpack_from(request)[1]
        return _REQUESTS.get(kind, f"netlink request {kind}")

    def _failure(self, request: bytes, flags: int, payload: bytes) -> NetlinkError | None:
        """The error in the payload of an NLMSG_ERROR or NLMSG_DONE; None for an acknowledgement."""
        code = _CODE.unpack_from(payload)[0] if len(payload) >= _CODE.size else 0
        if code >= 0:
            return None
        reason = os.strerror(-code) if code >= -_MAX_ERRNO else f"error {code}"
        if flags & NLM_F_ACK_TLVS:
            # The request's header stands between; NETLINK_CAP_ACK leaves out its body.
            extended = attributes(payload, _CODE.size + _HEADER.size).get(NLMSGERR_ATTR_MSG)
            if extended:
                reason += f" ({string(extended)})"
        return NetlinkError(-code, f"{self._name(request)}: {reason}")


def execute(messages: Sequence[bytes]) -> None:
    """Send prepared messages in the calling thread's network namespace; this is what the launcher calls.

    Raises NetlinkError for the first one that the kernel refuses.
    """
    if not messages:
        return
    with NetlinkSocket() as netlink:
        netlink.execute(*messages)


def message(kind: int, flags: int, body: bytes, *attributes: bytes) -> bytes:
    """A request: `body` is the fixed structure that its type begins with. The socket numbers it."""
    payload = body + b"".join(attributes)
    return _HEADER.pack(_HEADER.size + len(payload), kind, NLM_F_REQUEST | flags, 0, 0) + payload


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute, padded to four bytes; nested ones are attributes whose payload is attributes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(payload), kind) + payload + bytes(-len(payload) % 4)


def text(kind: int, value: str) -> bytes:
    """An attribute that is a NUL-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """An attribute that is a number of 32 bits."""
    return attribute(kind, _U32.pack(value))


def nested(kind: int, *parts: bytes) -> bytes:
    """An attribute that consists of others, and says so: newer parts of the kernel want to be told."""
    return attribute(kind | NLA_F_NESTED, b"".join(parts))


def attributes(payload: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes that a payload holds from `offset` on; of several of a kind the last."""
    return dict(each_attribute(payload, offset))


def each_attribute(payload: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The kind and the payload of each attribute that a payload holds from `offset` on."""
    while offset + _ATTRIBUTE.size <= len(payload):
        length, kind = _ATTRIBUTE.unpack_from(payload, offset)
        if length < _ATTRIBUTE.size or offset + length > len(payload):
            raise NetlinkError(errno.EBADMSG, "the kernel sent a netlink attribute of an impossible length")
        yield kind & NLA_TYPE_MASK, payload[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def string(payload: bytes) -> str:
    """The text of an attribute's payload."""
    return payload.rstrip(b"\0").decode(errors="replace")


def number(payload: bytes | None) -> int:
    """The number of 32 bits of an attribute's payload; 0 for an attribute that is not there."""
    return 0 if payload is None else int(_U32.unpack(payload)[0])


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The (type, flags, sequence, payload) of each message of a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError(errno.EBADMSG, "the kernel sent a netlink message of an impossible length")
        yield kind, flags, sequence, data[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3
