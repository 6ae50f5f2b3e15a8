# SPDX-License-Identifier: Apache-2.0
"""Networks with IPv6, alone or beside IPv4: addresses at once, ways out and in, and what the host keeps."""

from __future__ import annotations

import ipaddress
import json
from typing import Any

import pytest

from harness.waiting import eventually
from integration.network.conftest import Serve
from integration.network.topology import (
    HOST_OUTER,
    HOST_OUTER6,
    OUTSIDE,
    OUTSIDE6,
    Container,
    Host,
    NamedNamespace,
    Refused,
)

pytestmark = pytest.mark.root

BOTH = {"subnet": "10.60.0.0/24", "subnet6": "fd00:60::/64"}


def endpoint_of(container: Container) -> dict[str, Any]:
    [endpoint] = container.host.call("endpoints", container.id)
    assert isinstance(endpoint, dict)
    return endpoint


def test_both_versions_at_once(host: Host, serve: Serve) -> None:
    host.call("create", "both", BOTH)
    one, other = host.container(), host.container()
    one.attach("both")
    other.attach("both")
    places = [endpoint_of(container) for container in (one, other)]
    for place in places:
        assert ipaddress.ip_address(place["ipv6"]) in ipaddress.ip_network("fd00:60::/64")

    serve(one, 80, "four")
    serve(one, 81, "six", address="::")
    assert other.ask(places[0]["ipv4"], 80) == ["four", places[1]["ipv4"]]
    assert other.ask(places[0]["ipv6"], 81) == ["six", places[1]["ipv6"]]
    [shown] = json.loads(one.run("ip", "-json", "-6", "address", "show", "eth0"))
    [address] = [each for each in shown["addr_info"] if each["local"] == places[0]["ipv6"]]
    assert address["prefixlen"] == 64
    assert "tentative" not in address
    assert host.call("check") == []


