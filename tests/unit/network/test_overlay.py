# SPDX-License-Identifier: Apache-2.0
"""Slices of an overlay: the same on all hosts, apart, and kept when others come and go."""

from __future__ import annotations

import ipaddress
from itertools import pairwise

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.network import overlay

SUBNET = "10.220.0.0/16"
HOSTS = st.dictionaries(
    st.from_regex(r"[a-z]{1,4}", fullmatch=True),
    st.integers(1, 254).map(lambda last: f"192.0.2.{last}"),
    min_size=1,
    max_size=8,
).filter(lambda hosts: len(set(hosts.values())) == len(hosts))


def seen(hosts: dict[str, str], own: str) -> overlay.Overlay:
    given_spec = {"subnet": SUBNET, "hosts": hosts, "host": own}
    return overlay.overlay_of({**given_spec, **overlay.normalise(given_spec)}, "mesh", lambda _: True)


@given(HOSTS)
def test_all_hosts_see_the_same_slices_and_no_two_overlap(hosts: dict[str, str]) -> None:
    views = [seen(hosts, own) for own in hosts]
    assert len({view.hosts for view in views}) == len({view.vni for view in views}) == 1
    found = sorted(host.slice for host in views[0].hosts)
    assert all(not one.overlaps(other) for one, other in pairwise(found))
    assert all(one.subnet_of(ipaddress.IPv4Network(SUBNET)) for one in found)
    assert len({host.mac for host in views[0].hosts}) == len(hosts)


@given(HOSTS, st.data())
def test_a_slice_stays_when_others_go(hosts: dict[str, str], data: st.DataObject) -> None:
    assume(len(hosts) > 1)
    gone = data.draw(st.sampled_from(sorted(hosts)))
    fewer = {name: address for name, address in hosts.items() if name != gone}
    own = next(iter(fewer))
    before = {host.name: host.slice for host in seen(hosts, own).hosts}
    after = {host.name: host.slice for host in seen(fewer, own).hosts}
    assert after == {name: slice for name, slice in before.items() if name != gone}


@given(HOSTS)
def test_what_is_kept_is_read_again(hosts: dict[str, str]) -> None:
    view = seen(hosts, next(iter(hosts)))
    assert overlay.restored(view.view()) == view


@pytest.mark.parametrize(
    ("subnet", "prefix"), [("10.0.0.0/8", 16), ("10.0.0.0/16", 24), ("10.0.0.0/24", 28), ("10.0.0.0/29", 30)]
)
def test_size_of_a_slice(subnet: str, prefix: int) -> None:
    given_spec = {"subnet": subnet, "hosts": {"a": {"address": "192.0.2.1", "slice": 1}}}
    [host] = overlay.slices(ipaddress.IPv4Network(subnet), given_spec, "mesh")
    assert host.slice.prefixlen == prefix


@pytest.mark.parametrize("address", ["fe80::1%eth0", "192.0.2", "224.0.0.1", "::", 7.5])
def test_addresses_that_no_host_has_are_refused(address: object) -> None:
    with pytest.raises(InvalidSpec, match="expected that of an interface of it"):
        overlay.normalise({"subnet": SUBNET, "hosts": {"a": {"address": address}}})


def test_slices_that_clash_are_named_with_the_way_out() -> None:
    hosts = {"a": "192.0.2.1", "b": "192.0.3.1"}
    with pytest.raises(InvalidSpec, match=r"hosts a and b would both have slice 1 .*b: {address: 192.0.3.1"):
        overlay.normalise({"subnet": SUBNET, "hosts": hosts})
    settled = {"a": "192.0.2.1", "b": {"address": "192.0.3.1", "slice": 7}}
    [first, second] = seen(settled, "a").hosts  # type: ignore[arg-type]
    assert (str(first.slice), str(second.slice)) == ("10.220.1.0/24", "10.220.7.0/24")


def test_hosts_speak_one_ip_version() -> None:
    with pytest.raises(InvalidSpec, match="IPv4 and others with IPv6"):
        overlay.normalise({"subnet": SUBNET, "hosts": {"a": "192.0.2.1", "b": "2001:db8::1"}})
