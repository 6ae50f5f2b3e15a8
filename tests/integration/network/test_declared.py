# SPDX-License-Identifier: Apache-2.0
"""Networks as they are declared: subnets, addresses, and refusals that leave nothing behind."""

from __future__ import annotations

import pytest

from integration.network.topology import Host, Refused

pytestmark = pytest.mark.root


def test_subnet_is_chosen_beside_everything_that_is_used(host: Host) -> None:
    first = host.call("create", "first", {})["subnet"]
    host.call("remove", "first")
    host.run("ip", "route", "add", "blackhole", first)

    second = host.call("create", "second", {})["subnet"]
    third = host.call("create", "third", {})["subnet"]

    assert len({first, second, third}) == 3
    assert host.call("check") == []


@pytest.mark.parametrize(
    ("subnet", "why"),
    [
        ("198.51.100.0/25", r"overlaps the host's route 198\.51\.100\.0/24 through gt"),
        ("10.50.1.0/24", r"overlaps the host's route 10\.50\.0\.0/16"),
        ("10.60.0.0/16", "overlaps network other"),
    ],
)
def test_subnet_that_is_used_is_refused_with_its_user(host: Host, subnet: str, why: str) -> None:
    host.run("ip", "route", "add", "blackhole", "10.50.0.0/16")
    host.call("create", "other", {"subnet": "10.60.3.0/24"})
    links, tables = host.links(), host.tables()

    with pytest.raises(Refused, match=f"subnet .* of network clash {why}") as refusal:
        host.call("create", "clash", {"subnet": subnet})

    assert refusal.value.kind == "Conflict"
    assert host.created() == ["other"]
    assert (host.links(), host.tables()) == (links, tables)


def test_plan_is_what_creation_does_and_touches_nothing(host: Host) -> None:
    planned, none = host.call("plan_subnets", "red", {})
    assert none is None
    assert host.links() == []
    assert host.call("create", "red", {})["subnet"] == planned["cidr"]
    with pytest.raises(Refused, match="'host' is not usable: it is built in"):
        host.call("plan_subnets", "host", {})


def test_failed_creation_leaves_nothing(host: Host) -> None:
    name = f"{host.config.bridge_prefix}1"  # the first one is that of the default network
    host.run("ip", "link", "add", name, "type", "veth")

    with pytest.raises(Refused, match=f"needs the interface name {name}, which a veth interface"):
        host.call("create", "red", {})

    assert host.created() == []
    host.run("ip", "link", "delete", name)
    host.call("create", "red", {})
    assert host.call("check") == []


def test_asked_for_subnet_gateway_and_address(host: Host) -> None:
    host.call("create", "blue", {"subnet": "10.60.0.0/29", "gateway": "10.60.0.6"})
    container = host.container()

    assert container.attach("blue", "10.60.0.5") == "10.60.0.5"
    assert "default via 10.60.0.6 dev eth0" in container.run("ip", "route")
    assert "inet 10.60.0.5/29 brd 10.60.0.7 " in container.run("ip", "address", "show", "eth0")
    assert "LOOPBACK,UP" in container.run("ip", "link", "show", "lo")


def test_asked_again_a_container_gets_the_same_address(host: Host) -> None:
    host.call("create", "blue", {"subnet": "10.60.0.0/29"})
    first = host.call("allocate", "blue", "web")
    assert host.call("allocate", "blue", "web") == first
    moved = host.call("allocate", "blue", "web", "10.60.0.5")
    assert moved["ipv4"] == "10.60.0.5"
    assert host.call("endpoints", "web") == [moved]
    host.call("release", "web")
    assert host.call("endpoints", "web") == []
    host.call("allocate", "blue", "other", first["ipv4"])


def test_exhausted_network_says_so(host: Host) -> None:
    host.call("create", "tiny", {"subnet": "10.60.0.0/30"})
    host.call("allocate", "tiny", "web")
    with pytest.raises(Refused, match=r"network tiny has no free address left: all 1 of 10\.60\.0\.0/30"):
        host.call("allocate", "tiny", "other")
    assert host.call("endpoints", "other") == []


def test_unknown_network_names_those_there_are(host: Host) -> None:
    host.call("create", "red", {})
    with pytest.raises(Refused, match=r"network blue does not exist \(there is bridge, red\)") as refusal:
        host.call("allocate", "blue", "web")
    assert refusal.value.kind == "NotFound"


def test_what_cannot_change_is_refused(host: Host) -> None:
    host.call("create", "red", {"subnet": "10.60.0.0/24"})
    with pytest.raises(Refused, match=r"cannot change its subnet from 10\.60\.0\.0/24 to 10\.61\.0\.0/24"):
        host.call("update", "red", {"subnet": "10.61.0.0/24"})
    assert host.call("update", "red", {"labels": {"a": "b"}})["labels"] == {"a": "b"}


def test_container_that_is_gone_is_not_connected(host: Host) -> None:
    container = host.container("web")
    host.call("allocate", "bridge", "web")
    container.kill()
    with pytest.raises(Refused, match=r"process \d+ of the container ended before") as refusal:
        host.call("connect", "web", "bridge", container.pid)
    assert refusal.value.kind == "Ended"
    assert [name for name in host.links() if name.startswith("mv")] == []
