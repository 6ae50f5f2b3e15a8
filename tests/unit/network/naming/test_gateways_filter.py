# SPDX-License-Identifier: Apache-2.0
"""Whose packets reach the port at which names are told: those of gateways only."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.network.naming.primary import gateways_filter
from mooring_agent.network.overlay import Host, IPNetwork, Overlay, gateway_of

INSTRUCTION = struct.Struct("=HBBI")
SKF_NET_OFF = 0xFFF00000
UNDERLAY = ipaddress.IPv4Address("192.0.2.1")

SUBNET4, SUBNET6 = ipaddress.IPv4Network("10.220.0.0/15"), ipaddress.IPv6Network("fd00:77::/48")
SLICES4, SLICES6 = list(SUBNET4.subnets(new_prefix=27)), list(SUBNET6.subnets(new_prefix=60))
FOUR = Overlay(SUBNET4, 1, (Host("a", UNDERLAY, SLICES4[5]),), "a")
SIX = Overlay(None, 1, (Host("a", UNDERLAY, None, SLICES6[5]),), "a", SUBNET6)


def passes(program: bytes, source: str) -> bool:
    """Run the program on the header of a packet."""
    address = ipaddress.ip_address(source)
    header = bytes(12) + address.packed if address.version == 4 else bytes(8) + address.packed
    instructions = list(INSTRUCTION.iter_unpack(program))
    accumulator = at = 0
    while True:
        code, true, false, operand = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from(">I", header, operand - SKF_NET_OFF)
        elif code == 0x54:
            accumulator &= operand
        elif code == 0x15:
            at += true if accumulator == operand else false
        else:
            assert code == 0x06
            return operand != 0


@pytest.mark.parametrize(("overlay", "slices"), [(FOUR, SLICES4), (SIX, SLICES6)])
def test_gateways_of_slices_pass(overlay: Overlay, slices: list[IPNetwork]) -> None:
    program = gateways_filter(overlay)
    for slice in slices[::17]:
        assert passes(program, gateway_of(slice))
        for number in (0, 2, 3, 5, slice.num_addresses - 1, slice.num_addresses - 2):
            assert not passes(program, str(slice[number]))


@given(st.ip_addresses(v=4))
def test_nobody_else_passes(address: ipaddress.IPv4Address) -> None:
    assert passes(gateways_filter(FOUR), str(address)) == (
        address in SUBNET4 and str(address) in map(gateway_of, SLICES4)
    )


@given(st.ip_addresses(v=6) | st.ip_addresses(network="fd00:77::/48"))
def test_nobody_else_passes_over_ipv6(address: ipaddress.IPv6Address) -> None:
    ends_with_one = int(address) & (2**68 - 1) == 1
    assert passes(gateways_filter(SIX), str(address)) == (address in SUBNET6 and ends_with_one)
