# SPDX-License-Identifier: Apache-2.0
"""Who speaks through a port: a container sends from its own addresses, or is not heard.

A small BPF program at the outer end of every cable, asked for each frame that comes out of a container
(docs/decisions/0011-port-guard.md). It finds the port in a map: which MAC, which IPv4 and IPv6 address may
send there; a port that is not in the map sends nothing. So plugging a container in costs one map entry, and
no firewall transaction.

What passes: IPv4, ARP and IPv6 from the port's own addresses, and what they need to come into being (DHCP
requests, probes for duplicates). What does not: other senders in any of the three, ARP and neighbour
advertisements for addresses of others, tagged frames and other protocols, and what only a router or a DHCP
server says (router advertisements, redirects, queries of multicast routers, DHCP answers).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import MooringError
from ..linux import bpf
from ..linux.bpfcode import FRAME, Assembler
from ..linux.rtnetlink import RouteSocket
from . import ingress

PREFERENCE = 1
NAME = "mooring_guard"
_MOST_PORTS = 65536

# __sk_buff, bpf_func_id of include/uapi/linux/bpf.h, and TC_ACT_* of include/uapi/linux/pkt_cls.h
_SKB_VLAN_PRESENT, _SKB_IFINDEX, _SKB_DATA, _SKB_DATA_END = 20, 40, 76, 80
_MAP_LOOKUP, _LOAD_BYTES = 1, 26
_NEXT_FILTER, _DROP = -1, 2

_KEY = struct.Struct("=I")
# open?, IPv4, MAC, IPv6, the link-local IPv6 of the MAC; further ones of both versions
_VALUE = struct.Struct("=I4s6sxx16s16s4sxxxx16s")
_OPEN, _IPV4, _MAC, _IPV6, _LINK_LOCAL, _FURTHER4, _FURTHER6 = 0, 4, 8, 16, 32, 48, 56

# The frame from its sender's MAC on (byte 6) lies here on the stack, so that all we look at is aligned.
_FRAME_START = 6
_AT = -80
_SENDER, _TYPE, _NETWORK = _AT, _AT + 6, _AT + 8
_SCRATCH = -8


class Sender(NamedTuple):
    """What may come out of a port: `everything` for routers, else frames of these addresses only.

    `further` is at most one address of each IP version.
    """

    mac: str
    ipv4: str | None = None
    ipv6: str | None = None
    everything: bool = False
    further: tuple[str, ...] = ()


def entry(sender: Sender) -> bytes:
    """The value of a port in the map."""
    mac = bytes.fromhex(sender.mac.replace(":", ""))
    # RFC 4291, appendix A: the address that an interface gives itself
    local = b"\xfe\x80" + bytes(6) + bytes([mac[0] ^ 2]) + mac[1:3] + b"\xff\xfe" + mac[3:]
    ipv4 = socket.inet_aton(sender.ipv4 or "0.0.0.0")
    further4 = next((socket.inet_aton(one) for one in sender.further if ":" not in one), ipv4)
    further6 = next((_packed6(one) for one in sender.further if ":" in one), local)
    ipv6 = _packed6(sender.ipv6) if sender.ipv6 else local
    return _VALUE.pack(sender.everything, ipv4, mac, ipv6, local, further4, further6)


def _packed6(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


class PortGuard:
    """The program and its map, made when first needed. Ports that it guards stay guarded without it."""

    def __init__(self) -> None:
        self._map = -1
        self._program = -1
        self._lists: bool | None = None

    def install(self, netlink: RouteSocket, ifindex: int) -> None:
        """Guard an interface: nobody speaks through it who is not admitted."""
        self._open()
        if self._is_listed(ifindex):
            ingress.enlist(ifindex, self._program, NAME)
        else:
            ingress.hang_filter(netlink, ifindex, PREFERENCE, self._program, NAME)

    @property
    def can_settle(self) -> bool:
        """Whether there is a better place for guards than the first one, which costs frames less."""
        if self._lists is None:
            self._lists = ingress.has_lists()
        return self._lists

    def settle(self, netlink: RouteSocket, ifindex: int) -> None:
        """Move an interface's guard there, without a gap: for 10 ms, in which no interface can be changed.

        Raises OSError if there is no such interface any more.
        """
        self._open()
        ingress.enlist(ifindex, self._program, NAME)
        ingress.remove_filter(netlink, ifindex, PREFERENCE)

    def admit(self, ifindex: int, sender: Sender) -> None:
        """Let `sender` speak through a port. Raises MooringError if there are too many."""
        self._open()
        try:
            bpf.set_entry(self._map, _KEY.pack(ifindex), entry(sender))
        except OSError as error:
            raise MooringError(
                f"interface {ifindex} cannot be guarded against false senders: {error.strerror}; at most "
                f"{_MOST_PORTS} ports can be"
            ) from error

    def dismiss(self, ifindexes: Iterable[int]) -> None:
        """Nobody speaks through these ports any more."""
        if self._map == -1:
            return
        for ifindex in ifindexes:
            try:
                bpf.delete_entry(self._map, _KEY.pack(ifindex))
            except OSError as error:
                if error.errno != errno.ENOENT:
                    raise

    def restore(self, netlink: RouteSocket, senders: dict[int, Sender]) -> None:
        """Guard these ports from now on, whatever guards them; not a frame is judged by neither."""
        for ifindex, sender in senders.items():
            self.admit(ifindex, sender)
            self.install(netlink, ifindex)
            if self._is_listed(ifindex):  # then another agent may have left a filter too
                ingress.remove_filter(netlink, ifindex, PREFERENCE)

    def is_on(self, netlink: RouteSocket, ifindex: int) -> bool:
        """Whether an interface has the guard, of this agent or of one before."""
        return self._is_listed(ifindex) or ingress.has_filter(netlink, ifindex, PREFERENCE, NAME)

    def close(self) -> None:
        """Let go of both."""
        for descriptor in (self._map, self._program):
            if descriptor != -1:
                os.close(descriptor)
        self._map = self._program = -1

    def _is_listed(self, ifindex: int) -> bool:
        return self.can_settle and ingress.is_listed(ifindex, NAME)

    def _open(self) -> None:
        if self._program != -1:
            return
        try:
            if self._map == -1:
                self._map = bpf.make_map(_KEY.size, _VALUE.size, _MOST_PORTS, NAME)
            self._program = bpf.load_packet_program(program(self._map), NAME)
        except OSError as error:
            raise MooringError(
                f"containers cannot be kept from false senders: the kernel refused the BPF program "
                f"({error.strerror}); networks need a kernel with BPF and an agent with CAP_SYS_ADMIN"
            ) from error


def program(map: int) -> bytes:
    """The guard's instructions, for a map of this descriptor.

    Registers: 6 the frame, 7 the port's entry, 8 whether an IPv4 packet comes from 0.0.0.0, others for the
    moment.
    """
    code = Assembler()
    code.move(6, 1)
    code.load(4, 2, 6, _SKB_IFINDEX)
    code.store(4, FRAME, _SCRATCH, 2)
    code.load_map(1, map)
    _point(code, 2, _SCRATCH)
    code.call(_MAP_LOOKUP)
    code.jump_if(0, "==", 0, "drop")
    code.move(7, 0)
    code.load(4, 1, 7, _OPEN)
    code.jump_if(1, "!=", 0, "pass")
    code.load(4, 1, 6, _SKB_VLAN_PRESENT)
    code.jump_if(1, "!=", 0, "drop")
    _common(code)
    code.label("by copy")
    _fetch(code, _FRAME_START, _AT, 28)
    _unless_same(code, ((4, _SENDER, _MAC), (2, _SENDER + 4, _MAC + 4)), "drop")
    code.load(2, 1, FRAME, _TYPE)
    for kind, label in ((b"\x08\x00", "ipv4"), (b"\x86\xdd", "ipv6"), (b"\x08\x06", "arp")):
        code.jump_if(1, "==", _as_loaded(kind), label)
    code.jump("drop")
    _arp(code)
    _ipv4(code)
    _ipv6(code)
    code.label("drop")
    code.leave(_DROP)
    code.label("pass")
    code.leave(_NEXT_FILTER)
    return code.assemble()


def _common(code: Assembler) -> None:
    """Nearly all that containers say, judged where it lies: IPv4 from the port's own address, unless it is of
    a DHCP server, and TCP over IPv6. The rest of the program, for which the kernel copies what is looked at,
    decides about everything else, and about frames whose headers do not lie in one piece.
    """
    version, fragment, protocol, source, port = 14, 20, 23, 26, 34
    code.load(4, 2, 6, _SKB_DATA)
    code.load(4, 3, 6, _SKB_DATA_END)
    code.move(4, 2)
    code.add(4, port + 2)
    code.jump_if_greater(4, 3, "by copy")
    for width, at in ((4, 0), (2, 4)):
        code.load(width, 1, 2, _FRAME_START + at)
        code.load(width, 5, 7, _MAC + at)
        code.jump_unless_equal(1, 5, "drop")
    code.load(2, 1, 2, 12)
    code.jump_if(1, "!=", _as_loaded(b"\x08\x00"), "not ipv4")
    code.load(4, 1, 2, source)
    code.load(4, 5, 7, _IPV4)
    code.jump_unless_equal(1, 5, "by copy")
    code.load(1, 1, 2, protocol)
    code.jump_if(1, "!=", socket.IPPROTO_UDP, "pass")
    code.load(1, 1, 2, version)
    code.jump_if(1, "!=", 0x45, "by copy")  # options lie before the port
    code.load(2, 1, 2, fragment)
    code.mask(1, _as_loaded(b"\x1f\xff"))
    code.jump_if(1, "!=", 0, "by copy")
    code.load(2, 1, 2, port)
    code.jump_if(1, "!=", _as_loaded(struct.pack("!H", 67)), "pass")
    code.jump("drop")
    code.label("not ipv4")
    code.jump_if(1, "!=", _as_loaded(b"\x86\xdd"), "by copy")
    following, source = 20, 22
    code.add(4, 54 - port - 2)
    code.jump_if_greater(4, 3, "by copy")
    code.load(1, 1, 2, following)
    code.jump_if(1, "!=", socket.IPPROTO_TCP, "by copy")
    for at in (0, 8):
        code.load(8, 1, 2, source + at)
        code.load(8, 5, 7, _IPV6 + at)
        code.jump_unless_equal(1, 5, "by copy")
    code.jump("pass")


def _arp(code: Assembler) -> None:
    """RFC 826; a sender without an address asks whether somebody has one, RFC 5227."""
    hardware, address = _NETWORK + 8, _NETWORK + 14
    code.label("arp")
    _fetch(code, _FRAME_START, _AT, 36)
    _unless_same(code, ((4, hardware, _MAC), (2, hardware + 4, _MAC + 4)), "drop")
    _unless_zero(code, ((2, address), (2, address + 2)), "arp from an address")
    code.jump("pass")
    code.label("arp from an address")
    _unless_same(code, ((2, address, _IPV4), (2, address + 2, _IPV4 + 2)), "arp from a further one")
    code.jump("pass")
    code.label("arp from a further one")
    _unless_same(code, ((2, address, _FURTHER4), (2, address + 2, _FURTHER4 + 2)), "drop")
    code.jump("pass")


def _ipv4(code: Assembler) -> None:
    """RFC 791, and DHCP's ports of RFC 2131: 68 asks, from no address yet; 67 answers, which no guest may."""
    length, fragment, protocol, source = _NETWORK, _NETWORK + 6, _NETWORK + 9, _NETWORK + 12
    code.label("ipv4")
    code.set(8, 0)
    code.load(4, 1, FRAME, source)
    code.load(4, 2, 7, _IPV4)
    code.jump_if_equal(1, 2, "ipv4 sender")
    code.load(4, 2, 7, _FURTHER4)
    code.jump_if_equal(1, 2, "ipv4 sender")
    code.jump_if(1, "!=", 0, "drop")
    code.set(8, 1)
    code.label("ipv4 sender")
    code.load(1, 1, FRAME, protocol)
    code.jump_if(1, "==", socket.IPPROTO_UDP, "udp")
    code.jump_if(8, "!=", 0, "drop")
    code.jump("pass")
    code.label("udp")
    code.load(2, 1, FRAME, fragment)
    code.mask(1, _as_loaded(b"\x1f\xff"))
    code.jump_if(1, "==", 0, "first fragment")
    code.jump_if(8, "!=", 0, "drop")
    code.jump("pass")
    code.label("first fragment")
    code.load(1, 2, FRAME, length)
    code.mask(2, 15)
    code.shift_left(2, 2)
    code.add(2, 14)
    code.move(1, 6)
    _point(code, 3, _SCRATCH)
    code.set(4, 2)
    code.call(_LOAD_BYTES)
    code.jump_if(0, "!=", 0, "drop")
    code.load(2, 1, FRAME, _SCRATCH)
    code.jump_if(1, "==", _as_loaded(struct.pack("!H", 67)), "drop")
    code.jump_if(8, "==", 0, "pass")
    code.jump_if(1, "==", _as_loaded(struct.pack("!H", 68)), "pass")
    code.jump("drop")


