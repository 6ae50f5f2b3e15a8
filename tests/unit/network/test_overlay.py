# SPDX-License-Identifier: Apache-2.0
"""Slices of an overlay, of both IP versions: the same on all hosts, apart, kept when others come and go."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network import overlay
from mooring_agent.network.specs import normalise_spec

SUBNET = "10.220.0.0/16"
SUBNET6 = "fd00:220::/48"
HOSTS = st.dictionaries(
    st.from_regex(r"[a-z]{1,4}", fullmatch=True),
    st.integers(1, 254).map(lambda last: f"192.0.2.{last}"),
    min_size=1,
    max_size=8,
).filter(lambda hosts: len(set(hosts.values())) == len(hosts))


FAMILIES = st.sampled_from(
    (
        {"subnet": SUBNET},
        {"subnet": SUBNET, "subnet6": SUBNET6},
        {"subnet": SUBNET, "ipv6": True},
        {"subnet": "10.220.0.0/20", "slice_prefix": 28, "subnet6": "fd00:220::/60"},
        {"ipv4": False, "subnet6": SUBNET6},
        {"ipv4": False, "subnet6": "fd00:220::/112"},
        {"ipv4": False, "ipv6": True},
    )
)


def seen(hosts: Mapping[str, Any], own: str, shared: Mapping[str, Any] | None = None) -> overlay.Overlay:
    given_spec = {"driver": "overlay", "hosts": hosts, "host": own, **(shared or {"subnet": SUBNET})}
    return overlay.overlay_of(normalise_spec(given_spec), "mesh", lambda _: True)


@given(HOSTS, FAMILIES)
def test_all_hosts_see_the_same_slices_and_no_two_overlap(
    hosts: dict[str, str], shared: dict[str, Any]
) -> None:
    views = [seen(hosts, own, shared) for own in hosts]
    assert len({view.hosts for view in views}) == len({view.vni for view in views}) == 1
    assert len({view.subnets for view in views}) == 1
    assert len({host.mac for host in views[0].hosts}) == len(hosts)
    for which, subnet in enumerate(views[0].subnets):
        found = sorted(host.slices[which] for host in views[0].hosts)
        assert all(not one.overlaps(other) for one, other in pairwise(found))
        assert all(one.version == subnet.version and one.subnet_of(subnet) for one in found)


@given(HOSTS, FAMILIES)
def test_slices_of_both_versions_have_the_same_number(hosts: dict[str, str], shared: dict[str, Any]) -> None:
    view = seen(hosts, next(iter(hosts)), shared)
    numbers = [
        {
            int(host.slices[which].network_address) - int(subnet.network_address)
            >> subnet.max_prefixlen - host.slices[which].prefixlen
            for which, subnet in enumerate(view.subnets)
        }
        for host in view.hosts
    ]
    assert all(len(found) == 1 for found in numbers)
    assert numbers == sorted(numbers, key=min)


@given(HOSTS, FAMILIES, st.data())
def test_a_slice_stays_when_others_go(
    hosts: dict[str, str], shared: dict[str, Any], data: st.DataObject
) -> None:
    assume(len(hosts) > 1)
    gone = data.draw(st.sampled_from(sorted(hosts)))
    fewer = {name: address for name, address in hosts.items() if name != gone}
    own = next(iter(fewer))
    before = {host.name: host.slices for host in seen(hosts, own, shared).hosts}
    after = {host.name: host.slices for host in seen(fewer, own, shared).hosts}
    assert after == {name: slice for name, slice in before.items() if name != gone}


@given(HOSTS, FAMILIES)
def test_what_is_kept_is_read_again(hosts: dict[str, str], shared: dict[str, Any]) -> None:
    view = seen(hosts, next(iter(hosts)), shared)
    assert overlay.restored(json.loads(json.dumps(view.view()))) == view


def test_what_was_kept_before_there_was_ipv6_is_read() -> None:
    view = seen({"a": "192.0.2.1"}, "a").view()
    del view["subnet6"], view["hosts"]["a"]["slice6"]
    assert overlay.restored(view) == seen({"a": "192.0.2.1"}, "a")


@pytest.mark.parametrize(
    ("subnet", "prefix"), [("10.0.0.0/8", 16), ("10.0.0.0/16", 24), ("10.0.0.0/24", 28), ("10.0.0.0/29", 30)]
)
def test_size_of_a_slice(subnet: str, prefix: int) -> None:
    given_spec = {"subnet": subnet, "hosts": {"a": {"address": "192.0.2.1", "slice": 1}}}
    [host] = overlay.slices((ipaddress.IPv4Network(subnet), None), given_spec, "mesh")
    assert [slice.prefixlen for slice in host.slices] == [prefix]


@pytest.mark.parametrize(
    ("subnet6", "prefix"),
    [("fd00::/16", 64), ("fd00::/48", 64), ("fd00::/60", 68), ("fd00::/64", 72), ("fd00::/120", 124)],
)
def test_size_of_a_slice_of_ipv6_alone(subnet6: str, prefix: int) -> None:
    [host] = seen({"a": {"address": "192.0.2.1", "slice": 1}}, "a", {"ipv4": False, "subnet6": subnet6}).hosts
    assert [slice.prefixlen for slice in host.slices] == [prefix]


def test_ipv6_addresses_that_nobody_has_named_are_told_by_the_network() -> None:
    def subnet6(**said: Any) -> ipaddress.IPv6Network | None:
        return overlay.subnets_of({"ipv6": True, **said}, said.pop("name", "mesh"))[1]

    # Neither the number of the network nor its encryption, which changes live, is in it.
    assert subnet6() == subnet6(vni=7)
    assert subnet6() != subnet6(name="other")
    assert str(subnet6()).endswith("/48")
    assert subnet6().subnet_of(ipaddress.IPv6Network("fd00::/8"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"subnet6": "fd00::/118"},
            r"subnet6 fd00::/118, which is too small to be shared by 256 slices; .*/116",
        ),
        ({"subnet6": SUBNET6, "gateway6": "fd00:220::1"}, "gateway6 is given with driver overlay"),
        (
            {"subnet": None, "ipv4": False, "ipv6": True, "slice_prefix": 24},
            "slice_prefix, which is about the",
        ),
        ({"ipv6": True, "mtu": 1200}, "expected at least 1280"),
    ],
)
def test_ipv6_that_cannot_be_shared_is_refused(change: dict[str, Any], why: str) -> None:
    spec = {"driver": "overlay", "subnet": SUBNET, "hosts": {"a": "192.0.2.1"}}
    with pytest.raises(InvalidSpec, match=why):
        normalise_spec(spec | change)


@pytest.mark.parametrize("vni", [0, 2**24, True, "²", "7 "])
def test_numbers_that_no_network_has_are_refused(vni: object) -> None:
    with pytest.raises(InvalidSpec, match="expected a number from 1 to 16777215"):
        overlay.normalise({"subnet": SUBNET, "hosts": {"a": {"address": "192.0.2.1"}}, "vni": vni})


@pytest.mark.parametrize("address", ["fe80::1%eth0", "192.0.2", "224.0.0.1", "::", 7.5])
def test_addresses_that_no_host_has_are_refused(address: object) -> None:
    with pytest.raises(InvalidSpec, match="expected that of an interface of it"):
        overlay.normalise({"subnet": SUBNET, "hosts": {"a": {"address": address}}})


def test_slices_that_clash_are_named_with_the_way_out() -> None:
    hosts = {"a": "192.0.2.1", "b": "192.0.3.1"}
    with pytest.raises(InvalidSpec, match=r"hosts a and b would both have slice 1 .*b: {address: 192.0.3.1"):
        overlay.normalise({"subnet": SUBNET, "hosts": hosts})
    settled = {"a": "192.0.2.1", "b": {"address": "192.0.3.1", "slice": 7}}
    [first, second] = seen(settled, "a").hosts
    assert (str(first.slice), str(second.slice)) == ("10.220.1.0/24", "10.220.7.0/24")


def test_hosts_speak_one_ip_version() -> None:
    with pytest.raises(InvalidSpec, match="IPv4 and others with IPv6"):
        overlay.normalise({"subnet": SUBNET, "hosts": {"a": "192.0.2.1", "b": "2001:db8::1"}})
