# SPDX-License-Identifier: Apache-2.0
"""A chosen subnet overlaps nothing, whatever is there."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import Conflict
from mooring_agent.network.subnets import (
    Occupied,
    check_subnet,
    choose_subnet,
    local_prefix,
    machine_id,
    start_of,
)

PREFIX = ipaddress.IPv4Network("10.210.0.0/20")
subnets = st.builds(
    lambda number, length: Occupied(ipaddress.IPv4Network((number, length), strict=False), "x"),
    st.integers(int(PREFIX.network_address) - 512, int(PREFIX.broadcast_address) + 512),
    st.integers(21, 32),
)


@given(st.lists(subnets, max_size=12), st.integers(0, 2**32))
def test_chosen_subnet_overlaps_nothing_and_none_is_overlooked(occupied: list[Occupied], start: int) -> None:
    free = [
        subnet
        for subnet in PREFIX.subnets(new_prefix=24)
        if not any(subnet.overlaps(entry.subnet) for entry in occupied)
    ]
    if free:
        assert choose_subnet(PREFIX, occupied, start) in free
    else:
        with pytest.raises(Conflict):
            choose_subnet(PREFIX, occupied, start)


def test_agents_side_by_side_begin_at_different_places() -> None:
    assert str(choose_subnet(PREFIX, [], start_of("mooring"))) == "10.210.0.0/24"
    assert start_of("mooring-0a0a0a") != start_of("mooring-0b0b0b")


def test_full_prefix_says_what_fills_it() -> None:
    everything = Occupied(ipaddress.IPv4Network("10.0.0.0/8"), "the host's route 10.0.0.0/8 through tun0")
    with pytest.raises(Conflict, match=r"no free /24 is left in 10\.210\.0\.0/20.*tun0.*--network-prefix"):
        choose_subnet(PREFIX, [everything])


def test_clash_names_what_it_clashes_with() -> None:
    route = Occupied(ipaddress.IPv4Network("10.210.4.0/22"), "the host's route 10.210.4.0/22 through eth1")
    check_subnet("red", ipaddress.IPv4Network("10.210.8.0/24"), [route])
    with pytest.raises(Conflict, match=r"10\.210\.5\.0/24 of network red overlaps the host's route .* eth1"):
        check_subnet("red", ipaddress.IPv4Network("10.210.5.0/24"), [route])


def test_each_agent_has_a_unique_local_prefix_of_its_own() -> None:
    """RFC 4193: fd, 40 bits, a /48; always the same, and another one for each agent and each host."""
    one = local_prefix("mooring", "machine")
    assert one == local_prefix("mooring", "machine")
    assert one.prefixlen == 48
    assert one.network_address.packed[0] == 0xFD
    assert len({one, local_prefix("mooring-1", "machine"), local_prefix("mooring", "other")}) == 3


def test_subnets_of_ipv6_are_chosen_beside_each_other_and_what_is_there() -> None:
    prefix = local_prefix("mooring", "machine")
    first = choose_subnet(prefix, [])
    assert first.prefixlen == 64
    second = choose_subnet(prefix, [Occupied(first, "x"), Occupied(PREFIX, "another version")])
    assert second.network_address == first.network_address + 2**64
    with pytest.raises(Conflict, match=r"no free /64 is left.*name a subnet6"):
        choose_subnet(prefix, [Occupied(ipaddress.ip_network("fc00::/7"), "a VPN")])


def test_a_machine_without_an_id_goes_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "id").write_text("0123abc\n")
    assert machine_id(tmp_path / "id") == "0123abc"
    assert machine_id(tmp_path / "none") == socket.gethostname()
