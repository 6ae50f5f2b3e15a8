# SPDX-License-Identifier: Apache-2.0
"""What others change of ours is seen, repaired and told; what we change is not taken for it."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from harness.waiting import PATIENCE, eventually
from integration.network.topology import HOST_OUTER

from .world import World, echoes, server

pytestmark = pytest.mark.root

WITHIN_S = 1.0 * PATIENCE


def told(world: World, since: float) -> list[dict[str, Any]]:
    """The events of repairs since a moment."""
    query = f"since={since}&until={time.time()}"
    return [
        event
        for event in world.agent.stream("GET", f"/mooring/v1/events?{query}")
        if event["type"] == "network" and event["action"] in ("repair", "drift")
    ]


def answers(world: World) -> bool:
    try:
        return world.says() == "web"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        ("nft flush ruleset", "it is missing"),
        ("nft delete table inet TABLE", "it is missing"),
        ("nft flush chain inet TABLE publish", "its rules were changed"),
        ("nft flush map inet TABLE published_anywhere", r"published_anywhere lacks tcp \. 8080"),
        ("ip link delete BRIDGE", "bridge BRIDGE of network bridge is missing"),
        ("ip link set BRIDGE down", "bridge BRIDGE of network bridge is down"),
        ("ip address flush dev BRIDGE", "has not the address"),
    ],
)
def test_damage_is_repaired_at_once_and_told(world: World, damage: str, seen: str) -> None:
    world.put("web", server("web"))
    world.until_served("web")
    bridge = world.agent.api("GET", "/mooring/v1/networks/bridge")["bridge"]
    for placeholder, name in {"TABLE": world.agent.config.nft_table, "BRIDGE": bridge}.items():
        damage, seen = damage.replace(placeholder, name), seen.replace(placeholder, name)
    since = time.time()

    with world.outside.connect(HOST_OUTER, 8081) as connection:
        assert echoes(connection)
        world.host.run(*damage.split())
        began = time.monotonic()
        eventually(lambda: told(world, since))
        eventually(lambda: answers(world))
        assert time.monotonic() - began < WITHIN_S
        assert echoes(connection, b"2\n")
    [event] = told(world, since)
    assert event["action"] == "repair"
    assert re.search(seen, event["attributes"]["what"])
    assert "network repaired" in world.agent.log_tail()


@pytest.mark.parametrize(
    "encryption", [None, pytest.param("wireguard", marks=pytest.mark.kernel("wireguard"))]
)
def test_device_that_leads_to_other_hosts_is_put_back(world: World, encryption: str | None) -> None:
    own: dict[str, str] = {"address": HOST_OUTER}
    if encryption is not None:
        own |= world.agent.api("GET", "/mooring/v1/host/network-key")
    spec = {"driver": "overlay", "subnet": "10.220.0.0/16", "hosts": {"a": own}, "encryption": encryption}
    put = world.agent.api("PUT", "/mooring/v1/networks/mesh", spec)
    device = f"mo{put['result']['bridge'][2:]}"
    since = time.time()
    world.host.run("ip", "link", "delete", device)

    [event] = eventually(lambda: told(world, since))
    assert event["action"] == "repair"
    assert f"device {device} of the " in event["attributes"]["what"]
    assert world.host.run("ip", "link", "show", device)
    assert world.agent.api("PUT", "/mooring/v1/networks/mesh", spec)["changed"] is False


def test_rules_of_networks_are_repaired_as_well(world: World) -> None:
    world.agent.api("PUT", "/mooring/v1/networks/shop", {"rules": ["deny in tcp 25"]})
    table = f"{world.agent.config.nft_table}_rules"
    since = time.time()
    world.host.run("nft", "delete", "table", "inet", table)

    [event] = eventually(lambda: told(world, since))
    assert event["action"] == "repair"
    assert event["attributes"]["what"] == f"nftables table {table} of the networks' rules is missing"
    assert "deny in tcp 25" in world.host.run("nft", "list", "table", "inet", table)

    since = time.time()
    world.agent.api("PUT", "/mooring/v1/networks/shop", {"rules": ["deny in tcp 26 for web"]})
    world.put("web", server("web", networks=["shop"]))
    world.agent.api("DELETE", "/mooring/v1/containers/web?timeout=0")
    world.host.run("nft", "flush", "chain", "inet", table, "forward")
    [event] = eventually(lambda: told(world, since))
    assert "was changed" in event["attributes"]["what"], "what we change ourselves is no drift"


def test_own_changes_and_those_of_others_tables_are_no_drift(world: World) -> None:
    since = time.time()
    world.put("web", server("web"))
    world.until_served("web")
    world.host.run("nft", "add table inet somebody_else")
    world.put("web", server("web", env={"A": "1"}))
    world.agent.api("PUT", "/mooring/v1/networks/red", {})
    world.agent.api("DELETE", "/mooring/v1/networks/red")
    world.host.run("nft", "flush", "table", "inet", world.agent.config.nft_table)

    [event] = eventually(lambda: told(world, since))
    assert "its rules were changed" in event["attributes"]["what"]


def test_somebody_who_keeps_at_it_is_met_with_longer_and_longer_pauses(world: World) -> None:
    world.put("web", server("web"))
    world.until_served("web")
    since = time.time()
    table = world.agent.config.nft_table
    until = time.monotonic() + 4

    def kept_at_it() -> bool:
        """For so long, and longer where a repair takes its time."""
        world.host.run("sh", "-c", f"nft delete table inet {table} 2>/dev/null || true")
        return time.monotonic() >= until and len(told(world, since)) >= 2

    eventually(kept_at_it, 20, "repeated repairs")
    assert len(told(world, since)) <= 8
    eventually(lambda: answers(world), 20)
