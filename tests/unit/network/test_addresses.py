# SPDX-License-Identifier: Apache-2.0
"""Addresses are given once, from the subnet, and never those that have a meaning."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mooring_agent.errors import Conflict, InvalidSpec
from mooring_agent.network.addresses import AddressPool
from mooring_agent.network.records import IPAddress, Subnet

SUBNET = ipaddress.IPv4Network("10.9.8.0/28")
GATEWAY = ipaddress.IPv4Address("10.9.8.1")
RESERVED = ipaddress.IPv4Address("10.9.8.7")


def pool(
    subnet: str = "10.9.8.0/28", gateway: str = "10.9.8.1", ip_range: str | None = None, **options: object
) -> AddressPool:
    within = None if ip_range is None else ipaddress.ip_network(ip_range)
    return AddressPool(
        "red",
        Subnet(ipaddress.ip_network(subnet), ipaddress.ip_address(gateway), within),
        **options,  # type: ignore[arg-type]
    )


class Pool(RuleBasedStateMachine):
    """Whatever is allocated and released in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool(reserved=[RESERVED])
        self.held: dict[IPAddress, str] = {}
        self.number = 0

    def owner(self) -> str:
        self.number += 1
        return f"c{self.number}"

    @precondition(lambda self: len(self.held) < self.pool.size)
    @rule()
    def allocate(self) -> None:
        owner = self.owner()
        address = self.pool.allocate(owner)
        assert address not in self.held
        self.held[address] = owner

    @precondition(lambda self: len(self.held) == self.pool.size)
    @rule()
    def allocate_too_many(self) -> None:
        with pytest.raises(Conflict, match="no free address left"):
            self.pool.allocate(self.owner())

    @rule(number=st.integers(int(SUBNET.network_address) - 3, int(SUBNET.broadcast_address) + 3))
    def ask(self, number: int) -> None:
        wanted = ipaddress.IPv4Address(number)
        owner = self.owner()
        usable = wanted in list(SUBNET.hosts()) and wanted not in (GATEWAY, RESERVED)
        if usable and wanted not in self.held:
            assert self.pool.allocate(owner, str(wanted)) == wanted
            self.held[wanted] = owner
        else:
            with pytest.raises(Conflict if usable else InvalidSpec):
                self.pool.allocate(owner, str(wanted))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.held, key=int)))
        self.pool.release(address)
        del self.held[address]

    @invariant()
    def agrees(self) -> None:
        assert self.pool.free == self.pool.size - len(self.held)
        assert all(self.pool.owner(address) == owner for address, owner in self.held.items())
        assert not {GATEWAY, RESERVED, SUBNET.network_address, SUBNET.broadcast_address} & set(self.held)


TestPool = Pool.TestCase


@given(st.integers(8, 30))
def test_size_is_what_the_subnet_holds_without_its_gateway(length: int) -> None:
    assert pool(f"10.0.0.0/{length}", "10.0.0.1").size == 2 ** (32 - length) - 3


def test_released_address_rests_until_all_others_had_their_turn() -> None:
    one = pool()
    first = one.allocate("a")
    one.release(first)
    others = [one.allocate("b") for _ in range(one.size - 1)]
    assert first not in others
    assert one.allocate("c") == first


def test_pool_goes_on_after_what_was_taken_before() -> None:
    one = pool(taken={ipaddress.IPv4Address("10.9.8.5"): "a"})
    assert str(one.allocate("b")) == "10.9.8.6"


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("ten", "expected an IPv4 address of 10.9.8.0/28"),
        ("10.9.9.1", "expected one from 10.9.8.1 to 10.9.8.14"),
        ("10.9.8.15", "expected one from"),
        ("10.9.8.1", "is its gateway"),
        ("10.9.8.7", "is reserved"),
    ],
)
def test_unusable_address_is_refused_with_the_reason(wanted: str, why: str) -> None:
    with pytest.raises(InvalidSpec) as refusal:
        pool(reserved=[RESERVED]).allocate("a", wanted)
    assert wanted in refusal.value.message
    assert why in refusal.value.message


def test_taken_address_names_its_owner() -> None:
    one = pool(describe=lambda owner: f"<{owner}>")
    one.allocate("web", "10.9.8.9")
    with pytest.raises(Conflict, match=r"10\.9\.8\.9 of network red is taken by container <web>"):
        one.allocate("other", "10.9.8.9")


def test_addresses_of_the_range_are_given_and_others_only_when_asked_for() -> None:
    one = pool("10.9.8.0/24", ip_range="10.9.8.128/30", reserved=[ipaddress.ip_address("10.9.8.129")])
    assert one.size == one.free == 3
    one.allocate("static", "10.9.8.5")
    assert one.free == 3
    given = {str(one.allocate("any")) for _ in range(3)}
    assert given == {"10.9.8.128", "10.9.8.130", "10.9.8.131"}
    with pytest.raises(Conflict, match=r"no free address left: all 3 of 10\.9\.8\.128/30"):
        one.allocate("more")
    one.release(ipaddress.ip_address("10.9.8.5"))
    assert one.free == 0


def test_a_range_goes_on_after_what_was_taken_within_it() -> None:
    taken = {ipaddress.ip_address("10.9.8.250"): "a", ipaddress.ip_address("10.9.8.16"): "b"}
    one = pool("10.9.8.0/24", ip_range="10.9.8.16/28", taken=taken)
    assert str(one.allocate("c")) == "10.9.8.17"
    assert one.free == one.size - 2 == 14


@given(st.integers(16, 126), st.integers(1, 2**120))
def test_a_pool_of_ipv6_gives_unicast_addresses_in_turn(length: int, number: int) -> None:
    subnet = ipaddress.IPv6Network((0xFD << 120 | number & (2**120 - 1), length), strict=False)
    one = pool(str(subnet), str(subnet.network_address + 1))
    assert one.size == subnet.num_addresses - 2
    first, second = one.allocate("a"), one.allocate("b")
    assert (first, second) == (subnet.network_address + 2, subnet.network_address + 3)
    with pytest.raises(InvalidSpec, match="expected one from"):
        one.allocate("c", str(subnet.network_address))


@pytest.mark.parametrize("wanted", ["10.9.8.3", "fd00::1%eth0", "fd01::1"])
def test_addresses_of_another_version_or_subnet_are_refused(wanted: str) -> None:
    with pytest.raises(InvalidSpec, match="not usable on network red"):
        pool("fd00::/64", "fd00::1").allocate("a", wanted)