def test_ipv6_alone(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    host.call("create", "six", {"ipv4": False, "ipv6": True})
    container = host.container()
    address = container.attach("six")
    assert ipaddress.ip_address(address) in ipaddress.ip_network("fd00::/8")
    assert endpoint_of(container)["ipv4"] is None
    assert container.run("ip", "-4", "route") == ""

    serve(outside, 80, "outside", address="::")
    assert container.ask(OUTSIDE6, 80) == ["outside", HOST_OUTER6], "hidden behind the host's address"
    assert host.call("check") == []


def test_routed_addresses_are_seen_as_they_are(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    host.call("create", "routed", {**BOTH, "nat": False})
    container = host.container()
    container.attach("routed")
    place = endpoint_of(container)
    outside.run("ip", "route", "add", BOTH["subnet6"], "via", HOST_OUTER6)
    outside.run("ip", "route", "add", BOTH["subnet"], "via", HOST_OUTER)
    serve(outside, 80, "outside", address="::")
    serve(container, 80, "inside", address="::")

    assert container.ask(OUTSIDE6, 80) == ["outside", place["ipv6"]]
    assert outside.ask(place["ipv6"], 80) == ["inside", OUTSIDE6]


def _is_refused(place: NamedNamespace, address: str) -> bool:
    try:
        place.connect(address, 9).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _ports_forward(host: Host) -> bool:
    ports = host.run("bridge", "link").splitlines()
    return bool(ports) and all("state forwarding" in port for port in ports)


def test_others_reach_the_first_container_of_a_network_at_once(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    eventually(lambda: _is_refused(outside, HOST_OUTER6), what="a cable that carries IPv6")
    outside.run("ip", "route", "add", BOTH["subnet6"], "via", HOST_OUTER6)
    host.call("create", "routed", {**BOTH, "nat": False})
    container = host.container()
    container.attach("routed")
    serve(container, 80, "inside", address="::")
    # The kernel lets a port forward some time after its cable is up, and asks for a neighbour that was not
    # heard once more only after a second.
    eventually(lambda: _ports_forward(host), what="a port that forwards")
    with outside.connect(endpoint_of(container)["ipv6"], 80, timeout=0.9) as connection:
        assert connection.makefile().readline().split() == ["inside", OUTSIDE6]


def test_translation_changes_while_containers_run(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    host.call("create", "both", BOTH)
    container = host.container()
    container.attach("both")
    outside.run("ip", "route", "add", BOTH["subnet6"], "via", HOST_OUTER6)
    serve(outside, 80, "outside", address="::")
    assert container.ask(OUTSIDE6, 80)[1] == HOST_OUTER6

    host.call("update", "both", {**BOTH, "nat": False})
    assert container.ask(OUTSIDE6, 80)[1] == endpoint_of(container)["ipv6"]


def test_internal_network_has_no_way_out(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    host.call("create", "inner", {**BOTH, "internal": True})
    container = host.container()
    container.attach("inner")
    serve(outside, 80, "outside", address="::")
    assert "default" not in container.run("ip", "-6", "route")
    container.run("ip", "-6", "route", "add", "default", "via", "fd00:60::1")
    assert container.cannot_reach(OUTSIDE6, 80)


def test_networks_are_apart(host: Host, serve: Serve) -> None:
    host.call("create", "blue", BOTH)
    host.call("create", "red", {"subnet6": "fd00:61::/64"})
    blue, red = host.container(), host.container()
    blue.attach("blue")
    red.attach("red")
    serve(blue, 80, "blue", address="::")
    assert red.cannot_reach(endpoint_of(blue)["ipv6"], 80)


def test_static_addresses_range_and_reserved(host: Host) -> None:
    spec = {**BOTH, "gateway6": "fd00:60::ff", "ip_range6": "fd00:60::1:0/112", "reserved": ["fd00:60::1:0"]}
    host.call("create", "both", spec)
    first = host.call("allocate", "both", "web")
    assert first["ipv6"] == "fd00:60::1:1"
    static = host.call("allocate", "both", "db", None, "fd00:60::7", "02:00:00:00:00:07")
    assert (static["ipv6"], static["mac"], static["gateway6"]) == (
        "fd00:60::7",
        "02:00:00:00:00:07",
        "fd00:60::ff",
    )
    for ipv6, why in (("fd00:60::ff", "is its gateway"), ("fd00:60::1:0", "is reserved")):
        with pytest.raises(Refused, match=why):
            host.call("allocate", "both", "other", None, ipv6)
    with pytest.raises(Refused, match=r"fd00:60::7 of network both is taken by container name of db"):
        host.call("allocate", "both", "other", None, "fd00:60::7")
    with pytest.raises(Refused, match=r"MAC address 02:00:00:00:00:07 .* is taken by container name of db"):
        host.call("allocate", "both", "other", None, None, "02:00:00:00:00:07")
    assert host.call("endpoints", "other") == []
    host.call("create", "four", {})
    with pytest.raises(Refused, match="cannot be had on network four, which has no IPv6"):
        host.call("allocate", "four", "web", None, "fd00::7")


def test_subnet_that_is_used_is_refused_with_its_user(host: Host) -> None:
    with pytest.raises(Refused, match=r"2001:db8::/64 .* overlaps the host's route 2001:db8::/64 through gt"):
        host.call("create", "clash", {"subnet6": "2001:db8::/64"})
    host.call("create", "first", {"ipv6": True})
    second = host.call("create", "second", {"ipv6": True})
    first = host.call("get", "first")
    assert first["subnet6"] != second["subnet6"]
    assert (
        ipaddress.ip_network(first["subnet6"])
        .supernet(new_prefix=48)
        .supernet_of(ipaddress.ip_network(second["subnet6"]))
    )


def test_host_that_learns_its_routes_from_routers_goes_on_to_do_so(host: Host) -> None:
    links = [link["ifname"] for link in json.loads(host.run("ip", "-json", "link"))]
    [outer] = [name for name in links if name.startswith("gt")]
    assert host.run("cat", f"/proc/sys/net/ipv6/conf/{outer}/accept_ra").strip() == "1"
    host.call("create", "both", BOTH)
    assert host.run("cat", "/proc/sys/net/ipv6/conf/all/forwarding").strip() == "1"
    assert host.run("cat", f"/proc/sys/net/ipv6/conf/{outer}/accept_ra").strip() == "2"


def test_lost_addresses_are_put_back(host: Host) -> None:
    bridge = host.call("create", "both", BOTH)["bridge"]
    host.run("ip", "-6", "address", "del", "fd00:60::1/64", "dev", bridge)
    [found] = host.call("check")
    assert "has not the address 10.60.0.1/24 and fd00:60::1/64 alone" in found
    host.call("repair")
    assert host.call("check") == []


def test_addresses_survive_a_restart(host: Host, serve: Serve) -> None:
    host.call("create", "both", BOTH)
    container = host.container("web")
    container.attach("both")
    before = host.call("endpoints", "web")
    host.kill_agent()
    assert host.start_agent() == []
    assert host.call("endpoints", "web") == before
    serve(container, 80, "web", address="::")
    assert host.ask(before[0]["ipv6"], 80)[0] == "web"


def test_mtu_is_that_of_every_part(host: Host) -> None:
    host.call("create", "small", {**BOTH, "mtu": 1400})
    container = host.container()
    container.attach("small")
    [inner] = json.loads(container.run("ip", "-json", "link", "show", "eth0"))
    outer = [link for link in json.loads(host.run("ip", "-json", "link")) if link["ifname"] in host.links()]
    assert {link["mtu"] for link in (inner, *outer)} == {1400}
    assert len(outer) == 2


def test_switched_off_inside_says_so(host: Host) -> None:
    host.call("create", "both", BOTH)
    container = host.container()
    container.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    host.call("allocate", "both", container.id)
    with pytest.raises(Refused, match="which is switched off inside the container"):
        container.plug("both")


def test_the_outside_by_both_versions(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    host.call("create", "both", BOTH)
    container = host.container()
    container.attach("both")
    serve(outside, 80, "four")
    serve(outside, 81, "six", address="::")
    assert container.ask(OUTSIDE, 80) == ["four", HOST_OUTER]
    assert container.ask(OUTSIDE6, 81) == ["six", HOST_OUTER6]
