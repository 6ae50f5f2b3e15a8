# SPDX-License-Identifier: Apache-2.0
"""What containers find by name: each other on their networks, nobody on others."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator

import pytest

from harness import dns
from harness.agent import AgentUnderTest
from harness.waiting import eventually
from integration.names.asking import (
    address,
    declare,
    finds,
    look_up,
    names_of,
    resolv_conf,
    resolvers,
    run,
    served,
)

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def networks(agent: AgentUnderTest) -> Iterator[None]:
    """The networks `front`, with IPv6, and `back`, internal; whatever is on them goes with the test."""
    declare(agent, "front", ipv6=True)
    declare(agent, "back", internal=True)
    yield
    for container in agent.api("GET", "/mooring/v1/containers"):
        agent.api("DELETE", f"/mooring/v1/containers/{container['id']}?force=true&timeout=0")


def test_containers_know_each_other_by_name_alias_id_and_host_name(agent: AgentUnderTest) -> None:
    web = run(agent, "web", "front")
    db = run(
        agent,
        "Main_DB",
        {"name": "front", "aliases": ["database", "pg.example.com", "my_service"]},
        hostname="pg1",
    )
    served(agent, "front")

    for name in ("main_db", "MAIN_DB", "database", "my_service", "pg.example.com", "pg1", db["id"][:12]):
        finds(agent, web, name, address(db, "front"))
    assert look_up(agent, web, "main_db", tcp=True).values == (address(db, "front"),)
    assert look_up(agent, web, "database", "AAAA").values == (db["networks"]["front"]["ipv6_address"],)
    assert look_up(agent, web, dns.reverse(address(db, "front")), "PTR").values == ("main_db",)
    assert resolvers(agent, web) == [names_of(agent, "front")["server"]]


def test_programs_find_names(agent: AgentUnderTest) -> None:
    run(agent, "web", "front")
    db = run(agent, "db", "front")
    served(agent, "front")

    said = agent.api("POST", "/mooring/v1/containers/web/exec", {"argv": ["ping", "-c1", "-w5", "db"]})
    assert "1 packets received" in said["stdout"]
    asked = agent.api("POST", "/mooring/v1/containers/web/exec", {"argv": ["nslookup", "db"]})
    assert address(db, "front") in asked["stdout"]


def test_a_name_without_an_ipv6_address_is_known_all_the_same(agent: AgentUnderTest) -> None:
    web = run(agent, "web", {"name": "back", "aliases": ["web.example.com"]})
    served(agent, "back")
    for name in ("web", "web.example.com"):
        finds(agent, web, name, address(web, "back"))
        eventually(
            lambda name=name: look_up(agent, web, name, "AAAA") == dns.Answer(dns.NOERROR, ()),
            what=f"no IPv6 address of {name}",
        )


def test_one_alias_of_several_goes_round(agent: AgentUnderTest) -> None:
    asking = run(agent, "asking", "front")
    workers = [run(agent, f"worker{n}", {"name": "front", "aliases": ["worker"]}) for n in range(3)]
    served(agent, "front")
    every = [address(worker, "front") for worker in workers]
    finds(agent, asking, "worker", *every)

    assert {look_up(agent, asking, "worker").values[0] for _ in range(6)} == set(every)


def test_names_come_and_go_with_their_containers(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "front")
    served(agent, "front")
    finds(agent, web, "db", address(db, "front"))

    agent.api("POST", "/mooring/v1/containers/db/stop")
    finds(agent, web, "db")
    agent.api("POST", "/mooring/v1/containers/db/start")
    finds(agent, web, "db", address(db, "front"))
    agent.docker("rename", "db", "store")
    finds(agent, web, "db")
    finds(agent, web, "store", address(db, "front"))
    run(agent, "store", {"name": "front", "aliases": ["shelf"]})
    finds(agent, web, "shelf", address(db, "front"))


def test_networks_do_not_know_each_other(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "back")
    served(agent, "front")
    served(agent, "back")
    finds(agent, db, "db", address(db, "back"))

    assert look_up(agent, web, "db").code == dns.NXDOMAIN
    assert look_up(agent, db, "web").code == dns.NXDOMAIN
    backs = names_of(agent, "back")["server"]
    with socket.socket(type=socket.SOCK_DGRAM) as host:  # which may know
        assert dns.ask(host, backs, "db").values == (address(db, "back"),)
    for tcp in (False, True):
        with pytest.raises((TimeoutError, OSError)):
            look_up(agent, web, "db", server=backs, tcp=tcp)


def test_who_is_in_two_networks_knows_both(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "back")
    both = run(agent, "both", "back", "front")
    served(agent, "front")
    served(agent, "back")

    finds(agent, both, "web", address(web, "front"))
    finds(agent, both, "db", address(db, "back"))
    assert look_up(agent, both, "web", tcp=True).values == (address(web, "front"),)
    assert look_up(agent, both, "web", server=names_of(agent, "front")["server"]).values
    finds(agent, web, "both", address(both, "front"))
    finds(agent, db, "both", address(both, "back"))
    assert look_up(agent, web, "db").code == dns.NXDOMAIN
    for port in _ports_of_views(agent):
        with pytest.raises(TimeoutError):
            look_up(agent, web, "db", server=names_of(agent, "front")["server"], port=port)


def _ports_of_views(agent: AgentUnderTest) -> list[int]:
    configurations = agent.config.run_root.glob("names/servers/view-*/dnsmasq.conf")
    lines = [line for path in configurations for line in path.read_text().splitlines()]
    ports = [int(line.removeprefix("port=")) for line in lines if line.startswith("port=")]
    assert ports
    return ports


def test_names_are_told_over_ipv6_alone(agent: AgentUnderTest) -> None:
    declare(agent, "six", ipv4=False, ipv6=True)
    declare(agent, "sixth", ipv4=False, ipv6=True)
    db, site = run(agent, "db", "six"), run(agent, "site", "sixth")
    both = run(agent, "both", "six", "sixth")
    for network in ("six", "sixth"):
        served(agent, network)

    assert resolvers(agent, db) == [names_of(agent, "six")["server"]]
    for asking, name, found in (
        (db, "db", db["networks"]["six"]["ipv6_address"]),
        (both, "db", db["networks"]["six"]["ipv6_address"]),
        (both, "site", site["networks"]["sixth"]["ipv6_address"]),
        (db, "site", None),
    ):
        argv = ["nslookup", "-type=aaaa", name]
        said = agent.api("POST", f"/mooring/v1/containers/{asking['id']}/exec", {"argv": argv})
        assert (found or "NXDOMAIN") in said["stdout"], said


def test_networks_are_entered_and_left_while_a_container_runs(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "back")
    served(agent, "front")
    served(agent, "back")

    web = run(agent, "web", "front", {"name": "back", "aliases": ["site"]})
    eventually(lambda: look_up(agent, web, "db").values == (address(db, "back"),), what="db from web")
    finds(agent, db, "site", address(web, "back"))

    web = run(agent, "web", "front")
    finds(agent, web, "db")
    finds(agent, db, "site")
    finds(agent, web, "web", address(web, "front"))

    web = run(agent, "web", "back")
    assert resolvers(agent, web) == [names_of(agent, "back")["server"]]
    finds(agent, web, "db", address(db, "back"))
    finds(agent, db, "web", address(web, "back"))


def test_an_internal_network_asks_nobody_outside(agent: AgentUnderTest) -> None:
    db = run(agent, "db", "back", dns=["192.0.2.1"])
    served(agent, "back")
    assert look_up(agent, db, "example.com") == dns.Answer(dns.NXDOMAIN, ())
    finds(agent, db, "db", address(db, "back"))


def test_a_network_without_names_takes_no_others_with_it(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "front")
    served(agent, "front")
    subprocess.run(["ip", "link", "add", "gtlan", "type", "bridge"], check=True, timeout=10)
    try:
        declare(agent, "lan", driver="macvlan", parent="gtlan", subnet="10.77.9.0/24")
        agent.api("DELETE", "/mooring/v1/networks/lan")
    finally:
        subprocess.run(["ip", "link", "delete", "gtlan"], check=True, timeout=10)
    late = run(agent, "late", "front")
    finds(agent, web, "late", address(late, "front"))
    finds(agent, web, "db", address(db, "front"))


def test_the_default_network_is_left_to_the_hosts_resolvers(agent: AgentUnderTest) -> None:
    lone = run(agent, "lone", "bridge")
    assert names_of(agent, "bridge") is None
    assert "ndots" not in resolv_conf(agent, lone)


def test_names_that_cannot_be_looked_up_do_no_harm(agent: AgentUnderTest) -> None:
    odd = [run(agent, name, "front") for name in ("a..b", "web-", "w" * 100)]
    web = run(agent, "web", "front")
    served(agent, "front")
    finds(agent, web, "web", address(web, "front"))
    for container in odd:
        finds(agent, web, container["id"][:12], address(container, "front"))


@pytest.mark.parametrize(
    "alias", ["web\n10.0.0.1 bank", "web bank", "web#", "-web", "web/", "*", "a..b", "w" * 64, "localhost"]
)
def test_aliases_that_say_more_than_a_name_are_refused(agent: AgentUnderTest, alias: str) -> None:
    body = {"image": "busybox", "networks": [{"name": "front", "aliases": [alias]}]}
    response = agent.request("PUT", "/mooring/v1/containers/bad", body)
    assert response.status == 400
    assert "aliases" in response.json()["message"]


def test_an_address_is_told_to_who_asks_for_one(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "back", "front"), run(agent, "db", "back")
    served(agent, "front")
    served(agent, "back")
    script = "printf '#!/bin/sh\\nenv\\n' >/told; chmod +x /told; exec udhcpc -fnq -s /told -x hostname:db -i"

    for container, network, interface in ((web, "front", "eth1"), (db, "back", "eth0")):
        argv = ["sh", "-c", f"{script} {interface}"]
        said = agent.api("POST", f"/mooring/v1/containers/{container['id']}/exec", {"argv": argv})
        told = said["stdout"] + said["stderr"]
        assert f"lease of {address(container, network)} obtained" in told, told
        assert f"dns={names_of(agent, network)['server']}" in told
        assert ("router=" in told) == (network == "front")
    finds(agent, web, "db", address(db, "back"))  # and not whoever calls itself so


def test_there_is_no_table_when_nobody_needs_it(agent: AgentUnderTest) -> None:
    run(agent, "web", "front")
    served(agent, "front")
    listed = subprocess.run(["nft", "list", "tables"], capture_output=True, text=True, check=True, timeout=10)
    assert f"{agent.config.nft_table}_names" not in listed.stdout


def test_a_build_finds_names_with_its_first_question(agent: AgentUnderTest) -> None:
    agent.api("PUT", "/mooring/v1/networks/fresh", {})
    dockerfile = "FROM busybox\nRUN nslookup nobody || true\n"
    done = agent.docker("build", "--network", "fresh", "-", stdin=dockerfile)
    assert "server can't find nobody: NXDOMAIN" in done.stdout + done.stderr


def test_a_container_may_begin_with_a_question(agent: AgentUnderTest) -> None:
    """The first one of a network, too, which is why its server is there."""
    for number in range(8):
        declare(agent, f"fresh{number}")
        for _ in ("first", "next"):
            arguments = ("run", "--rm", "--network", f"fresh{number}", "busybox", "sh", "-c")
            done = agent.docker(*arguments, "nslookup $(hostname)", check=False)
            assert done.returncode == 0, done.stdout
        agent.api("DELETE", f"/mooring/v1/networks/fresh{number}")


def test_a_name_is_there_when_its_container_is(agent: AgentUnderTest) -> None:
    asking = run(agent, "asking", "front", "back")
    for number in range(20):
        network = ("front", "back")[number % 2]
        found = run(agent, f"new{number}", network)
        assert look_up(agent, asking, f"new{number}").values == (address(found, network),)


def test_the_name_of_a_container_that_cannot_start_is_not_kept(agent: AgentUnderTest) -> None:
    asking = run(agent, "asking", "front")
    options = ("--network", "front", "--network-alias", "ghost")
    assert agent.docker("run", *options, "busybox", "no-such-program", check=False).returncode == 127
    finds(agent, asking, "ghost")
