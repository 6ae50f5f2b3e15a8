# SPDX-License-Identifier: Apache-2.0
"""A container on several networks: default routes, coming and going while it runs, settings of interfaces."""

from __future__ import annotations

import json

import pytest

from integration.network.conftest import Serve
from integration.network.topology import OUTSIDE, Container, Host, NamedNamespace, Refused

pytestmark = pytest.mark.root

BLUE = {"subnet": "10.60.0.0/24", "subnet6": "fd00:60::/64"}
RED = {"subnet": "10.61.0.0/24", "subnet6": "fd00:61::/64"}


@pytest.fixture
def two(host: Host) -> Container:
    """A container on blue, of a host that has red as well."""
    host.call("create", "blue", BLUE)
    host.call("create", "red", RED)
    container = host.container("web")
    container.attach("blue")
    return container


def default_routes(container: Container) -> dict[int, list[str]]:
    shown = {
        version: json.loads(container.run("ip", "-json", f"-{version}", "route", "show", "default"))
        for version in (4, 6)
    }
    return {version: [route["dev"] for route in routes] for version, routes in shown.items()}


def join(container: Container, network: str) -> str:
    """Attach a container that runs, and lead its routes."""
    endpoint = container.host.call("allocate", network, container.id)
    container.host.call(
        "connect", container.id, network, container.pid, ifname=endpoint["ifname"], default_routes=[]
    )
    return str(endpoint["ipv4"])


def reroute(container: Container, *preferred: str) -> None:
    container.host.call("reroute", container.id, container.pid, list(preferred))


def test_a_second_network_comes_and_goes(two: Container, serve: Serve) -> None:
    host = two.host
    other = host.container("other")
    address = other.attach("red")
    serve(other, 80, "other")
    assert two.cannot_reach(address, 80)

    mine = join(two, "red")
    reroute(two)
    assert two.ask(address, 80) == ["other", mine]
    assert default_routes(two) == {4: ["eth0"], 6: ["eth0"]}
    assert [one["ifname"] for one in host.call("endpoints", "web")] == ["eth0", "eth1"]

    host.call("disconnect", "web", "red", two.pid)
    assert "eth1" not in two.run("ip", "link")
    assert two.cannot_reach(address, 80)
    assert [one["network"] for one in host.call("endpoints", "web")] == ["blue"]
    assert host.call("allocate", "red", "another", mine)["ipv4"] == mine, "its address is free again"


def test_the_default_route_follows_when_its_network_goes(
    two: Container, outside: NamedNamespace, serve: Serve
) -> None:
    serve(outside, 80, "outside")
    join(two, "red")
    two.host.call("disconnect", "web", "blue", two.pid)
    assert default_routes(two) == {4: [], 6: []}
    reroute(two)
    assert default_routes(two) == {4: ["eth1"], 6: ["eth1"]}
    assert two.ask(OUTSIDE, 80)[0] == "outside"


def test_the_default_route_leads_where_it_is_asked_for(two: Container) -> None:
    join(two, "red")
    reroute(two, "red")
    assert default_routes(two) == {4: ["eth1"], 6: ["eth1"]}
    reroute(two)
    assert default_routes(two) == {4: ["eth0"], 6: ["eth0"]}


def test_an_internal_network_carries_no_default_route(host: Host) -> None:
    host.call("create", "inner", {**BLUE, "internal": True})
    host.call("create", "red", RED)
    container = host.container("web")
    container.attach("inner")
    join(container, "red")
    reroute(container)
    assert default_routes(container) == {4: ["eth1"], 6: ["eth1"]}


def test_settings_of_an_interface(two: Container) -> None:
    host = two.host
    host.call("allocate", "red", "web")
    settings = {"net.ipv4.conf.IFNAME.rp_filter": "2", "net.ipv6.conf.IFNAME.accept_ra": "0"}
    host.call("connect", "web", "red", two.pid, ifname="eth1", default_routes=[], sysctls=settings)
    assert two.run("sysctl", "-n", "net.ipv4.conf.eth1.rp_filter").strip() == "2"
    assert two.run("sysctl", "-n", "net.ipv6.conf.eth1.accept_ra").strip() == "0"


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("net.ipv4.conf.IFNAME.no_such_setting", "does not exist in this kernel"),
        ("net.ipv4.conf.IFNAME.forwarding", "cannot be set to many"),
    ],
)
def test_wrong_settings_leave_nothing(two: Container, name: str, why: str) -> None:
    host = two.host
    links = host.links()
    host.call("allocate", "red", "web")
    with pytest.raises(Refused, match=why):
        host.call("connect", "web", "red", two.pid, ifname="eth1", sysctls={name: "many"})
    host.call("disconnect", "web", "red", two.pid)
    assert host.links() == links
    assert "eth1" not in two.run("ip", "link")


def test_a_name_that_is_taken_inside_is_told(two: Container) -> None:
    two.run("ip", "link", "add", "eth1", "type", "veth", "peer", "gtpeer")
    two.host.call("allocate", "red", "web")
    with pytest.raises(Refused, match="it has an interface eth1 already"):
        two.host.call("connect", "web", "red", two.pid, ifname="eth1")
    assert len([name for name in two.host.links() if name.startswith("mv")]) == 1


def test_what_came_later_is_still_there_after_a_restart(two: Container, serve: Serve) -> None:
    host = two.host
    address = join(two, "red")
    serve(two, 80, "web")
    host.kill_agent()
    assert host.start_agent() == []
    assert host.ask(address, 80)[0] == "web"
    host.call("disconnect", "web", "red", two.pid)
    assert "eth1" not in two.run("ip", "link")
