# SPDX-License-Identifier: Apache-2.0
"""The codec of WireGuard devices: bytes written out by hand from <linux/wireguard.h>, and what comes back."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.linux import genetlink, subnetroutes, wireguard
from mooring_agent.linux.netlink import NetlinkError, each_attribute, split
from mooring_agent.linux.wireguard import Device, Peer, Settings

pytestmark = pytest.mark.skipif(struct.pack("=H", 1) != b"\x01\x00", reason="golden bytes are little-endian")

FAMILY = 0x1C
ONE, TWO = bytes(range(32)), bytes(range(100, 132))

NETWORKS = st.one_of(
    st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False),
        st.integers(0, 2**32 - 1),
        st.integers(0, 32),
    ),
    st.builds(
        lambda number, length: ipaddress.ip_network((number, length), strict=False),
        st.integers(2**32, 2**128 - 1),
        st.integers(0, 128),
    ),
).map(lambda network: (str(network.network_address), network.prefixlen))
ENDPOINTS = st.tuples(st.ip_addresses().map(str), st.integers(1, 65535))
PEERS = st.builds(
    Peer,
    st.binary(min_size=32, max_size=32),
    st.none() | ENDPOINTS,
    st.frozensets(NETWORKS, max_size=4),
    st.integers(0, 65535),
)


def golden(text: str) -> bytes:
    """Hexadecimal bytes, with comments after #."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def requests(settings: Settings) -> list[bytes]:
    return list(wireguard.device_set(FAMILY, 7, settings))


def told(requests: list[bytes]) -> Device:
    """What a device is told, read as if the kernel told it: attributes have the same numbers both ways."""
    payloads = [payload for request in requests for _, _, _, payload in split(request)]
    return wireguard.merged(map(wireguard.parse_device, payloads))


def test_asking_for_the_family() -> None:
    assert genetlink.family_get("wireguard") == golden(
        """
        24000000 1000 0500 00000000 00000000  # 36 bytes, GENL_ID_CTRL, REQUEST|ACK
        03 01 0000                            # CTRL_CMD_GETFAMILY, version 1
        0e00 0200 776972656775617264 00 0000  # CTRL_ATTR_FAMILY_NAME wireguard
        """
    )
    answer = golden("01 02 0000  0e00 0200 776972656775617264 00 0000  0600 0100 1c00 0000")
    assert genetlink.parse_family(answer) == FAMILY


def test_asking_for_a_device() -> None:
    assert wireguard.device_get(FAMILY, 7) == golden(
        """
        1c000000 1c00 0103 00000000 00000000  # 28 bytes, the family, REQUEST|DUMP
        00 01 0000                            # WG_CMD_GET_DEVICE, version 1
        0800 0100 07000000                    # WGDEVICE_A_IFINDEX
        """
    )


def test_telling_a_device_its_key_its_port_and_a_peer() -> None:
    peer = Peer(ONE, ("192.0.2.12", 51820), frozenset({("10.220.12.0", 24)}), 25)
    settings = Settings(private_key=TWO, port=51820, peers=(peer,), replaced=frozenset({ONE}))
    assert requests(settings) == [
        golden(
            f"""
            b8000000 1c00 0500 00000000 00000000  # 184 bytes, the family, REQUEST|ACK
            01 01 0000                            # WG_CMD_SET_DEVICE, version 1
            0800 0100 07000000                    # WGDEVICE_A_IFINDEX
            2400 0300 {TWO.hex()}                 # WGDEVICE_A_PRIVATE_KEY
            0600 0600 6cca 0000                   # WGDEVICE_A_LISTEN_PORT
            7000 0880                             # WGDEVICE_A_PEERS, nested
              6c00 0080                           #   0, nested
                2400 0100 {ONE.hex()}             #     WGPEER_A_PUBLIC_KEY
                0800 0300 02000000                #     WGPEER_A_FLAGS: REPLACE_ALLOWEDIPS
                1400 0400 0200 ca6c c000020c 0000000000000000  # WGPEER_A_ENDPOINT: sockaddr_in
                0600 0500 1900 0000               #     WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
                2000 0980                         #     WGPEER_A_ALLOWEDIPS, nested
                  1c00 0080                       #       0, nested
                    0600 0100 0200 0000           #         WGALLOWEDIP_A_FAMILY: AF_INET
                    0800 0200 0adc0c00            #         WGALLOWEDIP_A_IPADDR
                    0500 0300 18 000000           #         WGALLOWEDIP_A_CIDR_MASK
            """
        )
    ]


