# SPDX-License-Identifier: Apache-2.0
"""Frames as a hostile container writes them, and who receives them. Formats are those of the RFCs named."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import NamedTuple

from integration.network.topology import Namespace

ETH_P_ALL = 0x0003  # <linux/if_ether.h>
BROADCAST = "ff:ff:ff:ff:ff:ff"
MARK = b"forged by a test "


class Host(NamedTuple):
    """Who somebody is on a link."""

    mac: str
    ipv4: str
    ipv6: str


def packed(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def link_local(mac: str) -> str:
    """RFC 4291, appendix A."""
    raw = packed(mac)
    return str(
        ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([raw[0] ^ 2]) + raw[1:3] + b"\xff\xfe" + raw[3:])
    )


def ethernet(source: str, kind: int, payload: bytes, to: str = BROADCAST) -> bytes:
    return packed(to) + packed(source) + struct.pack("!H", kind) + payload


def udp(
    source: str, sport: int = 4000, dport: int = 4001, to: str = "255.255.255.255", options: bytes = b""
) -> bytes:
    """RFC 791 and 768; the datagram's checksum is left out. `options` are of IP, a multiple of four bytes."""
    datagram = struct.pack("!HHHH", sport, dport, 8 + len(MARK), 0) + MARK
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45 + len(options) // 4, 0, 20 + len(options) + len(datagram), 1, 0, 64, 17, 0,
        socket.inet_aton(source), socket.inet_aton(to),
    ) + options  # fmt: skip
    total = sum(struct.unpack(f"!{len(header) // 2}H", header))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)
    return header[:10] + checksum + header[12:] + datagram


def arp(operation: int, mac: str, address: str, target: str) -> bytes:
    """RFC 826."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, operation)
    return head + packed(mac) + socket.inet_aton(address) + bytes(6) + socket.inet_aton(target) + MARK


def ipv6(source: str, following: int, payload: bytes, to: str = "ff02::1") -> bytes:
    """RFC 8200."""
    head = struct.pack("!IHBB", 6 << 28, len(payload), following, 255)
    return head + socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, to) + payload


def advertisement(target: str) -> bytes:
    """A neighbour advertisement, RFC 4861, section 4.4."""
    return struct.pack("!BBHI", 136, 0, 0, 0x20000000) + socket.inet_pton(socket.AF_INET6, target) + MARK


def received(sender: Namespace, receiver: Namespace, *frames: bytes, ifname: str = "eth0") -> list[bool]:
    """Which of the frames reach the receiver's interface; a legitimate last frame of the test's own, that
    follows them on the same way, must arrive, so that nobody waits for those that were dropped.
    """
    out = sender.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    into = receiver.inside(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)))
    with out, into:
        sender.inside(lambda: out.bind((ifname, 0)))
        receiver.inside(lambda: into.bind((ifname, 0)))
        into.settimeout(5)
        for frame in frames:
            out.send(frame)
        arrived: list[bytes] = []
        while not arrived or arrived[-1] != untagged(frames[-1]):
            frame = into.recv(2000)
            if MARK in frame:
                arrived.append(frame)
    return [untagged(frame) in arrived for frame in frames]


def untagged(frame: bytes) -> bytes:
    """A frame as its receiver sees it, who is told of an 802.1Q tag otherwise, packet(7)."""
    return frame[:12] + frame[16:] if frame[12:14] == b"\x81\x00" else frame
