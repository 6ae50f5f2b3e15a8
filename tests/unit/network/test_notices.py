# SPDX-License-Identifier: Apache-2.0
"""What is heard of the kernel's notices, and what is made of a tracked connection."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.linux.conntrack import parse_flow
from mooring_agent.linux.netlink import NetlinkError, attribute
from mooring_agent.linux.notices import bridge_harmed, link_filter
from mooring_agent.linux.rtnetlink import IFF_UP, RTM_DELADDR, RTM_DELLINK, RTM_NEWADDR, RTM_NEWLINK

_INSTRUCTION = struct.Struct("=HBBI")


def passes(program: bytes, message: bytes) -> bool:
    """What the kernel does with a classic BPF program of loads, jumps and returns."""
    at, accumulator = 0, 0
    while True:
        code, jump_true, jump_false, value = _INSTRUCTION.unpack_from(program, at * _INSTRUCTION.size)
        at += 1
        if code == 0x20:
            if value + 4 > len(message):
                return False
            accumulator = int.from_bytes(message[value : value + 4], "big")
        elif code == 0x15:
            at += jump_true if accumulator == value else jump_false
        else:
            return bool(value)


@given(st.sets(st.integers(1, 2**31 - 1), max_size=300), st.integers(1, 2**31 - 1))
def test_links_that_are_watched_pass_and_no_others(indices: set[int], other: int) -> None:
    program = link_filter(indices)
    for index in [*sorted(indices)[:3], *sorted(indices)[-3:], other]:
        message = bytes(16) + struct.pack("=BxHi", 0, 0, index) + bytes(8)
        assert passes(program, message) == (index in indices or len(indices) > 255)


@pytest.mark.parametrize(
    ("kind", "flags", "harmed"),
    [
        (RTM_NEWLINK, IFF_UP, False),
        (RTM_NEWLINK, 0, True),
        (RTM_DELLINK, IFF_UP, True),
        (RTM_DELADDR, 0, True),
        (RTM_NEWADDR, 0, False),
    ],
)
def test_a_bridge_that_is_down_or_gone_is_harmed(kind: int, flags: int, harmed: bool) -> None:
    assert bridge_harmed(kind, struct.pack("=BxHiII", 0, 0, 7, flags, 0)) == harmed


def flow(family: int, protocol: int, *parts: bytes) -> bytes:
    def address(text: str) -> bytes:
        return socket.inet_pton(family, text)

    v6 = family == socket.AF_INET6
    source, destination, answering = (
        ("fd00::1", "fd00::2", "fd00::3") if v6 else ("10.0.0.1", "10.0.0.2", "10.0.0.3")
    )

    def tuple_(kind: int, one: str, one_port: int, other: str, other_port: int) -> bytes:
        addresses = attribute(3 if v6 else 1, address(one)) + attribute(4 if v6 else 2, address(other))
        ports = (
            b""
            if protocol == socket.IPPROTO_ICMP
            else (attribute(2, struct.pack(">H", one_port)) + attribute(3, struct.pack(">H", other_port)))
        )
        return attribute(
            kind | 0x8000,
            attribute(1 | 0x8000, addresses) + attribute(2 | 0x8000, attribute(1, bytes([protocol])) + ports),
        )

    return (
        struct.pack("=BBH", family, 0, 0)
        + tuple_(1, source, 40000, destination, 8080)
        + tuple_(2, answering, 80, source, 40000)
        + b"".join(parts)
    )


@pytest.mark.parametrize(
    ("state", "open_"), [(0, False), (1, True), (3, True), (5, True), (6, False), (7, False)]
)
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_flow_tells_who_answers_and_whether_it_is_open(family: int, state: int, open_: bool) -> None:
    info = attribute(4 | 0x8000, attribute(1 | 0x8000, attribute(1, bytes([state]))))
    found = parse_flow(flow(family, socket.IPPROTO_TCP, info))
    assert found is not None
    assert (found.destination_port, found.answering_port, found.open) == (8080, 80, open_)
    assert found.answering.endswith("3")


def test_flows_in_a_state_that_is_passed_by_are_not_read() -> None:
    waiting, reset = (
        flow(
            socket.AF_INET,
            socket.IPPROTO_TCP,
            attribute(4 | 0x8000, attribute(1 | 0x8000, attribute(1, bytes([state])))),
        )
        for state in (7, 8)
    )
    assert parse_flow(waiting, (6, 7)) is None
    found = parse_flow(reset, (6, 7))
    assert found is not None
    assert found.reset


def test_datagrams_are_no_open_connection_and_what_has_no_ports_is_no_flow() -> None:
    found = parse_flow(flow(socket.AF_INET, socket.IPPROTO_UDP))
    assert found is not None
    assert not found.open
    assert parse_flow(flow(socket.AF_INET, socket.IPPROTO_ICMP)) is None


@given(st.binary(max_size=200))
def test_a_message_that_cannot_be_read_is_an_error_of_netlink(payload: bytes) -> None:
    try:
        parse_flow(payload)
    except NetlinkError:
        return
