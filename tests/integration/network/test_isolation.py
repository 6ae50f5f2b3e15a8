# SPDX-License-Identifier: Apache-2.0
"""Networks that are open to each other, rules of networks, and containers that are routers and have rules."""

from __future__ import annotations

from typing import Any

import pytest

from integration.network.conftest import MakeHost, Serve
from integration.network.topology import OUTSIDE, Container, Host, NamedNamespace, Refused

pytestmark = pytest.mark.root


def allow(direction: str, **rest: Any) -> dict[str, Any]:
    return {"action": "allow", "direction": direction, **rest}


def deny(direction: str, **rest: Any) -> dict[str, Any]:
    return {"action": "deny", "direction": direction, **rest}


def named(host: Host, name: str) -> Container:
    """A container that the agent knows by this name."""
    host.call("rename", name, name)
    return host.container(name)


def test_network_is_reachable_from_those_that_it_names_and_not_the_other_way(
    host: Host, serve: Serve
) -> None:
    host.call("create", "front", {})
    host.call("create", "back", {"reachable_from": ["front", "not-there-yet"]})
    front, back = host.container(), host.container()
    its, address = front.attach("front"), back.attach("back")
    serve(front, 80, "front")
    serve(back, 80, "back")

    assert front.ask(address, 80) == ["back", its]
    assert back.cannot_reach(its, 80)

    host.call("update", "back", {})
    assert front.cannot_reach(address, 80)
    host.call("update", "back", {"reachable_from": ["front"]})
    assert front.ask(address, 80) == ["back", its]
    assert host.call("check") == []


def test_internal_network_can_be_opened_to_one(host: Host, serve: Serve) -> None:
    host.call("create", "front", {})
    host.call("create", "cut-off", {"internal": True, "reachable_from": ["front"]})
    front, other, inner = host.container(), host.container(), host.container()
    its, _, address = front.attach("front"), other.attach(), inner.attach("cut-off")
    inner.run("ip", "route", "add", "default", "via", str(host.call("get", "cut-off")["gateway"]))
    serve(inner, 80, "inner")

    assert front.ask(address, 80) == ["inner", its]
    assert other.cannot_reach(address, 80)


def test_rules_within_a_network_are_asked_in_order(host: Host, serve: Serve) -> None:
    rules = [
        allow("in", protocol="tcp", ports=[80], peer="container:web", containers=["db"]),
        allow("in", protocol="tcp", ports=["8000-8010"]),
        deny("in", containers=["db"]),
    ]
    host.call("create", "shop", {"rules": rules})
    web, db, other = named(host, "web"), named(host, "db"), named(host, "other")
    its, address, _ = web.attach("shop"), db.attach("shop"), other.attach("shop")
    for port in (80, 81, 8005):
        serve(db, port, "db")
    serve(web, 81, "web")

    assert web.ask(address, 80) == ["db", its]
    assert web.cannot_reach(address, 81)
    assert other.cannot_reach(address, 80)
    assert other.ask(address, 8005)[0] == "db"
    assert other.ask(its, 81)[0] == "web"
    assert db.ask(its, 81)[0] == "web"
    assert host.call("check") == []


