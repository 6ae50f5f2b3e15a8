# SPDX-License-Identifier: Apache-2.0
"""A network across hosts: three of them on one wire, with three containers each."""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from harness.waiting import PATIENCE
from integration.network.conftest import Serve
from integration.network.topology import Container, Host, Refused, Wire

pytestmark = pytest.mark.root

SUBNET = "10.220.0.0/16"


class Fleet:
    """Hosts on one wire, each with a network service."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.wire = Wire()
        self.hosts: dict[str, Host] = {}
        self.addresses: dict[str, str] = {}
        self.addresses6: dict[str, str] = {}

    def add(self, name: str) -> Host:
        """One more host, with an address on the wire."""
        number = len(self.hosts) + 1
        host = Host(self.base / name)
        self.addresses[name] = f"192.0.2.{10 + number}"
        self.addresses6[name] = f"2001:db8:2::{10 + number}"
        self.wire.plug(host, f"h{number}", f"{self.addresses[name]}/24", f"{self.addresses6[name]}/64")
        host.start_agent()
        self.hosts[name] = host
        return host

    def spec(self, *names: str, **rest: Any) -> dict[str, Any]:
        """The network across some of them."""
        hosts = {name: self.addresses[name] for name in names}
        spec = {"driver": "overlay", "subnet": SUBNET, "hosts": hosts, **rest}
        return {key: value for key, value in spec.items() if value is not None}

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
                client.ask(address, port, 0.9)  # what is lost is sent again after a second
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
    """Containers of a host that tell their own address, by their first one."""
    found = {}
    for _ in range(count):
        container = host.container()
        found[container.attach("mesh")] = container
        for address in addresses_of(container):
            serve(container, 80, address, address=address)
    return found


def addresses_of(container: Container) -> list[str]:
    """The addresses of a container on the network, that of IPv4 first."""
    [endpoint] = container.host.call("endpoints", container.id)
    return [address for address in (endpoint["ipv4"], endpoint["ipv6"]) if address is not None]


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


@pytest.mark.parametrize(
    ("shared", "versions"),
    [
        ({"subnet6": "fd00:220::/48"}, (4, 6)),
        ({"ipv6": True}, (4, 6)),
        ({"subnet": None, "ipv4": False, "ipv6": True}, (6,)),
        ({"subnet": None, "ipv4": False, "subnet6": "fd00:220::/112"}, (6,)),
    ],
)
def test_ipv6_leads_across_hosts_beside_ipv4_and_alone(
    fleet: Fleet, serve: Serve, shared: dict[str, Any], versions: tuple[int, ...]
) -> None:
    names = ("a", "b", "c")
    for name in names:
        fleet.add(name)
    views = [host.call("create", "mesh", fleet.spec(*names, **shared)) for host in fleet.hosts.values()]
    assert len({view["subnet6"] for view in views}) == 1
    whole = ipaddress.ip_network(views[0]["subnet6"])
    containers = [
        container for host in fleet.hosts.values() for container in populate(host, serve, 2).values()
    ]

    for client, server in permutations(containers, 2):
        own, theirs = addresses_of(client), addresses_of(server)
        assert tuple(ipaddress.ip_address(address).version for address in theirs) == versions
        assert ipaddress.ip_address(theirs[-1]) in whole
        for mine, address in zip(own, theirs, strict=True):
            assert client.ask(address, 80) == [address, mine]
    # From the host itself as well, which speaks as its gateway there.
    first, there = fleet.hosts["a"], addresses_of(containers[-1])[-1]
    assert first.ask(there, 80) == [there, views[0]["gateway6"]]
    assert all(host.call("check") == [] for host in fleet.hosts.values())


def test_hosts_may_have_ipv6_addresses_alone(fleet: Fleet, serve: Serve) -> None:
    hosts = [fleet.add("a"), fleet.add("b")]
    for host in hosts:
        view = host.call("create", "mesh", fleet.spec(ipv6=True, hosts=fleet.addresses6))
        assert view["mtu"] == 1430
    [client], [server] = (list(populate(host, serve, 1).values()) for host in hosts)

    for address in addresses_of(server):
        assert client.ask(address, 80)[0] == address
        # The largest packets pass, too.
        with client.connect(address, 80) as connection:
            connection.sendall(bytes(100_000))
            received = connection.makefile("rb").read(100_000)
        assert len(received) == 100_000
    assert all(host.call("check") == [] for host in hosts)


def test_ipv6_keeps_the_rules_of_the_network_and_the_host(fleet: Fleet, serve: Serve) -> None:
    first, second = fleet.add("a"), fleet.add("b")
    deny = {"action": "deny", "direction": "in", "protocol": "tcp", "ports": [81]}
    view = first.call("create", "mesh", fleet.spec("a", "b", ipv6=True, rules=[deny]))
    second.call("create", "mesh", fleet.spec("a", "b", ipv6=True, rules=[deny]))
    second.call("create", "other", {"ipv6": True})
    [client] = populate(first, serve, 1).values()
    [server] = populate(second, serve, 1).values()
    stranger = second.container()
    stranger.attach("other")
    address = addresses_of(server)[1]
    serve(server, 81, "forbidden", address="::")

    assert client.ask(address, 80)[0] == address
    assert client.cannot_reach(address, 81)
    assert stranger.cannot_reach(address, 80)
    assert view["mtu"] == 1450
    # Whoever takes an address that is not his own is not heard.
    other = str(ipaddress.ip_interface(f"{addresses_of(client)[1]}/64").network[0x66])
    client.run("ip", "-6", "address", "add", f"{other}/64", "dev", "eth0", "nodad")
    with server.open_socket(socket.SOCK_DGRAM, "::") as heard:
        heard.bind(("::", 82))
        for source in (other, addresses_of(client)[1]):
            with client.open_socket(socket.SOCK_DGRAM, source) as said:
                said.bind((source, 0))
                said.sendto(source.encode(), (address, 82))
        assert heard.recv(100).decode() == addresses_of(client)[1]


def test_ipv6_survives_a_restart_and_what_was_taken_away_is_put_back(fleet: Fleet, serve: Serve) -> None:
    first, second = fleet.add("a"), fleet.add("b")
    for host in (first, second):
        host.call("create", "mesh", fleet.spec("a", "b", ipv6=True))
    [client] = populate(first, serve, 1).values()
    [server] = populate(second, serve, 1).values()
    address = addresses_of(server)[1]
    device = "mo" + second.call("get", "mesh")["bridge"][2:]
    first.kill_agent()
    assert first.start_agent() == []
    assert client.ask(address, 80)[0] == address

    wrong = f"device {device} of the overlay network mesh does not lead to exactly its hosts"
    for harm in (
        ("ip", "-6", "route", "flush", "dev", device),
        ("ip", "-6", "neighbour", "flush", "dev", device, "nud", "permanent"),
    ):
        second.run(*harm)
        assert second.call("check") == [wrong], harm
        second.call("repair")
        assert second.call("check") == []
        assert client.ask(address, 80)[0] == address
    second.run("sysctl", "-q", f"net.ipv6.conf.{device}.disable_ipv6=1")
    assert len(second.call("check")) == 1
    second.call("repair")
    assert second.call("check") == []
    assert client.ask(address, 80)[0] == address


def test_ipv6_cannot_be_carried_by_an_underlay_that_is_too_narrow(fleet: Fleet) -> None:
    host = fleet.add("a")
    host.run("ip", "link", "set", "eth0", "mtu", "1300")
    with pytest.raises(Refused, match=r"needs an MTU of 1280 bytes, .* takes 1300, which leaves 1250"):
        host.call("create", "mesh", fleet.spec("a", ipv6=True))
    assert (host.links(), host.created()) == ([], [])


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
    assert client.ask(address, 80)[0] == address  # from here on the way is known
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
        ({"gateway6": "fd00::1", "subnet6": "fd00::/48"}, "gateway6 is given with driver overlay"),
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
    assert (host.links(), host.created()) == ([], [])


def test_network_that_is_removed_takes_its_device_along(fleet: Fleet) -> None:
    host = fleet.add("a")
    host.call("create", "mesh", fleet.spec("a"))
    host.call("remove", "mesh")
    assert [
        name for name in host.run("ls", "/proc/sys/net/ipv4/conf").split() if name[:2] in ("mo", "mr")
    ] == []
