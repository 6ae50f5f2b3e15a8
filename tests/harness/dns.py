# SPDX-License-Identifier: Apache-2.0
"""Questions to a name server and what it answers, RFC 1035: as much as tests need."""

from __future__ import annotations

import os
import random
import socket
import struct
from dataclasses import dataclass

from harness.forked import fork
from harness.waiting import PATIENCE

TYPES = {"A": 1, "PTR": 12, "AAAA": 28, "ANY": 255}
NOERROR, NXDOMAIN, REFUSED = 0, 3, 5
_HEADER = struct.Struct(">6H")
_RECURSION_DESIRED = 0x100
_TIMEOUT = 3.0 * PATIENCE  # seconds


@dataclass(frozen=True)
class Answer:
    """The code of an answer, and the addresses or names in it, in their order."""

    code: int
    values: tuple[str, ...]


def reverse(address: str) -> str:
    """The name under which an IPv4 address is asked for."""
    return ".".join(reversed(address.split("."))) + ".in-addr.arpa"


def question(name: str, kind: str = "A") -> bytes:
    """A question as it goes over the wire."""
    labels = b"".join(bytes([len(label)]) + label for label in name.encode().split(b".") if label)
    header = _HEADER.pack(random.randrange(1 << 16), _RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack(">2H", TYPES[kind], 1)


def ask(made: socket.socket, server: str, name: str, kind: str = "A", port: int = 53) -> Answer:
    """Ask over a socket, a datagram or a connected stream. Raises TimeoutError, OSError."""
    made.settimeout(_TIMEOUT)
    message = question(name, kind)
    if made.type == socket.SOCK_DGRAM:
        made.sendto(message, (server, port))
        while (answer := made.recv(65535))[:2] != message[:2]:
            pass  # it is that of an earlier question
        return parse(answer)
    made.connect((server, port))
    made.sendall(struct.pack(">H", len(message)) + message)
    with made.makefile("rb") as stream:
        if len(head := stream.read(2)) < 2:
            raise ConnectionResetError(f"{server} has closed the connection without an answer")
        (length,) = struct.unpack(">H", head)
        return parse(stream.read(length))


def parse(message: bytes) -> Answer:
    """What an answer says."""
    _, flags, questions, answers, _, _ = _HEADER.unpack_from(message)
    offset = _HEADER.size
    for _ in range(questions):
        _, offset = _name(message, offset)
        offset += 4
    values = []
    for _ in range(answers):
        _, offset = _name(message, offset)
        kind, _, _, length = struct.unpack_from(">2HIH", message, offset)
        offset += 10
        if kind == TYPES["PTR"]:
            values.append(_name(message, offset)[0])
        elif kind in (TYPES["A"], TYPES["AAAA"]):
            family = socket.AF_INET if kind == TYPES["A"] else socket.AF_INET6
            values.append(socket.inet_ntop(family, message[offset : offset + length]))
        offset += length
    return Answer(flags & 15, tuple(values))


def inside(
    pid: int,
    kind: socket.SocketKind = socket.SOCK_DGRAM,
    family: socket.AddressFamily = socket.AF_INET,
) -> socket.socket:
    """A socket in the network namespace of a process, made by a child that hands it over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = fork()
        if child == 0:
            status = 1
            try:
                _enter(pid)
                with socket.socket(family, kind) as made:
                    socket.send_fds(theirs, [b"."], [made.fileno()])
                status = 0
            finally:
                os._exit(status)
        _, status = os.waitpid(child, 0)
        if status != 0:
            raise OSError(f"no socket could be made in the network namespace of process {pid}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return socket.socket(fileno=descriptors[0])


def _enter(pid: int) -> None:
    from mooring_agent.linux import syscalls

    descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    syscalls.setns(descriptor, 0)


def _name(message: bytes, offset: int) -> tuple[str, int]:
    labels = []
    end = 0
    while length := message[offset]:
        if length & 0xC0:
            end = end or offset + 2
            offset = (length & 0x3F) << 8 | message[offset + 1]
            continue
        labels.append(message[offset + 1 : offset + 1 + length].decode())
        offset += 1 + length
    return ".".join(labels), end or offset + 1
