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

SUBNET = ipaddress.IPv4Network("10.9.8.0/28")
GATEWAY = ipaddress.IPv4Address("10.9.8.1")
RESERVED = ipaddress.IPv4Address("10.9.8.7")


def pool(subnet: str = "10.9.8.0/28", gateway: str = "10.9.8.1", **options: object) -> AddressPool:
    return AddressPool(
        "red",
        ipaddress.IPv4Network(subnet),
        ipaddress.IPv4Address(gateway),
        **options,  # type: ignore[arg-type]
    )


class Pool(RuleBasedStateMachine):
    """Whatever is allocated and released in whatever order."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = pool(reserved=[RESERVED])
        self.held: dict[ipaddress.IPv4Address, str] = {}
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
        address = data.draw(st.sampled_from(sorted(self.held)))
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
