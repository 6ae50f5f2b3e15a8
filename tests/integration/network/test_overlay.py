# SPDX-License-Identifier: Apache-2.0
"""A network across hosts: three of them on one wire, with three containers each."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import PATIENCE
from integration.network.conftest import Serve
from integration.network.topology import Container, Host, NamedNamespace, Refused

pytestmark = pytest.mark.root

SUBNET = "10.220.0.0/16"


class Fleet:
    """Hosts on one wire, each with a network service."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.wire = NamedNamespace()
        self.wire.run("ip", "link", "add", "wire", "type", "bridge")
        self.wire.run("ip", "link", "set", "wire", "up")
        self.hosts: dict[str, Host] = {}
        self.addresses: dict[str, str] = {}

    def add(self, name: str) -> Host:
        """One more host, with an address on the wire."""
        number = len(self.hosts) + 1
        host = Host(self.base / name)
        outer = f"h{number}"
        self.wire.run("ip", "link", "add", outer, "type", "veth", "peer", "eth0", "netns", host.name)
        self.wire.run("ip", "link", "set", outer, "master", "wire", "up")
        self.addresses[name] = f"192.0.2.{10 + number}"
        host.run("ip", "address", "add", f"{self.addresses[name]}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        host.start_agent()
        self.hosts[name] = host
        return host

    def spec(self, *names: str, **rest: Any) -> dict[str, Any]:
        """The network across some of them."""
        hosts = {name: self.addresses[name] for name in names}
        return {"driver": "overlay", "subnet": SUBNET, "hosts": hosts, **rest}

    def remove(self) -> None:
        for host in self.hosts.values():
            host.remove()
        self.wire.remove()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    made = Fleet(tmp_path)
    try:
        yield made
    finally:
        made.remove()


class Flow:
    """Asks a service again and again, and counts what fails."""

    def __init__(self, client: Container, address: str, port: int) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._over = threading.Event()
        self._where = client, address, port
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        client, address, port = self._where
        while not self._over.is_set():
            try:
                client.ask(address, port, 0.5)
                self.answered += 1
            except OSError as error:
                self.failed.append(str(error))

    def more(self) -> None:
        """Wait until more was answered."""
        wanted, end = self.answered + 20, time.monotonic() + 10 * PATIENCE
        while self.answered < wanted:
            assert time.monotonic() < end, "nothing flows"
            time.sleep(0.01)

    def end(self) -> None:
        self._over.set()
        self._thread.join(5)


def populate(host: Host, serve: Serve, count: int = 3) -> dict[str, Container]:
    """Containers of a host that tell their own address."""
    found = {}
    for _ in range(count):
        container = host.container()
        address = container.attach("mesh")
        serve(container, 80, address)
        found[address] = container
    return found


def test_every_pair_of_nine_containers_on_three_hosts_reaches_each_other(fleet: Fleet, serve: Serve) -> None:
    names = ("a", "b", "c")
    for name in names:
        fleet.add(name)
    containers: dict[str, Container] = {}
    for host in fleet.hosts.values():
        view = host.call("create", "mesh", fleet.spec(*names))
        assert (view["subnet"], view["mtu"]) == (SUBNET, 1450)
        containers |= populate(host, serve)

    assert len(containers) == 9
    for (_, client), (address, _) in permutations(containers.items(), 2):
        assert client.ask(address, 80)[0] == address
    # And each as itself, not behind its host.
    (own, client), *_, (other, _) = containers.items()
    assert client.ask(other, 80) == [other, own]
    assert all(host.call("check") == [] for host in fleet.hosts.values())


def test_host_reaches_containers_of_others_and_nothing_is_flooded(fleet: Fleet, serve: Serve) -> None:
    first, second = fleet.add("a"), fleet.add("b")
    for host in (first, second):
        host.call("create", "mesh", fleet.spec("a", "b"))
    [(address, _)] = populate(second, serve, 1).items()

    assert first.ask(address, 80)[0] == address
    entries = [
        entry for entry in json.loads(first.run("bridge", "-json", "fdb")) if entry["ifname"].startswith("mo")
    ]
    assert [entry["dst"] for entry in entries] == [fleet.addresses["b"]]


def test_host_is_added_and_another_removed_while_traffic_between_the_others_flows(
    fleet: Fleet, serve: Serve
) -> None:
    for name in ("a", "b", "c"):
        fleet.add(name)
    containers = {}
    for name, host in fleet.hosts.items():
        host.call("create", "mesh", fleet.spec("a", "b", "c"))
        containers[name] = populate(host, serve, 1)
    [(_, client)] = containers["a"].items()
    [(address, _)] = containers["b"].items()
    [(gone, _)] = containers["c"].items()
    flow = Flow(client, address, 80)
    flow.more()

    # As a playbook does that is run again: the new host, and then the hosts that were there.
    fleet.add("d").call("create", "mesh", fleet.spec("a", "b", "c", "d"))
    for name in ("a", "b", "c"):
        fleet.hosts[name].call("update", "mesh", fleet.spec("a", "b", "c", "d"))
    [(added, its)] = populate(fleet.hosts["d"], serve, 1).items()
    assert client.ask(added, 80)[0] == added
    assert its.ask(address, 80)[0] == address
    flow.more()
    for name in ("a", "b", "d"):
        fleet.hosts[name].call("update", "mesh", fleet.spec("a", "b", "d"))
    flow.more()
    flow.end()

    assert flow.failed == []
    assert client.cannot_reach(gone, 80)
    assert client.ask(added, 80)[0] == added
    assert fleet.hosts["a"].call("check") == []


def test_overlay_survives_the_agent_and_what_was_taken_away_is_put_back(fleet: Fleet, serve: Serve) -> None:
    first, second = fleet.add("a"), fleet.add("b")
    for host in (first, second):
        host.call("create", "mesh", fleet.spec("a", "b"))
    [(_, client)] = populate(first, serve, 1).items()
    [(address, _)] = populate(second, serve, 1).items()
    [device] = [name for name in second.run("ls", "/proc/sys/net/ipv4/conf").split() if name.startswith("mo")]
    first.kill_agent()
    assert client.ask(address, 80)[0] == address
    assert first.start_agent() == []

    second.run("ip", "route", "flush", "dev", device)
    wrong = f"device {device} of the overlay network mesh does not lead to exactly its hosts"
    assert second.call("check") == [wrong]
    second.call("repair")
    assert client.ask(address, 80)[0] == address
    second.run("ip", "link", "delete", device)
    assert second.call("check") == [
        f"device {device} of the overlay network mesh is missing or not as declared"
    ]
    second.call("repair")
    assert client.ask(address, 80)[0] == address
    assert second.call("check") == []


def test_internal_overlay_stays_within(fleet: Fleet, serve: Serve) -> None:
    first, second = fleet.add("a"), fleet.add("b")
    for host in (first, second):
        host.call("create", "mesh", fleet.spec("a", "b", internal=True))
        host.call("create", "other", {})
    [(_, client)] = populate(first, serve, 1).items()
    [(address, _)] = populate(second, serve, 1).items()
    stranger = second.container()
    stranger.attach("other")

    assert client.ask(address, 80)[0] == address
    assert stranger.cannot_reach(address, 80)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"hosts": {"a": "192.0.2.99"}}, "are none of ours; say which is this one with the option host"),
        ({"hosts": None}, "needs the option hosts"),
        ({"subnet": None}, "needs the option subnet"),
        ({"hosts": {"a": "192.0.2.11", "z": "192.1.2.11"}}, "hosts a and z would both have slice 11 of 256"),
        ({"host": "z"}, "this host is 'z', which is not among its hosts"),
        ({"vni": 2**24}, "vni is 16777216"),
        ({"ipv6": True}, "ipv6 is given with driver overlay"),
        ({"driver": "bridge"}, "hosts is given with driver bridge: it belongs to overlay"),
    ],
)
def test_overlays_that_cannot_be_are_refused_and_leave_nothing(
    fleet: Fleet, change: dict[str, Any], why: str
) -> None:
    host = fleet.add("a")
    with pytest.raises(Refused, match=why) as refusal:
        host.call("create", "mesh", fleet.spec("a") | change)
    assert refusal.value.kind == "InvalidSpec"
    assert (host.links(), host.call("list")) == ([], [])


def test_network_that_is_removed_takes_its_device_along(fleet: Fleet) -> None:
    host = fleet.add("a")
    host.call("create", "mesh", fleet.spec("a"))
    host.call("remove", "mesh")
    assert [
        name for name in host.run("ls", "/proc/sys/net/ipv4/conf").split() if name[:2] in ("mo", "mr")
    ] == []
