# SPDX-License-Identifier: Apache-2.0
"""Networks with the real docker client: both IP versions, connecting and disconnecting live, resolvers."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually
from integration.conftest import StartAgent

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]


def sleeper(agent: AgentUnderTest, name: str, *options: str) -> None:
    agent.docker("run", "-d", "--name", name, *options, "busybox", "sleep", "600")


def places(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    document = json.loads(agent.docker("inspect", name).stdout)[0]
    found: dict[str, Any] = document["NetworkSettings"]["Networks"]
    return found


def execute(agent: AgentUnderTest, name: str, *argv: str) -> str:
    return str(agent.docker("exec", name, *argv).stdout)


def reaches(agent: AgentUnderTest, name: str, *target: str) -> None:
    """Have a container reach another one, on a network where both, or one, may have only just come."""
    eventually(lambda: execute(agent, name, "ping", "-c1", "-w2", *target), what=f"{name} reaches {target}")


def both(agent: AgentUnderTest, name: str, number: int, *options: str) -> tuple[str, str]:
    # No other tests have these: those of another worker may run beside.
    subnets = f"10.75.{number}.0/24", f"fd00:75:{number}::/64"
    agent.docker(
        *("network", "create", "--ipv6", "--subnet", subnets[0], "--subnet", subnets[1]), *options, name
    )
    return subnets


def test_both_versions_static_addresses_and_mac(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1, "-o", "com.docker.network.driver.mtu=1400")
    sleeper(
        agent,
        "web",
        *("--network", "name=blue,ip=10.75.1.7,ip6=fd00:75:1::7,mac-address=02:00:00:00:00:07,alias=www"),
    )
    place = places(agent, "web")["blue"]
    assert (place["IPAddress"], place["GlobalIPv6Address"], place["GlobalIPv6PrefixLen"]) == (
        "10.75.1.7",
        "fd00:75:1::7",
        64,
    )
    assert (place["MacAddress"], place["IPv6Gateway"]) == ("02:00:00:00:00:07", "fd00:75:1::1")
    assert "www" in place["Aliases"]
    shown = execute(agent, "web", "ip", "address", "show", "eth0")
    for part in ("10.75.1.7/24", "fd00:75:1::7/64", "02:00:00:00:00:07", "mtu 1400"):
        assert part in shown
    hosts = execute(agent, "web", "cat", "/etc/hosts")
    assert "10.75.1.7\t" in hosts
    assert "fd00:75:1::7\t" in hosts
    member = json.loads(agent.docker("network", "inspect", "blue").stdout)[0]["Containers"].popitem()[1]
    assert member["IPv6Address"] == "fd00:75:1::7/64"


def test_connect_and_disconnect_while_it_runs(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    both(agent, "red", 2)
    sleeper(agent, "web", "--network", "blue")
    sleeper(agent, "db", "--network", "red")
    agent.docker("network", "connect", "--ip", "10.75.2.9", "--alias", "front", "red", "web")

    address = places(agent, "db")["red"]["IPAddress"]
    reaches(agent, "web", address)
    assert places(agent, "web")["red"]["IPAddress"] == "10.75.2.9"
    assert "10.75.2.9\t" in execute(agent, "web", "cat", "/etc/hosts")
    again = agent.docker("network", "connect", "red", "web", check=False)
    assert "is on network red already" in again.stderr

    agent.docker("restart", "-t", "0", "web")
    reaches(agent, "web", address)

    agent.docker("network", "disconnect", "red", "web")
    assert "eth1" not in execute(agent, "web", "ip", "link")
    assert "10.75.2.9\t" not in execute(agent, "web", "cat", "/etc/hosts")
    assert list(places(agent, "web")) == ["blue"]
    assert "is not on network red" in agent.docker("network", "disconnect", "red", "web", check=False).stderr


def test_the_last_network_may_go_and_another_come(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    sleeper(agent, "web", "--network", "blue")
    agent.docker("network", "disconnect", "blue", "web")
    assert "eth0" not in execute(agent, "web", "ip", "link")
    agent.docker("network", "connect", "blue", "web")
    assert "default via 10.75.1.1 dev eth0" in execute(agent, "web", "ip", "route")


def test_one_that_does_not_run_is_connected_for_its_start(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    both(agent, "red", 2)
    agent.docker("create", "--name", "web", "--network", "blue", "busybox", "sleep", "600")
    agent.docker("network", "connect", "red", "web")
    agent.docker("start", "web")
    assert {"eth0", "eth1"} <= {line.split()[1].split("@")[0].rstrip(":") for line in
                               execute(agent, "web", "ip", "-o", "link").splitlines()}  # fmt: skip


def test_an_address_of_another_is_given_when_that_has_gone(start_agent: StartAgent) -> None:
    """Whoever replaces a container by hand makes the new one first, and says the same address."""
    agent = start_agent()
    both(agent, "blue", 1)
    both(agent, "red", 2)
    place = "name=blue,ip=10.75.1.7,mac-address=02:00:00:00:00:07"
    sleeper(agent, "old", "--network", place)
    agent.docker("create", "--name", "new", "--network", place, "--network", "red", "busybox", "sleep", "600")
    declared = {"image": "busybox", "networks": [{"name": "blue", "ipv4_address": "10.75.1.7"}]}
    refused = agent.request("PUT", "/mooring/v1/containers/declared", declared)
    assert (refused.status, "is taken by container old" in refused.json()["message"]) == (409, True)
    early = agent.docker("start", "new", check=False)
    assert "address 10.75.1.7 of network blue is taken by container old" in early.stderr

    agent.restart()
    agent.docker("rm", "-f", "old")
    agent.docker("start", "new")

    assert places(agent, "new")["blue"]["IPAddress"] == "10.75.1.7"
    shown = execute(agent, "new", "ip", "address")
    for part in ("10.75.1.7/24", "02:00:00:00:00:07", "10.75.2.2/24"):
        assert part in shown


def test_published_ports_follow_to_another_network(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    both(agent, "red", 2)
    agent.docker(
        *("run", "-d", "--name", "web", "--network", "blue", "-p", "127.0.0.1::80", "busybox"),
        *("sh", "-c", "echo hello > /tmp/index.html; httpd -f -p 80 -h /tmp"),
    )
    agent.docker("network", "connect", "red", "web")
    agent.docker("network", "disconnect", "blue", "web")
    port = agent.docker("port", "web", "80/tcp").stdout.strip()
    fetch = ("run", "--rm", "--network", "host", "busybox", "wget", "-qO-", port)
    eventually(lambda: agent.docker(*fetch).stdout == "hello\n", what="web answers")


@pytest.mark.parametrize("network", ["host", "container:base"])
def test_networks_that_are_not_its_own_are_kept(agent: AgentUnderTest, network: str) -> None:
    sleeper(agent, "base")
    both(agent, "blue", 1)
    sleeper(agent, "web", "--network", network)
    refused = agent.docker("network", "connect", "blue", "web", check=False)
    assert refused.returncode != 0
    assert "which is not its own" in refused.stderr


def test_resolvers_and_hosts(agent: AgentUnderTest) -> None:
    agent.docker(
        *("run", "-d", "--name", "web", "--dns", "192.0.2.53", "--dns", "2001:db8::53", "--dns-search"),
        *("example.org", "--dns-option", "ndots:2", "--add-host", "db:192.0.2.7", "--add-host"),
        *("me=host-gateway", "busybox", "sleep", "600"),
    )
    resolver = execute(agent, "web", "cat", "/etc/resolv.conf").splitlines()
    assert [line for line in resolver if line.startswith("nameserver")] == [
        "nameserver 192.0.2.53",
        "nameserver 2001:db8::53",
    ]
    assert "search example.org" in resolver
    assert "options ndots:2" in resolver
    hosts = execute(agent, "web", "cat", "/etc/hosts")
    gateway = places(agent, "web")["bridge"]["Gateway"]
    assert "192.0.2.7\tdb\n" in hosts
    assert f"{gateway}\tme\n" in hosts
    shown = json.loads(agent.docker("inspect", "web").stdout)[0]["HostConfig"]
    assert (shown["Dns"], shown["DnsSearch"]) == (["192.0.2.53", "2001:db8::53"], ["example.org"])
    assert shown["ExtraHosts"] == ["db:192.0.2.7", "me:host-gateway"]


def test_a_link_is_a_name_of_the_other(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    sleeper(agent, "db", "--network", "blue")
    sleeper(agent, "web", "--network", "blue", "--link", "db:database")
    assert places(agent, "web")["blue"]["Links"] == ["db:database"]
    reaches(agent, "web", "database")
    elsewhere = agent.docker("run", "--link", "db:database", "busybox", "true", check=False)
    assert "they share no network" in elsewhere.stderr


def test_a_network_of_ipv6_alone(agent: AgentUnderTest) -> None:
    body = {"Name": "six", "EnableIPv4": False, "EnableIPv6": True}
    agent.api("POST", "/v1.47/networks/create", body)
    sleeper(agent, "web", "--network", "six")
    sleeper(agent, "other", "--network", "six")
    place = places(agent, "web")["six"]
    assert place["IPAddress"] == ""
    assert ipaddress.ip_address(place["GlobalIPv6Address"]).is_private
    reaches(agent, "other", "-6", place["GlobalIPv6Address"])


def test_settings_of_an_interface_and_the_default_route(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    both(agent, "red", 2)
    option = "com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1"
    agent.docker(
        *("create", "--name", "web", "--network", f'"name=blue","driver-opt={option}"', "busybox"),
        *("sleep", "600"),
    )
    agent.api(
        "POST", "/v1.47/networks/red/connect", {"Container": "web", "EndpointConfig": {"GwPriority": 1}}
    )
    agent.docker("start", "web")
    assert execute(agent, "web", "cat", "/proc/sys/net/ipv4/conf/eth0/log_martians") == "1\n"
    assert "default via 10.75.2.1 dev eth1" in execute(agent, "web", "ip", "route")


def test_a_macvlan_network_without_its_parent_is_refused(agent: AgentUnderTest) -> None:
    refused = agent.docker(
        *("network", "create", "-d", "macvlan", "-o", "parent=gone0", "--subnet", "10.78.0.0/24", "lan"),
        check=False,
    )
    assert "interface gone0, the parent of network lan, does not exist" in refused.stderr


def ports_of(agent: AgentUnderTest, name: str) -> str:
    return str(agent.docker("port", name).stdout)


@pytest.mark.parametrize("running", [True, False])
def test_published_ports_go_with_the_last_network_and_come_back(agent: AgentUnderTest, running: bool) -> None:
    both(agent, "blue", 1)
    agent.docker("network", "create", "--internal", "back")
    options = ("--network", "blue", "-p", "127.0.0.1:18431:80", "-p", "81")
    sleeper(agent, "web", *options)
    if not running:
        agent.docker("stop", "-t", "0", "web")
    agent.docker("network", "disconnect", "blue", "web")
    assert ports_of(agent, "web") == ""
    [shown] = json.loads(agent.docker("inspect", "web").stdout)
    assert set(shown["HostConfig"]["PortBindings"]) == {"80/tcp", "81/tcp"}, "it keeps what it asks for"
    assert "blue" not in shown["NetworkSettings"]["Networks"]

    agent.docker("restart", "-t", "0", "web")
    assert ports_of(agent, "web") == "", "nor does a start need them"
    other = agent.docker("run", "-d", "--name", "db", "-p", "127.0.0.1:18431:80", "busybox", "sleep", "600")
    assert other.stdout, "others may have them meanwhile"
    taken = agent.docker("network", "connect", "blue", "web", check=False)
    assert "18431" in taken.stderr
    agent.docker("rm", "-f", "db")

    agent.docker("network", "connect", "back", "web")
    assert ports_of(agent, "web") == "", "an internal network has no way in"
    agent.docker("network", "connect", "blue", "web")
    published = ports_of(agent, "web")
    assert "80/tcp -> 127.0.0.1:18431" in published
    assert "81/tcp -> 0.0.0.0:" in published
    assert "eth" in execute(agent, "web", "ip", "-o", "link")


def test_what_is_declared_is_on_a_network_that_has_a_way_in(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1)
    declared = {"image": "busybox", "command": ["sleep", "600"], "networks": ["blue"], "ports": ["18432:80"]}
    agent.api("PUT", "/mooring/v1/containers/web", declared)
    for changed in ({**declared, "networks": []}, {**declared, "networks": ["none"]}):
        for dry_run in ("true", "false"):
            answer = agent.request("PUT", f"/mooring/v1/containers/web?dry_run={dry_run}", changed)
            assert (answer.status, 'with the network "none"' in answer.json()["message"]) == (400, True)
    agent.docker("network", "disconnect", "blue", "web")
    assert ports_of(agent, "web") == ""
    outcome = agent.api("PUT", "/mooring/v1/containers/web", declared)
    assert outcome["changed"]
    assert "18432" in ports_of(agent, "web")


def host(*words: str, check: bool = True) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=check).stdout


def test_a_bridge_has_the_name_that_it_is_given(agent: AgentUnderTest) -> None:
    name = "brtest-named"
    options = (
        "-o",
        f"com.docker.network.bridge.name={name}",
        "-o",
        "com.docker.network.bridge.default_bridge=false",
    )
    agent.docker("network", "create", "--attachable", *options, "shop")
    [shown] = json.loads(agent.docker("network", "inspect", "shop").stdout)
    assert (shown["Options"]["com.docker.network.bridge.name"], shown["Attachable"]) == (name, True)
    assert " state " in host("ip", "link", "show", name)
    sleeper(agent, "web", "--network", "shop", "-p", "127.0.0.1:18433:80")
    sleeper(agent, "db", "--network", "shop")
    reaches(agent, "web", "db")
    agent.restart()
    reaches(agent, "web", "db")
    agent.docker("rm", "-f", "web", "db")
    agent.docker("network", "rm", "shop")
    assert host("ip", "link", "show", name, check=False) == ""


def test_a_bridge_of_somebody_else_is_left_alone(agent: AgentUnderTest) -> None:
    name = "brtest-other"
    host("ip", "link", "add", name, "type", "bridge")
    try:
        before = host("ip", "-d", "link", "show", name)
        refused = agent.docker(
            *("network", "create", "-o", f"com.docker.network.bridge.name={name}", "shop"), check=False
        )
        assert f"is to have the bridge {name}" in refused.stderr
        assert "none of ours" in refused.stderr
        assert host("ip", "-d", "link", "show", name) == before
        assert "shop" not in agent.docker("network", "ls").stdout
    finally:
        host("ip", "link", "delete", name)


def test_a_bridge_that_somebody_has_put_in_the_place_of_ours_is_not_used(agent: AgentUnderTest) -> None:
    name = "brtest-swap"
    agent.docker("network", "create", "-o", f"com.docker.network.bridge.name={name}", "shop")
    agent.kill9()
    host("ip", "link", "delete", name)
    host("ip", "link", "add", name, "type", "bridge")
    try:
        agent.start()
        refused = agent.docker("run", "--rm", "--network", "shop", "busybox", "true", check=False)
        assert "none of ours" in refused.stderr
        agent.docker("network", "rm", "shop")
        assert host("ip", "link", "show", name) != "", "it is not ours to remove"
    finally:
        host("ip", "link", "delete", name)


def test_a_second_network_cannot_have_the_bridge_of_the_first(agent: AgentUnderTest) -> None:
    option = ("-o", "com.docker.network.bridge.name=brtest-one")
    agent.docker("network", "create", *option, "shop")
    refused = agent.docker("network", "create", *option, "other", check=False)
    assert "brtest-one" in refused.stderr


def test_containers_without_icc_reach_the_host_alone(agent: AgentUnderTest) -> None:
    both(agent, "blue", 1, "-o", "com.docker.network.bridge.enable_icc=false")
    sleeper(agent, "web", "--network", "blue", "--ip", "10.75.1.7", "-p", "18434:80")
    sleeper(agent, "db", "--network", "blue", "--ip", "10.75.1.8")
    agent.docker("exec", "-d", "db", "sh", "-c", "while true; do echo hello | nc -l -p 80; done")
    for address in ("10.75.1.8", "fd00:75:1::2", "fd00:75:1::3"):
        assert agent.docker("exec", "web", "ping", "-c1", "-w1", address, check=False).returncode or (
            address in execute(agent, "web", "ip", "address")
        ), "nor over IPv6"
    reaches(agent, "web", "10.75.1.1")
    # Nor by way of the host.
    agent.docker("exec", "--privileged", "web", "ip", "route", "add", "10.75.1.8/32", "via", "10.75.1.1")
    assert agent.docker("exec", "web", "ping", "-c1", "-w1", "10.75.1.8", check=False).returncode
    [shown] = json.loads(agent.docker("network", "inspect", "blue").stdout)
    assert shown["Options"]["com.docker.network.bridge.enable_icc"] == "false"


def test_interfaces_and_published_ports_as_the_network_says(agent: AgentUnderTest) -> None:
    prefix = ("-o", "com.docker.network.container_iface_prefix=net")
    both(agent, "blue", 1, *prefix, "-o", "com.docker.network.bridge.host_binding_ipv4=127.0.0.1")
    both(agent, "red", 2)
    for name in ("web", "again"):
        ports = ("-p", "18435:80", "-p", "0.0.0.0:18436:81") if name == "web" else ()
        sleeper(agent, name, "--network", "blue", "--network", "red", *ports)
        links = execute(agent, name, "ip", "-o", "link")
        assert {"net0", "eth0"} <= {line.split()[1].split("@")[0].rstrip(":") for line in links.splitlines()}
    assert ports_of(agent, "web").splitlines() == ["80/tcp -> 127.0.0.1:18435", "81/tcp -> 0.0.0.0:18436"]
    agent.docker("restart", "-t", "0", "web")
    assert "80/tcp -> 127.0.0.1:18435" in ports_of(agent, "web")
    agent.docker("network", "disconnect", "blue", "web")
    assert "80/tcp -> 0.0.0.0:18435" in ports_of(agent, "web")
    agent.docker("network", "connect", "blue", "web")
    assert "net0" in execute(agent, "web", "ip", "-o", "link")


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("com.docker.network.bridge.default_bridge=true", "default_bridge"),
        ("com.docker.network.bridge.trusted_host_interfaces=eth0", "trusted_host_interfaces"),
        ("com.docker.network.bridge.inhibit_ipv4=true", "inhibit_ipv4"),
        ("com.docker.network.bridge.gateway_mode_ipv4=isolated", "gateway_mode_ipv4"),
        ("com.docker.network.bridge.name=a/b", "bridge_name"),
        ("com.docker.network.bridge.host_binding_ipv4=::1", "publish_address"),
        ("com.docker.network.container_iface_prefix=muchtoolongaprefix", "interface_prefix"),
    ],
)
def test_an_option_that_is_not_there_is_named(agent: AgentUnderTest, option: str, why: str) -> None:
    refused = agent.docker("network", "create", "-o", option, "shop", check=False)
    assert refused.returncode
    assert why in refused.stderr
