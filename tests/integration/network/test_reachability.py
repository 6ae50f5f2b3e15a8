# SPDX-License-Identifier: Apache-2.0
"""Who reaches whom on networks."""

from __future__ import annotations

import pytest

from integration.network.conftest import Serve
from integration.network.topology import HOST_OUTER, OUTSIDE, Host, NamedNamespace

pytestmark = pytest.mark.root


def gateway(host: Host, network: str = "bridge") -> str:
    return str(host.call("get", network)["gateway"])


def test_two_containers_reach_each_other_by_their_own_addresses(host: Host, serve: Serve) -> None:
    first, second = host.container(), host.container()
    address, other = first.attach(), second.attach()
    serve(first, 80, "first")
    serve(second, 80, "second")

    assert second.ask(address, 80) == ["first", other]
    assert first.ask(other, 80) == ["second", address]


def test_container_and_host_reach_each_other(host: Host, serve: Serve) -> None:
    container = host.container()
    address = container.attach()
    serve(container, 80, "container")
    serve(host, 5000, "host")

    assert host.ask(address, 80) == ["container", gateway(host)]
    assert container.ask(gateway(host), 5000) == ["host", address]
    assert container.ask("127.0.0.1", 80) == ["container", "127.0.0.1"]


def test_container_reaches_the_outside_as_its_host(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    container = host.container()
    container.attach()
    serve(outside, 80, "outside")

    assert container.ask(OUTSIDE, 80) == ["outside", HOST_OUTER]


def test_network_without_nat_is_routed(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    network = host.call("create", "routed", {"nat": False})
    outside.run("ip", "route", "add", network["subnet"], "via", HOST_OUTER)
    container = host.container()
    address = container.attach("routed")
    serve(outside, 80, "outside")
    serve(container, 80, "container")

    assert container.ask(OUTSIDE, 80) == ["outside", address]
    assert outside.ask(address, 80) == ["container", OUTSIDE]


def test_outside_does_not_reach_what_is_not_published(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container = host.container()
    address = container.attach()
    outside.run("ip", "route", "add", "10.211.0.0/16", "via", HOST_OUTER)
    serve(container, 80)
    serve(container, 81, "published")
    container.publish(address, {"container": 81, "host": 8081})

    assert outside.cannot_reach(address, 80)
    assert outside.ask(HOST_OUTER, 8081) == ["published", OUTSIDE]


def test_internal_network_is_neither_left_nor_entered(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    host.call("create", "cut-off", {"internal": True})
    first, second, other = host.container(), host.container(), host.container()
    address, neighbour = first.attach("cut-off"), second.attach("cut-off")
    other.attach()
    serve(first, 80, "first")
    serve(outside, 80, "outside")
    first.run("ip", "route", "add", "default", "via", gateway(host, "cut-off"))

    assert second.ask(address, 80) == ["first", neighbour]
    assert first.cannot_reach(OUTSIDE, 80)
    assert other.cannot_reach(address, 80)


def test_networks_are_apart(host: Host, serve: Serve) -> None:
    host.call("create", "blue", {})
    red, blue = host.container(), host.container()
    red.attach()
    address = blue.attach("blue")
    serve(blue, 80, "blue")

    assert red.cannot_reach(address, 80)
    red.attach("blue", ifname="eth1")
    assert red.ask(address, 80)[0] == "blue"


def test_container_does_not_reach_the_loopback_of_its_host(host: Host, serve: Serve) -> None:
    """CVE-2020-8558: published ports on 127.0.0.1 need route_localnet, which must not open the way back."""
    container = host.container()
    container.attach()
    serve(host, 5000, "secret", address="127.0.0.1")
    assert host.ask("127.0.0.1", 5000) == ["secret", "127.0.0.1"]

    container.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    container.run("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    container.run("ip", "route", "add", "127.0.0.1", "via", gateway(host))

    assert container.cannot_reach("127.0.0.1", 5000)


def test_a_network_can_get_and_lose_its_translation_while_it_is_used(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container = host.container()
    address = container.attach()
    outside.run("ip", "route", "add", "10.211.0.0/16", "via", HOST_OUTER)
    serve(outside, 80, "outside")

    host.call("update", "bridge", {"nat": False})
    assert container.ask(OUTSIDE, 80) == ["outside", address]
    host.call("update", "bridge", {})
    assert container.ask(OUTSIDE, 80) == ["outside", HOST_OUTER]
    assert host.call("check") == []


def test_first_packet_passes(host: Host, serve: Serve) -> None:
    """A bridge's port forwards some time after its other end has come up; what is lost takes a second."""
    for _ in range(20):
        container = host.container()
        serve(container, 80)
        address = container.attach()
        host.ask(address, 80, timeout=0.9)
