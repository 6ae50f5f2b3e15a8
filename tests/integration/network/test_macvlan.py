# SPDX-License-Identifier: Apache-2.0
"""Containers with an interface of their own on a network that the host is connected to."""

from __future__ import annotations

import json

import pytest

from integration.network.conftest import Serve
from integration.network.topology import HOST_OUTER, OUTSIDE, OUTSIDE6, Host, NamedNamespace, Refused

pytestmark = pytest.mark.root

LAN = {"driver": "macvlan", "subnet": "198.51.100.0/24", "gateway": OUTSIDE}


@pytest.fixture
def parent(host: Host) -> str:
    """The interface of the host that leads outside."""
    names = [link["ifname"] for link in json.loads(host.run("ip", "-json", "link"))]
    [outer] = [name for name in names if name.startswith("gt")]
    return outer


def test_containers_are_on_the_network_of_the_host(
    host: Host, outside: NamedNamespace, parent: str, serve: Serve
) -> None:
    spec = {**LAN, "parent": parent, "subnet6": "2001:db8::/64", "gateway6": OUTSIDE6}
    network = host.call("create", "lan", spec)
    assert (network["bridge"], network["mode"]) == (None, "bridge")
    one, other = host.container("one"), host.container("other")
    first = one.attach("lan")
    second = other.attach("lan")
    assert {first, second}.isdisjoint({OUTSIDE, HOST_OUTER}), "the host's own address is not given away"
    serve(outside, 80, "outside")
    serve(one, 80, "one")
    serve(outside, 81, "six", address="::")

    assert one.ask(OUTSIDE, 80) == ["outside", first], "seen as it is"
    assert outside.ask(first, 80) == ["one", OUTSIDE]
    assert other.ask(first, 80) == ["one", second]
    [_, address6] = one.ask(OUTSIDE6, 81)
    assert address6 == host.call("endpoints", "one")[0]["ipv6"]
    assert host.call("check") == []
    assert host.links() == []
    assert host.tables() == [], "nothing of it is filtered here"


def test_private_ones_do_not_reach_each_other(host: Host, parent: str, serve: Serve) -> None:
    host.call("create", "lan", {**LAN, "parent": parent, "mode": "private"})
    one, other = host.container(), host.container()
    address = one.attach("lan")
    other.attach("lan")
    serve(one, 80, "one")
    assert other.cannot_reach(address, 80)


def test_a_parent_that_is_handed_through_has_one_container(host: Host, parent: str) -> None:
    host.call("create", "lan", {**LAN, "parent": parent, "mode": "passthru"})
    one, other = host.container(), host.container()
    one.attach("lan")
    with pytest.raises(Refused, match=r"hands its parent .* through to one container") as refusal:
        other.attach("lan")
    assert refusal.value.kind == "Conflict"


def test_a_parent_that_is_not_there(host: Host) -> None:
    with pytest.raises(
        Refused, match="interface gone0, the parent of network lan, does not exist"
    ) as refusal:
        host.call("create", "lan", {**LAN, "parent": "gone0"})
    assert refusal.value.kind == "NotFound"
    assert host.created() == []


def test_a_parent_that_disappears_is_seen_and_told(host: Host) -> None:
    host.run("ip", "link", "add", "gtdummy", "type", "veth", "peer", "gtpeer")
    for end in ("gtdummy", "gtpeer"):
        host.run("ip", "link", "set", end, "up")
    host.call("create", "lan", {"driver": "macvlan", "subnet": "10.60.0.0/24", "parent": "gtdummy"})
    container = host.container("web")
    container.attach("lan")
    host.run("ip", "link", "delete", "gtdummy")

    assert host.call("check") == ["interface gtdummy, the parent of network lan, is missing"]
    other = host.container("other")
    with pytest.raises(Refused, match="does not exist on this host"):
        other.attach("lan")
    host.call("release", "other")
    host.call("disconnect", "web", "lan", container.pid)
    host.call("remove", "lan")
    assert host.call("check") == []


def test_a_parent_that_is_down_is_told(host: Host) -> None:
    host.run("ip", "link", "add", "gtdummy", "type", "veth", "peer", "gtpeer")
    host.call("create", "lan", {"driver": "macvlan", "subnet": "10.60.0.0/24", "parent": "gtdummy"})
    with pytest.raises(Refused, match="is down: bring it up"):
        host.container().attach("lan")


def test_limits_are_refused_since_nothing_could_carry_them_out(host: Host, parent: str) -> None:
    host.call("create", "lan", {**LAN, "parent": parent})
    container = host.container("web")
    container.attach("lan")
    host.call("terms", "web", {"lan": {"rate_in": 1_000_000}}, [])
    with pytest.raises(Refused, match="network_limits cannot hold on network lan, which is of macvlan"):
        host.call("change_terms", "web")
    host.call("release", "web")
    with pytest.raises(Refused, match="network_limits cannot hold on network lan") as refusal:
        host.container("web").attach("lan")
    assert refusal.value.kind == "InvalidSpec"


def test_it_is_taken_off_while_it_runs(host: Host, parent: str) -> None:
    host.call("create", "lan", {**LAN, "parent": parent})
    container = host.container("web")
    container.attach("lan")
    host.call("disconnect", "web", "lan", container.pid)
    assert "eth0" not in container.run("ip", "link")
    assert host.call("endpoints", "web") == []
