# SPDX-License-Identifier: Apache-2.0
"""Names on a network across hosts: of every container on every host, whoever is away."""

from __future__ import annotations

import ipaddress
import socket
import time
from collections.abc import Callable, Iterator
from itertools import permutations
from typing import Any

import pytest

from harness import dns
from harness.waiting import PATIENCE, eventually
from integration.conftest import StartAgent
from integration.names.asking import address, declare, finds, look_up, names_of, served
from integration.names.fleet import IMPATIENT, PATIENT, Fleet
from integration.names.impatient_agent import FORGET
from mooring_agent.network.naming.transfer import Pace

pytestmark = pytest.mark.root

MakeFleet = Callable[..., Fleet]
HOSTS = ("a", "b", "c")


@pytest.fixture
def fleets() -> Iterator[list[Fleet]]:
    """Return the fleets that there are; what they consist of goes after the agents."""
    made: list[Fleet] = []
    yield made
    for fleet in made:
        fleet.remove()


@pytest.fixture
def make_fleet(fleets: list[Fleet], start_agent: StartAgent) -> MakeFleet:
    """Return a function that makes a fleet of the hosts a, b and c with the network `mesh`."""

    def make(*names: str, program: tuple[str, ...] = PATIENT, underlay: int = 4, **spec: Any) -> Fleet:
        fleet = Fleet(start_agent, program, underlay)
        fleets.append(fleet)
        fleet.add(*names or HOSTS)
        fleet.declare(*names or HOSTS, **spec)
        return fleet

    return make


def hosts_of(fleet: Fleet, name: str) -> dict[str, dict[str, Any]]:
    """What a host says of the names of the others."""
    hosts: dict[str, dict[str, Any]] = names_of(fleet[name], "mesh")["hosts"]
    return hosts


def is_known(fleet: Fleet, on: str, host: str, state: str) -> None:
    """Wait until one host says that another one is in this state."""
    eventually(lambda: hosts_of(fleet, on)[host]["state"] == state, what=f"host {host} as {state} on {on}")


def test_every_container_finds_and_reaches_every_other(make_fleet: MakeFleet) -> None:
    fleet = make_fleet()
    containers = {
        f"{host}{number}": (host, fleet.run(host, f"{host}{number}", aliases=["all", f"at-{host}"]))
        for host in HOSTS
        for number in range(3)
    }
    every = [address(view, "mesh") for _, view in containers.values()]
    for host, view in containers.values():
        served(fleet[host], "mesh")
        finds(fleet[host], view, "all", *every)

    for (name, (host, view)), (other, (_, its)) in permutations(containers.items(), 2):
        for asked in (other, other.upper(), its["id"][:12]):
            assert look_up(fleet[host], view, asked).values == (address(its, "mesh"),), (name, asked)
        asked = dns.reverse(address(its, "mesh"))
        assert look_up(fleet[host], view, asked, "PTR").values == (other,)
    host, view = containers["a0"]
    assert sorted(look_up(fleet[host], view, "at-b").values) == sorted(every[3:6])
    assert {look_up(fleet[host], view, "all").values[0] for _ in range(20)} == set(every)
    nobody = dns.reverse("10.200.99.99")
    assert look_up(fleet[host], view, nobody, "PTR").code == dns.NXDOMAIN
    for other in containers:
        argv = ["ping", "-c1", "-w5", other]
        said = fleet["a"].api("POST", f"/mooring/v1/containers/{view['id']}/exec", {"argv": argv})
        assert "1 packets received" in said["stdout"], said
    assert {state["state"] for host in HOSTS for state in hosts_of(fleet, host).values()} == {"connected"}
    assert all(names_of(fleet[host], "mesh")["problem"] is None for host in HOSTS)


