# SPDX-License-Identifier: Apache-2.0
"""The codec: bytes written out by hand from the kernel's headers, and answers that are malformed."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.linux import netlink, rtnetlink
from mooring_agent.linux.netlink import NetlinkError

pytestmark = pytest.mark.skipif(struct.pack("=H", 1) != b"\x01\x00", reason="golden bytes are little-endian")

MAC = "02:6d:0a:d2:00:02"


def golden(text: str) -> bytes:
    """Hexadecimal bytes, with comments after #."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def test_address_add() -> None:
    assert rtnetlink.address_add(2, "10.210.0.2", 24, "10.210.0.255") == golden(
        """
        30000000 1400 0506 00000000 00000000  # 48 bytes, RTM_NEWADDR, REQUEST|ACK|EXCL|CREATE
        02 18 00 00 02000000                  # AF_INET, /24, universe, index 2
        0800 0200 0ad20002                    # IFA_LOCAL
        0800 0100 0ad20002                    # IFA_ADDRESS
        0800 0400 0ad200ff                    # IFA_BROADCAST
        """
    )


def test_address_of_ipv6_is_not_asked_for() -> None:
    assert rtnetlink.address_add(2, "fd00::2", 64) == golden(
        """
        40000000 1400 0506 00000000 00000000  # 64 bytes, RTM_NEWADDR, REQUEST|ACK|EXCL|CREATE
        0a 40 02 00 02000000                  # AF_INET6, /64, IFA_F_NODAD, universe, index 2
        1400 0200 fd000000 00000000 00000000 00000002  # IFA_LOCAL
        1400 0100 fd000000 00000000 00000000 00000002  # IFA_ADDRESS
        """
    )


def test_macvlan_inside_another_namespace() -> None:
    made = rtnetlink.macvlan_add("eth0", parent=3, mode=rtnetlink.MACVLAN_MODE_BRIDGE, pid=4321, mtu=1400)
    assert made == golden(
        """
        60000000 1000 0506 00000000 00000000  # RTM_NEWLINK
        00 00 0000 00000000 00000000 00000000 # down
        0900 0300 6574683000 000000           # IFLA_IFNAME eth0
        0800 0500 03000000                    # IFLA_LINK
        0800 1300 e1100000                    # IFLA_NET_NS_PID
        0800 0400 78050000                    # IFLA_MTU
        1c00 1200                             # IFLA_LINKINFO
          0c00 0100 6d6163766c616e00          #   IFLA_INFO_KIND macvlan
          0c00 0200                           #   IFLA_INFO_DATA
            0800 0100 04000000                #     IFLA_MACVLAN_MODE bridge
        """
    )


def test_default_route_add() -> None:
    assert rtnetlink.route_add(2, gateway="10.210.0.1") == golden(
        """
        2c000000 1800 0506 00000000 00000000  # RTM_NEWROUTE
        02 00 00 00 fe 03 00 01 00000000      # AF_INET, /0, main, boot, universe, unicast
        0800 0500 0ad20001                    # RTA_GATEWAY
        0800 0400 02000000                    # RTA_OIF
        """
    )


def test_link_up() -> None:
    assert rtnetlink.link_set(1, up=True) == golden(
        """
        20000000 1300 0500 00000000 00000000  # RTM_SETLINK, REQUEST|ACK
        00 00 0000 01000000 01000000 01000000 # index 1, IFF_UP of IFF_UP
        """
    )


def test_veth_with_its_peer_in_another_namespace() -> None:
    made = rtnetlink.veth_add("mv0", master=4, peer_name="eth0", peer_pid=4321)
    assert made == golden(
        """
        8c000000 1000 0506 00000000 00000000  # RTM_NEWLINK
        00 00 0000 00000000 01000000 01000000 # up
        0800 0300 6d763000                    # IFLA_IFNAME mv0
        0800 0a00 04000000                    # IFLA_MASTER
        0800 1f00 01000000                    # IFLA_NUM_TX_QUEUES
        0800 2000 01000000                    # IFLA_NUM_RX_QUEUES
        4c00 1200                             # IFLA_LINKINFO
          0900 0100 7665746800 000000         #   IFLA_INFO_KIND veth
          3c00 0200                           #   IFLA_INFO_DATA
            3800 0100                         #     VETH_INFO_PEER
              00 00 0000 00000000 00000000 00000000
              0900 0300 6574683000 000000     #       IFLA_IFNAME eth0
              0800 1300 e1100000              #       IFLA_NET_NS_PID
              0800 1f00 01000000              #       IFLA_NUM_TX_QUEUES
              0800 2000 01000000              #       IFLA_NUM_RX_QUEUES
        """
    )


@pytest.mark.parametrize("mac", ["02:00", "02:00:00:00:00:00:00", "zz:00:00:00:00:00"])
def test_mac_of_another_length_is_refused(mac: str) -> None:
    with pytest.raises(ValueError):
        rtnetlink.bridge_add("br", mac)


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=64)))
def test_attributes_come_back_as_they_were_packed(wanted: dict[int, bytes]) -> None:
    packed = b"".join(netlink.attribute(kind, payload) for kind, payload in wanted.items())
    assert len(packed) % 4 == 0
    assert netlink.attributes(packed) == wanted


@given(st.binary(max_size=64))
def test_no_answer_is_read_beyond_its_end(payload: bytes) -> None:
    try:
        found = netlink.attributes(payload)
    except NetlinkError:
        found = {}
    assert sum(map(len, found.values())) <= len(payload)


def test_flags_in_an_attribute_type_are_left_out() -> None:
    nested = 0x8000  # NLA_F_NESTED of <linux/netlink.h>
    assert netlink.attributes(netlink.attribute(5 | nested, b"abcd")) == {5: b"abcd"}
