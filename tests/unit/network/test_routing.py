# SPDX-License-Identifier: Apache-2.0
"""Which network carries a container's default routes."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.network.records import Endpoint, Network, Subnet
from mooring_agent.network.routing import default_routes

NAMES = ("blue", "red", "green")


def network(name: str, versions: tuple[int, ...], *, internal: bool = False) -> Network:
    subnets = {
        4: Subnet(ipaddress.ip_network("10.0.0.0/24"), ipaddress.ip_address("10.0.0.1")),
        6: Subnet(ipaddress.ip_network("fd00::/64"), ipaddress.ip_address("fd00::1")),
    }
    return Network(
        name=name,
        number=0,
        driver="bridge",
        ipv4=subnets[4] if 4 in versions else None,
        ipv6=subnets[6] if 6 in versions else None,
        nat=True,
        internal=internal,
        labels={},
        bridge="mr0",
        created_at=0.0,
    )


def endpoint(where: Network) -> Endpoint:
    return Endpoint(
        network=where.name,
        container_id="web",
        ipv4="10.0.0.2" if where.ipv4 else None,
        prefix_length=24 if where.ipv4 else 0,
        gateway="10.0.0.1" if where.ipv4 else None,
        mac="02:00:00:00:00:01",
        host_ifname="mv0",
        ipv6="fd00::2" if where.ipv6 else None,
        prefix_length6=64 if where.ipv6 else 0,
        gateway6="fd00::1" if where.ipv6 else None,
    )


def chosen(*networks: Network, preferred: tuple[str, ...] = ()) -> dict[str, tuple[int, ...]]:
    return default_routes(
        [endpoint(each) for each in networks], {each.name: each for each in networks}, preferred
    )


def test_the_first_one_with_a_way_out_carries_both() -> None:
    inner, blue, red = (
        network("inner", (4, 6), internal=True),
        network("blue", (4, 6)),
        network("red", (4, 6)),
    )
    assert chosen(inner, blue, red) == {"inner": (), "blue": (4, 6), "red": ()}


def test_each_version_goes_its_own_way() -> None:
    assert chosen(network("blue", (4,)), network("red", (6,))) == {"blue": (4,), "red": (6,)}


def test_one_that_is_preferred_comes_first_for_what_it_has() -> None:
    blue, red = network("blue", (4, 6)), network("red", (6,))
    assert chosen(blue, red, preferred=("red",)) == {"blue": (4,), "red": (6,)}


def test_one_that_is_preferred_and_internal_carries_none() -> None:
    blue, inner = network("blue", (4,)), network("inner", (4,), internal=True)
    assert chosen(blue, inner, preferred=("inner",)) == {"blue": (4,), "inner": ()}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(NAMES),
            st.sampled_from([(4,), (6,), (4, 6)]),
            st.booleans(),
        ),
        unique_by=lambda entry: entry[0],
    ),
    st.sets(st.sampled_from(NAMES), max_size=1),
)
def test_each_version_has_one_way_out_if_there_is_any(
    given_networks: list[tuple[str, tuple[int, ...], bool]], preferred: set[str]
) -> None:
    networks = [network(name, versions, internal=internal) for name, versions, internal in given_networks]
    routes = chosen(*networks, preferred=tuple(preferred))
    for version in (4, 6):
        able = [name for name, versions, internal in given_networks if version in versions and not internal]
        carrying = [name for name, versions in routes.items() if version in versions]
        assert len(carrying) == min(1, len(able))
        assert set(carrying) <= set(able)
        if preferred & set(able):
            assert carrying == list(preferred)
