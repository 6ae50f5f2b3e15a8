# SPDX-License-Identifier: Apache-2.0
"""Limits of rate, rules of networks and trust, as users declare them of real containers."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from harness.agent import AgentUnderTest, ApiError
from harness.waiting import PATIENCE, eventually

pytestmark = pytest.mark.root


def put(agent: AgentUnderTest, name: str, **spec: Any) -> dict[str, Any]:
    body = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0, **spec}
    outcome: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", body)
    return outcome


def inside(agent: AgentUnderTest, name: str, *argv: str) -> tuple[int, str]:
    done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv)})
    return done["exit_code"], str(done["stdout"])


def note(agent: AgentUnderTest, name: str, address: str) -> str:
    """What a container gets from the web server at an address; "" if nothing within a second."""
    line = f"printf 'GET /note HTTP/1.0\\r\\n\\r\\n' | nc -w 1 {address} 80 | tail -n 1"
    return inside(agent, name, "sh", "-c", line)[1].strip()


def address(outcome: dict[str, Any], network: str = "bridge") -> str:
    return str(outcome["result"]["networks"][network]["ipv4_address"])


def buckets(agent: AgentUnderTest) -> list[int]:
    """The rates of the agent's token buckets, in bytes a second; other agents of this host have theirs."""
    prefix = agent.config.bridge_prefix
    bridges = [name for name in os.listdir("/sys/class/net") if name.startswith(prefix)]
    cables = {port for bridge in bridges for port in os.listdir(f"/sys/class/net/{bridge}/brif")}
    listed = subprocess.run(
        ["tc", "-json", "qdisc", "show"], check=True, capture_output=True, timeout=10 * PATIENCE, text=True
    )
    return sorted(
        int(one["options"]["rate"])
        for one in json.loads(listed.stdout)
        if one["kind"] == "tbf" and (one["dev"] in cables or one["dev"].startswith(f"mi{prefix[2:]}"))
    )


