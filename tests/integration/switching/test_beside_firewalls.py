# SPDX-License-Identifier: Apache-2.0
"""A real ufw and a real firewalld on the same host: what they keep from containers is said, with the command
that lets it through, and neither harms the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from harness.host import need_programs
from harness.waiting import eventually
from integration.network.topology import (
    HOST_OUTER,
    HOST_OUTER6,
    OUTSIDE,
    OUTSIDE6,
    NamedNamespace,
    Namespace,
    Service,
)

from . import firewalls
from .firewalls import Place, advised
from .world import World, server

pytestmark = [pytest.mark.root, pytest.mark.slow]

Firewall = Callable[[], AbstractContextManager[Place]]


@pytest.fixture
def ufw(places: tuple[NamedNamespace, NamedNamespace], tmp_path: Path) -> Firewall:
    """Return a function that enables ufw on the host."""
    need_programs("ufw")
    return lambda: firewalls.ufw(places[0], tmp_path / "ufw")


@pytest.fixture
def firewalld(places: tuple[NamedNamespace, NamedNamespace], tmp_path: Path) -> Firewall:
    """Return a function that starts firewalld on the host."""
    need_programs("firewalld", "dbus-daemon")
    return lambda: firewalls.firewalld(places[0], tmp_path / "firewalld")


def obstacles(world: World) -> list[str]:
    found: list[str] = world.agent.api("GET", "/mooring/v1/host")["obstacles"]
    return found


def follow_advice(world: World, place: Place, expected: int) -> None:
    """Do what the agent says until nothing is in the way any more."""
    said = eventually(
        lambda: obstacles(world) if len(obstacles(world)) == expected else None, what="it is said what to do"
    )
    for command in dict.fromkeys(command for sentence in said for command in advised(sentence)):
        place.run(command)
    eventually(lambda: obstacles(world) == [], 30, "nothing is in the way any more")


def says(world: World, where: Namespace, address: str, port: int = 8080) -> str:
    try:
        return world.says(where, address, port)
    except OSError as error:
        return str(error)


def inside(world: World, name: str) -> Namespace:
    return Namespace(Path(f"/proc/{world.view(name)['pid']}/ns/net"))


def execute(world: World, name: str, *argv: str) -> str:
    done = world.agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv)})
    return str(done["stdout"])


def declare(world: World) -> None:
    """Two containers on a network with names, over both IP versions; one publishes a port."""
    world.agent.api("PUT", "/mooring/v1/networks/shop", {"ipv6": True})
    world.put("web", server("web", networks=["shop"]))
    world.put("client", server("client", networks=["shop"], ports=[]))


def all_works(world: World) -> None:
    """From outside, from the host, between containers, to the outside, and names."""
    client = inside(world, "client")
    for where, address in (
        (world.outside, HOST_OUTER),
        (world.outside, HOST_OUTER6),
        (world.host, HOST_OUTER),
        (world.host, "127.0.0.1"),
        (client, HOST_OUTER),
        (client, HOST_OUTER6),
    ):
        eventually(
            lambda: says(world, where, address) == "web",  # noqa: B023
            what=f"{address} is reached from {where.path}",
        )
    for address in (OUTSIDE, OUTSIDE6):
        seen_as = HOST_OUTER6 if ":" in address else HOST_OUTER
        eventually(lambda: asked(client, address) == ["outside", seen_as], what=f"to {address}")  # noqa: B023
    [server] = [line for line in execute(world, "client", "cat", "/etc/resolv.conf").split() if "." in line]
    eventually(lambda: "Name:\tweb" in execute(world, "client", "nslookup", "web", server), what="names")


def asked(where: Namespace, address: str) -> list[str]:
    """What the service outside says, or why there is no answer."""
    try:
        return where.ask(address, 700)
    except OSError as error:
        return [str(error)]


@contextmanager
def services(world: World) -> Iterator[None]:
    """One outside, over both IP versions, and one of the host, which its firewall protects."""
    with ExitStack() as stack:
        for where, port, name, address in (
            (world.outside, 700, "outside", "0.0.0.0"),
            (world.outside, 700, "outside", OUTSIDE6),
            (world.host, 9000, "protected", "0.0.0.0"),
        ):
            stack.callback(Service(where, port, name, address).close)
        yield


def protects(world: World) -> bool:
    """Whether the firewall still keeps the outside from a service of the host, and lets the host itself."""
    return world.outside.cannot_reach(HOST_OUTER, 9000) and world.host.ask("127.0.0.1", 9000) != []


def advice_helps(world: World, place: Place) -> None:
    """Everything works once it is followed, now and with the next agent, and the host is protected."""
    follow_advice(world, place, 2)
    all_works(world)
    assert protects(world)
    world.agent.restart()
    assert obstacles(world) == []
    all_works(world)
    assert protects(world)


def protects_without_us(world: World) -> None:
    """The host is protected whether a port is published or not, and whether the agent lives or not."""
    world.agent.api("DELETE", "/mooring/v1/containers/web?force=true&timeout=0")
    world.agent.kill9()
    assert protects(world)
    world.agent.start()
    assert protects(world)


def test_ufw(world: World, ufw: Firewall) -> None:
    declare(world)
    with services(world):
        all_works(world)
        with ufw() as place:
            eventually(lambda: protects(world), what="ufw protects the host")
            assert says(world, world.outside, HOST_OUTER) != "web", "ufw forwards: nothing is tested"
            advice_helps(world, place)
            for command in ("ufw reload", "ufw --force disable", "ufw --force enable"):
                place.run(command)
                all_works(world)
            protects_without_us(world)
            assert "ALLOW FWD" in place.run("ufw status").stdout


def test_firewalld(world: World, firewalld: Firewall) -> None:
    declare(world)
    with services(world):
        all_works(world)
        with firewalld() as place:
            eventually(lambda: protects(world), what="firewalld protects the host")
            assert says(world, world.outside, HOST_OUTER) == "web", "it lets through what is translated"
            client = inside(world, "client")
            assert client.cannot_reach(OUTSIDE, 700), "firewalld forwards: nothing is tested"
            advice_helps(world, place)
            place.run("firewall-cmd --reload")
            all_works(world)
            place.run("firewall-cmd --complete-reload")
            all_works(world)
            firewalls.restart_firewalld(place)
            all_works(world)
            assert protects(world)
            protects_without_us(world)


@pytest.mark.parametrize("kind", ["ufw", "firewalld"])
def test_agent_that_comes_to_a_firewall(
    make_world: Callable[[], World], kind: str, request: pytest.FixtureRequest
) -> None:
    firewall: Firewall = request.getfixturevalue(kind)
    with firewall() as place:
        world = make_world()
        try:
            declare(world)
            with services(world):
                follow_advice(world, place, 2)
                all_works(world)
                assert protects(world)
        finally:
            world.end()