def test_names_come_and_go_at_once(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b")
    asking = fleet.run("a", "asking")
    served(fleet["a"], "mesh")
    web = fleet.run("b", "web", hostname="inner", aliases=["www.example.com"])
    for name in ("web", "inner", "www.example.com"):
        finds(fleet["a"], asking, name, address(web, "mesh"))
    eventually(lambda: look_up(fleet["a"], asking, "www.example.com", "AAAA").code == dns.NOERROR)

    fleet["b"].docker("rename", "web", "shop")
    finds(fleet["a"], asking, "web")
    finds(fleet["a"], asking, "shop", address(web, "mesh"))
    fleet["b"].api("POST", "/mooring/v1/containers/shop/stop")
    for name in ("shop", "inner", web["id"][:12]):
        finds(fleet["a"], asking, name)
    # It is the outside's again, of which these hosts have none.
    eventually(lambda: look_up(fleet["a"], asking, "www.example.com").code == dns.REFUSED)


def test_agents_that_are_away_take_no_name_with_them(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b", program=IMPATIENT)
    asking, web, gone = fleet.run("a", "asking"), fleet.run("b", "web"), fleet.run("b", "gone")
    served(fleet["a"], "mesh")
    for name, view in (("web", web), ("gone", gone)):
        finds(fleet["a"], asking, name, address(view, "mesh"))

    fleet["b"].kill9()
    is_known(fleet, "a", "b", "away")
    assert "takes no connection: its agent is away" in hosts_of(fleet, "a")["b"]["problem"]
    fleet["a"].restart()
    eventually(lambda: hosts_of(fleet, "a")["b"]["problem"], what="a problem with b")
    with dns.inside(gone["pid"]) as made:  # longer than a host is remembered that does not live
        made.settimeout(1.5 * FORGET)
        with pytest.raises(TimeoutError):
            made.recv(1)
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    assert hosts_of(fleet, "a")["b"]["addresses"] == 2

    fleet["b"].start()
    fleet["b"].api("DELETE", "/mooring/v1/containers/gone?force=true&timeout=0")
    late = fleet.run("b", "late")
    finds(fleet["a"], asking, "late", address(late, "mesh"))
    finds(fleet["a"], asking, "gone")
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    fleet["a"].kill9()
    later = fleet.run("b", "later")
    fleet["a"].start()
    finds(fleet["a"], asking, "later", address(later, "mesh"))


def test_a_host_that_is_gone_is_forgotten_and_known_again_when_it_is_back(make_fleet: MakeFleet) -> None:
    fleet = make_fleet(program=IMPATIENT)
    asking, web, db = fleet.run("a", "asking"), fleet.run("b", "web"), fleet.run("c", "db")
    served(fleet["a"], "mesh")
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    finds(fleet["a"], asking, "db", address(db, "mesh"))

    fleet.cut("b")
    is_known(fleet, "a", "b", "away")
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    is_known(fleet, "a", "b", "gone")
    finds(fleet["a"], asking, "web")
    assert "does not answer: it is down" in hosts_of(fleet, "a")["b"]["problem"]
    finds(fleet["a"], asking, "db", address(db, "mesh"))

    fleet.cut("b", "up")
    is_known(fleet, "a", "b", "connected")
    finds(fleet["a"], asking, "web", address(web, "mesh"))


def test_names_follow_a_device_that_is_made_anew(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b")
    asking, web = fleet.run("a", "asking"), fleet.run("b", "web")
    served(fleet["a"], "mesh")
    finds(fleet["a"], asking, "web", address(web, "mesh"))

    where = fleet.members["a"].namespace
    [device] = [line.split()[0] for line in where.run("ip", "-br", "link").splitlines() if line[:2] == "mo"]
    where.run("ip", "link", "delete", device)
    repaired = time.monotonic()
    eventually(lambda: where.run("ip", "-br", "link", "show", "up").count(device), what="the device")
    late = fleet.run("b", "late")
    finds(fleet["a"], asking, "late", address(late, "mesh"))
    assert (
        time.monotonic() - repaired < Pace().silence / 2 * PATIENCE
    )  # not only since the other host was silent
    assert hosts_of(fleet, "a")["b"]["state"] == "connected"


@pytest.mark.kernel("wireguard")
def test_names_go_on_when_encryption_begins_and_ends(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b")
    asking, web = fleet.run("a", "asking"), fleet.run("b", "web")
    served(fleet["a"], "mesh")
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    hosts = {
        name: {
            "address": fleet.members[name].address,
            "public_key": fleet[name].api("GET", "/mooring/v1/host/network-key")["public_key"],
        }
        for name in ("a", "b")
    }

    for spec in ({"hosts": hosts, "encryption": "wireguard"}, {}):
        fleet.declare("a", "b", **spec)
        declared = time.monotonic()
        late = fleet.run("b", f"late{len(spec)}")
        # The MTU is another one, and the name server is started anew to tell it: a question may be lost.
        finds(fleet["a"], asking, f"late{len(spec)}", address(late, "mesh"), again=True)
        assert time.monotonic() - declared < Pace().silence / 2 * PATIENCE
        finds(fleet["a"], asking, "web", address(web, "mesh"))
        served(fleet["a"], "mesh")


def test_hosts_are_added_and_removed_by_declaring_the_network_again(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b")
    asking, web = fleet.run("a", "asking"), fleet.run("b", "web")
    served(fleet["a"], "mesh")
    finds(fleet["a"], asking, "web", address(web, "mesh"))

    fleet.add("c")
    fleet.declare("a", "b", "c", on=("c", "a", "b"))
    db = fleet.run("c", "db", aliases=["db.example.com"])
    finds(fleet["a"], asking, "db", address(db, "mesh"))
    finds(fleet["c"], db, "web", address(web, "mesh"))
    fleet.declare("a", "c")
    finds(fleet["a"], asking, "web")
    finds(fleet["a"], asking, "db", address(db, "mesh"))
    assert list(hosts_of(fleet, "a")) == ["c"]
    fleet["a"].kill9()
    fleet.declare("c", on=("c",))
    fleet["a"].start()
    fleet.declare("a", on=("a",))
    finds(fleet["a"], asking, "db")
    finds(fleet["a"], asking, "asking", address(asking, "mesh"))


def test_names_over_an_ipv6_underlay_and_in_several_networks(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b", underlay=6)
    for name in ("a", "b"):
        declare(fleet[name], "side")
    both = fleet.run("a", "both", networks=["side"], dns=["192.0.2.99"])
    web = fleet.run("b", "web")
    served(fleet["a"], "mesh")
    finds(fleet["a"], both, "web", address(web, "mesh"))
    served(fleet["b"], "mesh")
    finds(fleet["b"], web, "both", address(both, "mesh"))


def test_names_on_a_network_of_ipv6_alone(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b", ipv4=False, subnet=None, subnet6="fd00:77::/48")
    asking = fleet.run("a", "asking")
    web = fleet.run("b", "web")
    its = web["networks"]["mesh"]["ipv6_address"]
    served(fleet["a"], "mesh")

    def nslookup(*question: str) -> str:
        argv = ["nslookup", *question]
        path = f"/mooring/v1/containers/{asking['id']}/exec"
        return str(fleet["a"].api("POST", path, {"argv": argv})["stdout"])

    eventually(lambda: its in nslookup("-type=aaaa", "web"), what="web")
    assert "name = web" in nslookup("-type=ptr", ipaddress.ip_address(its).reverse_pointer)
    assert "NXDOMAIN" in nslookup("-type=ptr", ipaddress.ip_address("fd00:77::99").reverse_pointer)


def test_names_on_a_network_of_both(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b", ipv6=True)
    asking = fleet.run("a", "asking")
    web = fleet.run("b", "web")
    served(fleet["a"], "mesh")
    finds(fleet["a"], asking, "web", address(web, "mesh"))
    its = web["networks"]["mesh"]["ipv6_address"]
    assert look_up(fleet["a"], asking, "web", "AAAA").values == (its,)


def test_containers_are_not_told_by_the_port(make_fleet: MakeFleet) -> None:
    fleet = make_fleet("a", "b")
    curious, web = fleet.run("a", "curious"), fleet.run("b", "web")
    is_known(fleet, "a", "b", "connected")
    for gateway in (fleet.members["a"].gateway, fleet.members["b"].gateway):
        for view in (curious, web):
            with dns.inside(view["pid"], socket.SOCK_STREAM) as made:
                made.settimeout(0.5)
                with pytest.raises(OSError, match="timed out"):
                    made.connect((gateway, 4790))
    is_known(fleet, "a", "b", "connected")


@pytest.mark.parametrize(
    ("family", "spec"), [("ip", {}), ("ip6", {"ipv4": False, "subnet": None, "subnet6": "fd00:77::/48"})]
)
def test_a_firewall_that_keeps_others_away_is_named(
    make_fleet: MakeFleet, family: str, spec: dict[str, Any]
) -> None:
    fleet = make_fleet("a", "b", program=IMPATIENT, **spec)
    where = fleet.members["b"].namespace
    where.run("nft", f"add table {family} guard")
    where.run("nft", f"add chain {family} guard input {{ type filter hook input priority 0; policy drop; }}")
    where.run("nft", f"add rule {family} guard input udp dport {{ 53, 67, 4789 }} accept")
    where.run("nft", f"add rule {family} guard input tcp sport 4790 accept")
    is_known(fleet, "a", "b", "gone")
    assert "firewall drops" in hosts_of(fleet, "a")["b"]["problem"]
    is_known(fleet, "b", "a", "connected")
    problem = eventually(lambda: names_of(fleet["b"], "mesh")["problem"], what="a problem")
    assert f"the firewall chain {family} guard input of another program drops what other hosts ask" in problem
    command = "nft insert rule " + problem.partition("nft insert rule ")[2]
    where.run("sh", "-c", command)
    is_known(fleet, "a", "b", "connected")
    eventually(lambda: names_of(fleet["b"], "mesh")["problem"] is None, what="no problem")