def mooring(agent: AgentUnderTest, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mooring_agent", *arguments],
        env={**os.environ, "MOORING_SOCKET": str(agent.socket)},
        capture_output=True,
        timeout=60,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def framed(megabits: float) -> int:
    """The rate in bytes a second that stands for one in bits of IP packets."""
    return int(megabits * 1_000_000) * 1514 // (1500 * 8)


def test_rates_are_declared_changed_live_and_taken_back(agent: AgentUnderTest) -> None:
    before = buckets(agent)
    put(agent, "slow1", network_limits={"rate_in": "20mbit", "rate_out": "10mbit"})
    assert buckets(agent) == sorted([*before, framed(20), framed(10)])
    for _ in range(2):
        time.sleep(0.3)  # until a cable is laid ahead, by another name
        agent.api("POST", "/mooring/v1/containers/slow1/restart")
        # What the former cable had goes with its network namespace, which the kernel clears away later.
        assert eventually(lambda: buckets(agent) == sorted([*before, framed(20), framed(10)]))

    changed = put(agent, "slow1", network_limits={"rate_out": "5mbit"})
    assert [(one["action"], one["name"]) for one in changed["actions"]] == [("update", "slow1")]
    assert "live" in changed["actions"][0]["reason"]
    assert buckets(agent) == sorted([*before, framed(5)])
    assert put(agent, "slow1", network_limits="out=5mbit")["changed"] is False

    mooring(agent, "update", "slow1", "--network-limit", "in=8mbit,burst=64k")
    assert buckets(agent) == sorted([*before, framed(8)])
    mooring(agent, "update", "slow1", "--no-network-limit")
    assert buckets(agent) == before

    with pytest.raises(ApiError, match="state of container slow1 cannot be updated to 'stopped'"):
        agent.api("PATCH", "/mooring/v1/containers/slow1", {"state": "stopped"})

    mooring(agent, "run", "-d", "--name", "slow2", "--network-limit", "out=4mbit", "busybox", "sleep", "600")
    assert buckets(agent) == sorted([*before, framed(4)])
    for name in ("slow1", "slow2"):
        agent.api("DELETE", f"/mooring/v1/containers/{name}?timeout=0")
    assert eventually(lambda: buckets(agent) == before)


def test_container_that_takes_its_neighbour_s_address_is_not_heard(agent: AgentUnderTest) -> None:
    web = ["sh", "-c", "echo $HOSTNAME >/dev/shm/note; exec httpd -f -p 80 -h /dev/shm"]
    owner = address(put(agent, "owner1", command=web, hostname="owner1"))
    put(agent, "thief1", command=web, hostname="thief1", cap_add=["NET_ADMIN"])
    put(agent, "client1", cap_add=["NET_ADMIN"])
    assert eventually(lambda: note(agent, "client1", owner))

    assert inside(agent, "thief1", "ip", "address", "add", f"{owner}/24", "dev", "eth0")[0] == 0
    inside(agent, "thief1", "arping", "-c", "2", "-A", "-I", "eth0", owner)
    inside(agent, "client1", "ip", "neigh", "flush", "dev", "eth0")
    for _ in range(3):
        assert eventually(lambda: note(agent, "client1", owner)) == "owner1"
    for name in ("owner1", "thief1", "client1"):
        agent.api("DELETE", f"/mooring/v1/containers/{name}?timeout=0")


def test_rules_follow_the_names_of_containers(agent: AgentUnderTest) -> None:
    rules = ["allow in tcp 80 from container:front1 for store1", "deny in for store1"]
    agent.api("PUT", "/mooring/v1/networks/shop", {"rules": rules})
    serve = ["sh", "-c", "echo x >/dev/shm/note; exec httpd -f -p 80 -h /dev/shm"]
    store = address(put(agent, "store1", command=serve, networks=["shop"]), "shop")
    put(agent, "front1", networks=["shop"])
    put(agent, "other1", networks=["shop"])
    assert eventually(lambda: note(agent, "front1", store))
    assert not note(agent, "other1", store)

    # A replacement has the name, and so the right, of the one before.
    put(agent, "front1", networks=["shop"], env={"NEW": "1"}, update_order="start_first")
    assert eventually(lambda: note(agent, "front1", store))
    again = agent.api("PUT", "/mooring/v1/networks/shop", {"rules": rules})
    assert again["changed"] is False
    live = agent.api("PUT", "/mooring/v1/networks/shop", {"rules": []})
    assert [one["action"] for one in live["actions"]] == ["update"]
    assert eventually(lambda: note(agent, "other1", store))
    for name in ("store1", "front1", "other1"):
        agent.api("DELETE", f"/mooring/v1/containers/{name}?timeout=0")
    agent.api("DELETE", "/mooring/v1/networks/shop")


def test_overlay_is_declared_and_takes_other_hosts_live(agent: AgentUnderTest) -> None:
    links = subprocess.run(
        ["ip", "-json", "-4", "address", "show", "scope", "global"],
        check=True,
        capture_output=True,
        timeout=10 * PATIENCE,
    )
    own = next(
        address["local"]
        for link in json.loads(links.stdout)
        for address in link["addr_info"]
        if not link["ifname"].startswith("mr")
    )
    path, spec = "/mooring/v1/networks/mesh", {"driver": "overlay", "subnet": "10.253.0.0/16"}
    planned = agent.api("PUT", f"{path}?dry_run=true", {**spec, "hosts": {"here": own}})
    made = agent.api("PUT", path, {**spec, "hosts": {"here": {"address": own}}})
    assert planned["actions"] == made["actions"]
    assert made["result"]["overlay"]["host"] == "here"
    assert agent.api("PUT", path, {**spec, "hosts": {"here": own}})["changed"] is False

    there = {"address": "192.0.2.200", "slice": 255}
    more = agent.api("PUT", path, {**spec, "hosts": {"here": own, "there": there}})
    assert [(one["action"], one["reason"]) for one in more["actions"]] == [
        ("update", "hosts there added, live")
    ]
    assert set(more["result"]["overlay"]["hosts"]) == {"here", "there"}
    moved = {"address": own, "slice": (int(ipaddress.ip_address(own)) + 1) % 256}
    without = {"there": there}
    for suffix in ("?dry_run=true", ""):
        refused = agent.request("PUT", path + suffix, {**spec, "hosts": {"here": moved}})
        assert refused.status == 409
        assert "cannot change this host's slice" in refused.json()["message"]
        refused = agent.request("PUT", path + suffix, {**spec, "hosts": without})
        assert refused.status == 400
        assert "are none of ours" in refused.json()["message"]
    agent.api("DELETE", path)
    refused = agent.request("PUT", f"{path}?dry_run=true", {**spec, "hosts": without})
    assert refused.status == 400