def test_rules_towards_the_outside_and_the_host(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    rules = [
        allow("out", protocol="tcp", ports=80, peer=f"{OUTSIDE}/32"),
        deny("out", peer="0.0.0.0/0", containers=["caged"]),
    ]
    host.call("create", "zoo", {"rules": rules})
    caged, free = named(host, "caged"), named(host, "free")
    caged.attach("zoo")
    free.attach("zoo")
    gateway = str(host.call("get", "zoo")["gateway"])
    for port in (80, 81):
        serve(outside, port, "outside")
    serve(host, 5000, "host")

    assert caged.ask(OUTSIDE, 80)[0] == "outside"
    assert caged.cannot_reach(OUTSIDE, 81)
    assert caged.cannot_reach(gateway, 5000)
    assert free.ask(OUTSIDE, 81)[0] == "outside"
    assert free.ask(gateway, 5000)[0] == "host"


def test_names_in_rules_follow_the_containers(host: Host, serve: Serve) -> None:
    host.call("create", "shop", {"rules": [allow("in", peer="container:web"), deny("in")]})
    db = named(host, "db")
    address = db.attach("shop")
    serve(db, 80, "db")
    web = named(host, "web")
    first = web.attach("shop")
    assert web.ask(address, 80)[0] == "db"

    web.kill()
    host.call("release", "web")
    stranger, again = named(host, "stranger"), named(host, "web2")
    stranger.attach("shop", first)
    assert stranger.cannot_reach(address, 80)

    host.call("rename", "web2", "web")
    again.attach("shop")
    assert again.ask(address, 80)[0] == "db"


def test_rules_come_change_and_go_while_connections_stay(host: Host, serve: Serve) -> None:
    host.call("create", "shop", {})
    first, second = host.container(), host.container()
    address, _ = first.attach("shop"), second.attach("shop")
    serve(first, 80, "first")
    with second.connect(address, 80) as kept:
        lines = kept.makefile()
        assert lines.readline().startswith("first")
        host.call("update", "shop", {"rules": [deny("in", protocol="tcp", ports=[80])]})
        assert second.cannot_reach(address, 80)
        kept.sendall(b"still there\n")
        assert lines.readline() == "still there\n"
    host.call("update", "shop", {})
    assert second.ask(address, 80)[0] == "first"
    assert [table for table in host.tables() if "rules" in table] == []


def test_rules_are_repaired_and_survive_the_agent_and_the_host(
    make_host: MakeHost, outside: NamedNamespace, serve: Serve
) -> None:
    host = make_host()
    host.start_agent()
    host.call("create", "shop", {"rules": [deny("in", protocol="tcp", ports=[80])]})
    [table] = [table.split()[-1] for table in host.tables() if "rules" in table]
    host.kill_agent()
    assert host.start_agent() == []

    host.run("nft", "flush", "chain", "inet", table, "net_1_in")
    assert host.call("check") == [f"nftables table {table} of the networks' rules was changed"]
    assert host.call("repair") == [f"nftables table {table} of the networks' rules was changed"]
    host.run("nft", "delete", "table", "inet", table)
    assert host.call("check") == [f"nftables table {table} of the networks' rules is missing"]
    host.call("repair")
    assert host.call("check") == []

    host.kill_agent()
    outside.run("ip", "address", "flush", "scope", "global")
    rebooted = make_host()
    rebooted.start_agent()
    first, second = rebooted.container(), rebooted.container()
    address, _ = first.attach("shop"), second.attach("shop")
    serve(first, 80)
    assert second.cannot_reach(address, 80)


def test_rules_that_a_killed_agent_left_in_the_kernel_are_taken_back(host: Host) -> None:
    host.call("create", "shop", {})
    host.kill_agent()
    table = f"{host.config.nft_table}_rules"
    host.run("nft", "add", "table", "inet", table)

    assert host.start_agent() == [f"nftables table {table} of the networks' rules is left over"]
    assert not [name for name in host.tables() if "rules" in name]
    assert host.call("check") == []

    host.call("remove", "shop")
    host.kill_agent()
    host.run("nft", "add", "table", "inet", table)
    assert host.start_agent() == []
    host.call("create", "shop", {})
    assert not [name for name in host.tables() if "rules" in name], "not for the next network"


def test_container_routes_between_networks_and_has_rules_of_its_own(host: Host, serve: Serve) -> None:
    for name in ("left", "right"):
        host.call("create", name, {"internal": True})
    router, left, right = host.container("router"), host.container(), host.container()
    host.call("terms", "router", {}, ["left", "right"])
    near, far = router.attach("left"), router.attach("right", ifname="eth1")
    its, address = left.attach("left"), right.attach("right")
    router.run("sysctl", "-w", "net.ipv4.ip_forward=1")
    left.run("ip", "route", "add", "default", "via", near)
    right.run("ip", "route", "add", "default", "via", far)
    for port in (80, 81, 82):
        serve(right, port, "right")
    router.run("iptables", "-A", "FORWARD", "-p", "tcp", "--dport", "81", "-j", "REJECT")
    router.run(
        "nft",
        "add table ip own; add chain ip own f { type filter hook forward priority 0; }; "
        "add rule ip own f tcp dport 82 drop",
    )

    assert left.ask(address, 80) == ["right", its]
    assert left.cannot_reach(address, 81)
    assert left.cannot_reach(address, 82)


def test_router_that_is_not_trusted_forwards_nothing(host: Host, serve: Serve) -> None:
    for name in ("left", "right"):
        host.call("create", name, {"internal": True})
    router, left, right = host.container(), host.container(), host.container()
    near, far = router.attach("left"), router.attach("right", ifname="eth1")
    left.attach("left")
    address = right.attach("right")
    router.run("sysctl", "-w", "net.ipv4.ip_forward=1")
    left.run("ip", "route", "add", "default", "via", near)
    right.run("ip", "route", "add", "default", "via", far)
    serve(right, 80)

    assert left.cannot_reach(address, 80)


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"action": "reject", "direction": "in"}, r"action is 'reject', expected one of allow, deny"),
        ({"action": "deny"}, "needs the option direction"),
        (deny("in", ports=[80]), "ports is set with the protocol any, which has no ports"),
        (deny("in", protocol="tcp", ports=["90-80"]), "ports has '90-80', expected a port"),
        (deny("in", peer="10.0.0.1/8"), "peer is '10.0.0.1/8'.*host bits"),
        (deny("in", peer='container:a" }; flush ruleset #'), "peer has .* expected container:NAME"),
        (deny("out", containers=["a b"]), "containers has 'a b'"),
        (deny("out", port=80), "no option 'port': did you mean 'ports'"),
    ],
)
def test_rules_that_mean_nothing_are_refused(host: Host, rule: dict[str, Any], why: str) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        host.call("create", "shop", {"rules": [rule]})
    assert refusal.value.kind == "InvalidSpec"
    assert host.created() == []


def test_rules_hold_for_ipv6_within_a_network(host: Host) -> None:
    host.call("create", "six", {"ipv6": True, "rules": [allow("in", peer="container:web"), deny("in")]})
    web, db, other = named(host, "web"), named(host, "db"), named(host, "other")
    for container in (web, db, other):
        container.attach("six")
    address = str(host.call("endpoints", "db")[0]["ipv6"])

    def pings(container: Container) -> bool:
        line = f"busybox ping6 -c 1 -W 2 {address} >/dev/null 2>&1 && echo yes || echo no"
        return container.run("sh", "-c", line) == "yes\n"

    assert pings(web)
    assert not pings(other)