def _ipv6(code: Assembler) -> None:
    """RFC 8200; RFC 4861's messages, which extension headers must not hide (RFC 6980, RFC 7113); RFC 2710."""
    following, source, beyond = _NETWORK + 6, _NETWORK + 8, _NETWORK + 40
    code.label("ipv6")
    _fetch(code, _FRAME_START, _AT, 48)
    _unless_same(code, ((8, source, _IPV6), (8, source + 8, _IPV6 + 8)), "ipv6 link-local")
    code.jump("ipv6 sender")
    code.label("ipv6 link-local")
    _unless_same(code, ((8, source, _LINK_LOCAL), (8, source + 8, _LINK_LOCAL + 8)), "ipv6 further")
    code.jump("ipv6 sender")
    code.label("ipv6 further")
    _unless_same(code, ((8, source, _FURTHER6), (8, source + 8, _FURTHER6 + 8)), "ipv6 from nowhere")
    code.jump("ipv6 sender")
    code.label("ipv6 from nowhere")
    _unless_zero(code, ((8, source), (8, source + 8)), "drop")
    code.label("ipv6 sender")
    code.load(1, 1, FRAME, following)
    code.jump_if(1, "==", socket.IPPROTO_ICMPV6, "icmpv6")
    code.jump_if(1, "==", socket.IPPROTO_HOPOPTS, "hop by hop")
    code.jump_if(1, "==", socket.IPPROTO_UDP, "udp over ipv6")
    for hiding in (socket.IPPROTO_ROUTING, socket.IPPROTO_DSTOPTS):
        code.jump_if(1, "==", hiding, "drop")
    code.jump("pass")
    code.label("udp over ipv6")
    _fetch(code, 54, beyond, 2)
    code.load(2, 1, FRAME, beyond)
    code.jump_if(1, "==", _as_loaded(struct.pack("!H", 547)), "drop")  # a DHCPv6 server, RFC 8415
    code.jump("pass")
    code.label("hop by hop")  # only before what a listener to multicast says
    _fetch(code, 54, beyond, 9)
    code.load(1, 1, FRAME, beyond)
    code.jump_if(1, "!=", socket.IPPROTO_ICMPV6, "drop")
    code.load(1, 1, FRAME, beyond + 1)
    code.jump_if(1, "!=", 0, "drop")
    code.load(1, 1, FRAME, beyond + 8)
    for listener in (131, 132, 143):
        code.jump_if(1, "==", listener, "pass")
    code.jump("drop")
    code.label("icmpv6")
    _fetch(code, 54, beyond, 1)
    code.load(1, 1, FRAME, beyond)
    for of_routers in (130, 134, 137):  # query, router advertisement, redirect
        code.jump_if(1, "==", of_routers, "drop")
    code.jump_if(1, "!=", 136, "pass")  # neighbour advertisement: of whom?
    _fetch(code, 54, beyond, 24)
    target = beyond + 8
    _unless_same(code, ((8, target, _IPV6), (8, target + 8, _IPV6 + 8)), "advertises link-local")
    code.jump("pass")
    code.label("advertises link-local")
    _unless_same(code, ((8, target, _LINK_LOCAL), (8, target + 8, _LINK_LOCAL + 8)), "advertises further")
    code.jump("pass")
    code.label("advertises further")
    _unless_same(code, ((8, target, _FURTHER6), (8, target + 8, _FURTHER6 + 8)), "drop")
    code.jump("pass")


def _fetch(code: Assembler, start: int, to: int, size: int) -> None:
    """Copy bytes of the frame onto the stack; a frame that is too short is dropped."""
    code.move(1, 6)
    code.set(2, start)
    _point(code, 3, to)
    code.set(4, size)
    code.call(_LOAD_BYTES)
    code.jump_if(0, "!=", 0, "drop")


def _point(code: Assembler, register: int, at: int) -> None:
    code.move(register, FRAME)
    code.add(register, at)


def _unless_same(code: Assembler, parts: Iterable[tuple[int, int, int]], label: str) -> None:
    """Jump unless parts (width, where on the stack, where in the port's entry) are alike."""
    for width, on_stack, in_entry in parts:
        code.load(width, 1, FRAME, on_stack)
        code.load(width, 2, 7, in_entry)
        code.jump_unless_equal(1, 2, label)


def _unless_zero(code: Assembler, parts: Iterable[tuple[int, int]], label: str) -> None:
    for width, on_stack in parts:
        code.load(width, 1, FRAME, on_stack)
        code.jump_if(1, "!=", 0, label)


def _as_loaded(wire: bytes) -> int:
    """The number that the machine loads where these bytes are."""
    return int.from_bytes(wire, sys.byteorder)
