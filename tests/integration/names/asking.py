# SPDX-License-Identifier: Apache-2.0
"""Containers that ask for names, as they would: from their own network, whom their resolv.conf names."""

from __future__ import annotations

import socket
from typing import Any

from harness import dns
from harness.agent import AgentUnderTest
from harness.dns import Answer
from harness.waiting import eventually


def declare(agent: AgentUnderTest, network: str, **spec: Any) -> dict[str, Any]:
    """Declare a network, and return its view."""
    view: dict[str, Any] = agent.api("PUT", f"/mooring/v1/networks/{network}", spec)["result"]
    return view


def run(agent: AgentUnderTest, name: str, *networks: str | dict[str, Any], **spec: Any) -> dict[str, Any]:
    """Run a container that sleeps, and return its view."""
    spec = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0, **spec}
    body = {**spec, "networks": list(networks)}
    view: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", body)["result"]
    return view


def names_of(agent: AgentUnderTest, network: str) -> dict[str, Any]:
    """What the network says about its names."""
    view: dict[str, Any] = agent.api("GET", f"/mooring/v1/networks/{network}")["names"]
    return view


def served(agent: AgentUnderTest, network: str) -> int:
    """Wait until the network's server runs, and return its pid."""
    eventually(lambda: names_of(agent, network)["state"] == "running", what=f"a server of {network}")
    pid: int = names_of(agent, network)["pid"]
    return pid


def resolv_conf(agent: AgentUnderTest, container: dict[str, Any]) -> str:
    """Its resolv.conf, as the container sees it."""
    argv = ["cat", "/etc/resolv.conf"]
    answer = agent.api("POST", f"/mooring/v1/containers/{container['id']}/exec", {"argv": argv})
    return str(answer["stdout"])


def resolvers(agent: AgentUnderTest, container: dict[str, Any]) -> list[str]:
    """Whom it asks."""
    lines = resolv_conf(agent, container).splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver ")]


def look_up(
    agent: AgentUnderTest,
    container: dict[str, Any],
    name: str,
    kind: str = "A",
    *,
    tcp: bool = False,
    server: str | None = None,
    port: int = 53,
) -> Answer:
    """Ask from within a container, whom it asks or another server. Raises TimeoutError."""
    whom = server or resolvers(agent, container)[0]
    transport = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in whom else socket.AF_INET
    with dns.inside(container["pid"], transport, family) as made:
        return dns.ask(made, whom, name, kind, port)


def finds(
    agent: AgentUnderTest, container: dict[str, Any], name: str, *addresses: str, again: bool = False
) -> None:
    """Wait until a name stands for exactly these addresses; none is a name that is not known. A question
    without an answer is an error, unless it may be put `again`, as a resolver does.
    """

    def right() -> bool:
        try:
            answer = look_up(agent, container, name)
        except TimeoutError as error:
            if not again:
                raise
            raise AssertionError("there was no answer") from error
        assert sorted(answer.values) == sorted(addresses)
        assert answer.code == (dns.NOERROR if addresses else dns.NXDOMAIN)
        return True

    eventually(right, what=f"{name} as {addresses}")


def address(container: dict[str, Any], network: str) -> str:
    """Its IPv4 address on a network."""
    return str(container["networks"][network]["ipv4_address"])