def test_removing_a_peer() -> None:
    assert requests(Settings(removed=(ONE,))) == [
        golden(
            f"""
            50000000 1c00 0500 00000000 00000000  # 80 bytes
            01 01 0000                            # WG_CMD_SET_DEVICE
            0800 0100 07000000                    # WGDEVICE_A_IFINDEX
            3400 0880                             # WGDEVICE_A_PEERS, nested
              3000 0080                           #   0, nested
                2400 0100 {ONE.hex()}             #     WGPEER_A_PUBLIC_KEY
                0800 0300 01000000                #     WGPEER_A_FLAGS: REMOVE_ME
            """
        )
    ]


def test_an_ipv6_endpoint_and_prefix() -> None:
    peer = Peer(ONE, ("2001:db8::12", 1), frozenset({("fd00::", 64)}))
    [request] = requests(Settings(peers=(peer,)))
    endpoint = golden("2000 0400  0a00 0001 00000000 20010db8000000000000000000000012 00000000")
    prefix = golden("0600 0100 0a00 0000  1400 0200 fd000000000000000000000000000000  0500 0300 40 000000")
    assert endpoint in request
    assert prefix in request


@given(
    st.integers(1, 65535),
    st.lists(PEERS, max_size=8, unique_by=lambda peer: peer.public_key),
)
def test_what_a_device_is_told_is_what_it_is_read_to_have(port: int, peers: list[Peer]) -> None:
    assert told(requests(Settings(port=port, peers=tuple(peers)))) == Device(b"", port, tuple(peers))


def test_many_peers_go_in_several_requests_that_each_fit() -> None:
    peers = tuple(
        Peer(number.to_bytes(32), ("2001:db8::1", 1), frozenset({(f"10.{number >> 8}.{number & 255}.0", 24)}))
        for number in range(2 * wireguard.PEERS_AT_ONCE + 1)
    )
    made = requests(Settings(private_key=ONE, port=9, peers=peers))
    assert len(made) == 3
    assert all(len(request) < 2**16 for request in made)
    assert told(made).peers == peers
    own = [kind for request in made for kind, _ in each_attribute(request, 20)]
    assert own.count(wireguard.WGDEVICE_A_PRIVATE_KEY) == own.count(wireguard.WGDEVICE_A_LISTEN_PORT) == 1


@given(st.lists(NETWORKS, min_size=2, max_size=9, unique=True), st.data())
def test_a_peer_that_is_continued_in_the_next_answer_is_one(
    prefixes: list[tuple[str, int]], data: st.DataObject
) -> None:
    cut = data.draw(st.integers(1, len(prefixes) - 1))
    first = Peer(ONE, ("192.0.2.1", 9), frozenset(prefixes[:cut]), 25)
    rest = Peer(ONE, None, frozenset(prefixes[cut:]))
    whole = wireguard.merged([Device(TWO, 9, (first,)), Device(b"", 0, (rest,))])
    assert whole == Device(TWO, 9, (Peer(ONE, first.endpoint, frozenset(prefixes), 25),))


@given(st.binary(max_size=200))
def test_answers_that_cannot_be_read_are_errors_of_netlink(payload: bytes) -> None:
    with suppress(NetlinkError):
        wireguard.parse_device(payload)


def test_private_keys_are_not_shown() -> None:
    assert ONE.hex() not in repr(Settings(private_key=ONE))
    assert repr(ONE) not in repr(Settings(private_key=ONE))


def test_routes_of_a_subnet() -> None:
    assert subnetroutes.through_set(7, ("10.220.0.0", 16), "10.220.11.1") == golden(
        """
        34000000 1800 0505 00000000 00000000  # 52 bytes, RTM_NEWROUTE, REQUEST|ACK|CREATE|REPLACE
        02 10 00 00 fe 03 fd 01 00000000      # AF_INET, /16, main, boot, on the link, unicast
        0800 0100 0adc0000                    # RTA_DST
        0800 0700 0adc0b01                    # RTA_PREFSRC
        0800 0400 07000000                    # RTA_OIF
        """
    )
    assert subnetroutes.nowhere_set(("10.220.0.0", 16)) == golden(
        """
        2c000000 1800 0505 00000000 00000000
        02 10 00 00 fe 03 00 07 00000000      # everywhere, unreachable
        0800 0100 0adc0000                    # RTA_DST
        0800 0600 f0ffffff                    # RTA_PRIORITY
        """
    )
