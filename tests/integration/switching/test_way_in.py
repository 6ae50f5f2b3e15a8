# SPDX-License-Identifier: Apache-2.0
"""Ports for containers that the host has no way to: refused when they are declared, discarded with a warning
where docker's users expect that.
"""

from __future__ import annotations

import json

import pytest

from harness.waiting import eventually
from integration.network.topology import HOST_OUTER, OUTSIDE

from .world import World, server

pytestmark = pytest.mark.root


@pytest.fixture
def world(world: World) -> World:
    """The host with a macvlan on its interface, and an internal network."""
    links = json.loads(world.host.run("ip", "-json", "link"))
    [parent] = [link["ifname"] for link in links if link["ifname"].startswith("gt")]
    lan = {"driver": "macvlan", "parent": parent, "subnet": "198.51.100.0/24", "gateway": OUTSIDE}
    world.agent.api("PUT", "/mooring/v1/networks/lan", lan)
    world.agent.api("PUT", "/mooring/v1/networks/back", {"internal": True})
    return world


@pytest.mark.parametrize(
    ("networks", "why"),
    [
        (["lan"], "network lan is a macvlan, whose containers are reached at their own addresses"),
        (["back"], "network back is internal, so that nothing enters it"),
        (["lan", "back"], "own addresses; network back is internal"),
        (["host"], 'ports cannot be published with the network "host"'),
        (["none"], 'ports cannot be published with the network "none"'),
    ],
)
def test_declared_ports_without_a_way_in_are_refused(world: World, networks: list[str], why: str) -> None:
    refused = world.put("web", server("web", networks=networks), check=False)
    assert why in refused["message"]
    assert "remove ports" in refused["message"]
    assert world.names() == []

    world.put("web", server("web", networks=networks, ports=[]))
    if networks[0] in ("host", "none"):
        return
    refused = world.put("web", server("web", networks=networks), check=False)
    assert why in refused["message"], "nor live"
    world.agent.api("POST", "/mooring/v1/containers/web/stop?timeout=0")
    refused = world.put("web", server("web", networks=networks, state="stopped"), check=False)
    assert why in refused["message"], "nor while it is stopped"


def test_port_leads_through_the_network_that_has_a_way_in(world: World) -> None:
    world.put("web", server("web", networks=["lan", "back", "bridge"]))
    # The outside is on the container's own network here, so that it would be answered from there.
    eventually(lambda: says_web(world), what="it is reached from the host")


def says_web(world: World) -> bool:
    try:
        return world.says(world.host, "127.0.0.1") == "web"
    except OSError:
        return False


@pytest.mark.docker
@pytest.mark.parametrize(
    ("network", "warning"),
    [
        ("host", "Published ports are discarded when using host network mode"),
        ("none", "Published ports are discarded when using the network none"),
        ("lan", "Published ports are discarded since network lan is a macvlan"),
        ("back", "Published ports are discarded since network back is internal"),
    ],
)
def test_docker_discards_them_with_a_warning(world: World, network: str, warning: str) -> None:
    done = world.agent.docker(
        *("run", "--detach", "--name", "web", "--network", network, "--publish", "8080:80"),
        *("--stop-timeout", "0", "busybox", "sleep", "600"),
    )
    assert warning in done.stderr
    assert world.agent.docker("port", "web").stdout == ""
    assert world.outside.cannot_reach(HOST_OUTER, 8080)


@pytest.mark.docker
def test_docker_refuses_them_with_the_network_of_another_container(world: World) -> None:
    world.put("web", server("web", ports=[]))
    done = world.agent.docker(
        "run", "--detach", "--network", "container:web", "--publish", "8080:80", "busybox", check=False
    )
    assert done.returncode != 0
    assert "ports" in done.stderr
    assert world.names() == ["web"]
