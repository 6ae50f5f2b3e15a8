# SPDX-License-Identifier: Apache-2.0
"""Messages of traffic control and VXLAN, beside bytes written out from the kernel's headers."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.linux import tc, vxlan
from mooring_agent.linux.bpfcode import FRAME, Assembler
from mooring_agent.linux.netlink import NetlinkError

pytestmark = pytest.mark.skipif(struct.pack("=H", 1) != b"\x01\x00", reason="golden bytes are little-endian")


def golden(text: str) -> bytes:
    """Hexadecimal bytes, with comments after #."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def test_clsact() -> None:
    assert tc.clsact_add(7) == golden(
        """
        30000000 2400 0506 00000000 00000000           # RTM_NEWQDISC, REQUEST|ACK|EXCL|CREATE
        00 00 0000 07000000 0000ffff f1ffffff 00000000 # index 7, handle ffff:, parent clsact
        0b00 0100 636c7361637400 00                    # TCA_KIND clsact
        """
    )


def test_token_bucket() -> None:
    assert tc.tbf_replace(7, rate=1_250_000, burst=50_000, limit=125_000) == golden(
        """
        60000000 2400 0505 00000000 00000000           # RTM_NEWQDISC, REQUEST|ACK|REPLACE|CREATE
        00 00 0000 07000000 00000100 ffffffff 00000000 # handle 1:, parent root
        0800 0100 74626600                             # TCA_KIND tbf
        3400 0200                                      # TCA_OPTIONS
          2800 0100                                    #   TCA_TBF_PARMS
            00 01 0000 0000 0000 d0121300              #     Ethernet, 1250000 bytes a second
            000000000000000000000000                   #     no peak
            48e80100 00000000 00000000                 #     limit
          0800 0600 50c30000                           #   TCA_TBF_BURST
        """
    )


def test_rates_beyond_32_bits_have_an_attribute_of_their_own() -> None:
    made = tc.tbf_replace(7, rate=5 * 10**9, burst=10**8, limit=10**9)
    assert b"\xff\xff\xff\xff" + bytes(12) in made
    assert struct.pack("=HHQ", 12, tc.TCA_TBF_RATE64, 5 * 10**9) in made


def test_forwarding_entry() -> None:
    assert vxlan.forward_to(9, "02:76:0a:dc:01:00", "192.0.2.11") == golden(
        """
        30000000 1c00 0505 00000000 00000000           # RTM_NEWNEIGH, REQUEST|ACK|REPLACE|CREATE
        07 00 0000 09000000 c000 02 00                 # AF_BRIDGE, index 9, NOARP|PERMANENT, SELF
        0a00 0200 02760adc0100 0000                    # NDA_LLADDR
        0800 0100 c000020b                             # NDA_DST
        """
    )


def test_route_through_an_overlay() -> None:
    assert vxlan.route_set(9, "10.220.2.0", 24, "10.220.2.1", "10.220.1.1") == golden(
        """
        3c000000 1800 0505 00000000 00000000           # RTM_NEWROUTE, REQUEST|ACK|REPLACE|CREATE
        02 18 00 00 fe 03 00 01 04000000               # AF_INET, /24, main, boot, universe, unicast, ONLINK
        0800 0100 0adc0200                             # RTA_DST
        0800 0500 0adc0201                             # RTA_GATEWAY
        0800 0700 0adc0101                             # RTA_PREFSRC
        0800 0400 09000000                             # RTA_OIF
        """
    )


@given(st.binary(max_size=80))
def test_answers_that_are_malformed_are_errors_of_netlink(payload: bytes) -> None:
    for parse in (tc.parse_qdisc, tc.parse_filter, vxlan.parse_neighbour):
        try:
            parse(payload)
        except NetlinkError:
            continue


def test_jumps_lead_to_labels() -> None:
    code = Assembler()
    code.load(4, 1, FRAME, -8)
    code.jump_if(1, "==", 5, "end")
    code.leave(2)
    code.label("end")
    code.leave(0)
    assert code.assemble() == golden(
        """
        61 a1 f8ff 00000000  # r1 = *(u32 *)(r10 - 8)
        15 01 0200 05000000  # if r1 == 5 goto +2
        b7 00 0000 02000000  # r0 = 2
        95 00 0000 00000000  # exit
        b7 00 0000 00000000  # r0 = 0
        95 00 0000 00000000  # exit
        """
    )
