# SPDX-License-Identifier: Apache-2.0
"""What survives: a restart of the agent, a reboot of the host, and somebody's `nft flush ruleset`."""

from __future__ import annotations

import json
import re
import socket
import threading
from pathlib import Path

import pytest

from integration.network.conftest import MakeHost, Serve
from integration.network.topology import (
    HOST_OUTER,
    OUTSIDE,
    TRAFFIC_TIMEOUT,
    Container,
    Host,
    NamedNamespace,
    Refused,
)

pytestmark = pytest.mark.root


def kernel_state(host: Host) -> tuple[object, ...]:
    """Handles and indices, which change whenever something is made anew."""
    rules = json.loads(host.run("nft", "--json", "--handle", "list", "ruleset"))["nftables"]
    handles = [
        (kind, item[kind]["name"], item[kind]["handle"])
        for item in rules
        for kind in ("table", "chain", "set", "map")
        if kind in item
    ]
    links = [(link["ifindex"], link["ifname"]) for link in json.loads(host.run("ip", "-json", "link"))]
    return handles, links


class Stream:
    """Sends numbers to an echo service without a pause, and notices when one is lost or late."""

    def __init__(self, connection: socket.socket) -> None:
        self._file = connection.makefile("rw")
        self._file.readline()
        self.count = 0
        self._stop = threading.Event()
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        """Stop, and return how many numbers came back."""
        self._stop.set()
        self._thread.join(2 * TRAFFIC_TIMEOUT)
        assert self._error is None
        assert not self._thread.is_alive()
        return self.count

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._file.write(f"{self.count}\n")
                self._file.flush()
                assert self._file.readline() == f"{self.count}\n"
                self.count += 1
        except (OSError, AssertionError) as error:
            self._error = error


def published(host: Host, serve: Serve, name: str = "web") -> tuple[Container, str]:
    container = host.container(name)
    address = container.attach()
    serve(container, 80, name)
    container.publish(address, {"container": 80, "host": 8080})
    return container, address


def test_killed_agent_loses_no_packet_and_its_successor_touches_nothing(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container, _ = published(host, serve)
    serve(outside, 80, "outside")
    with outside.connect(HOST_OUTER, 8080) as inward, container.connect(OUTSIDE, 80) as outward:
        streams = [Stream(inward), Stream(outward)]
        before = kernel_state(host)

        host.kill_agent()
        while_away = [outside.ask(HOST_OUTER, 8080)[0] for _ in range(20)]
        repaired = host.start_agent()
        afterwards = [outside.ask(HOST_OUTER, 8080)[0] for _ in range(20)]

        assert all(stream.finish() > 20 for stream in streams)
    assert while_away + afterwards == ["web"] * 40
    assert repaired == []
    assert kernel_state(host) == before


def test_successor_knows_everything(host: Host, serve: Serve) -> None:
    container, address = published(host, serve)
    host.call("create", "blue", {"subnet": "10.212.0.0/24", "labels": {"a": "b"}})
    container.attach("blue", "10.212.0.77", ifname="eth1")
    before = [host.call("list"), host.call("endpoints", "web"), host.call("published", "web")]

    host.kill_agent()
    host.start_agent()

    assert [host.call("list"), host.call("endpoints", "web"), host.call("published", "web")] == before
    other = host.container("other")
    assert other.attach() != address
    with pytest.raises(Refused, match=r"10\.212\.0\.77 of network blue is taken by container name of web"):
        other.attach("blue", "10.212.0.77", ifname="eth1")
    with host.open_socket() as late, pytest.raises(OSError, match="in use"):
        late.bind(("0.0.0.0", 8080))


def test_reboot_brings_everything_back(make_host: MakeHost, outside: NamedNamespace, serve: Serve) -> None:
    first = make_host()
    first.start_agent()
    _, address = published(first, serve)
    first.call("create", "blue", {"nat": False})
    networks = first.call("list")
    first.kill_agent()
    for container in first.containers:
        container.kill()
    outside.run("ip", "address", "flush", "scope", "global")

    second = make_host()
    assert "is missing" in " ".join(second.start_agent())

    assert second.call("list") == networks
    assert second.call("check") == []
    container = second.container("web")
    assert container.attach() == address
    serve(container, 80, "web")
    assert outside.ask(HOST_OUTER, 8080) == ["web", OUTSIDE]


@pytest.mark.parametrize(
    ("damage", "seen"),
    [
        ("nft flush ruleset", "nftables table .*: it is missing"),
        ("nft flush chain inet TABLE publish", "its rules were changed"),
        ("nft flush map inet TABLE published_anywhere", r"published_anywhere lacks tcp \. 8080"),
        ("nft delete element inet TABLE bridges { BRIDGE }", "bridges lacks"),
        ("nft insert rule inet TABLE forward drop", "its rules were changed"),
        ("ip link delete BRIDGE", "bridge BRIDGE of network bridge is missing"),
        ("ip link set BRIDGE down", "bridge BRIDGE of network bridge is down"),
        ("ip address flush dev BRIDGE", "has not the address"),
        ("ip link set VETH nomaster", "has lost its port VETH"),
        ("sysctl -qw net.ipv4.ip_forward=0", "needs 1 in .*ip_forward"),
    ],
)
def test_damage_is_seen_and_repaired(
    host: Host, outside: NamedNamespace, serve: Serve, damage: str, seen: str
) -> None:
    published(host, serve)
    for placeholder, name in {
        "TABLE": host.config.nft_table,
        "BRIDGE": host.call("get", "bridge")["bridge"],
        "VETH": host.call("endpoints", "web")[0]["host_ifname"],
    }.items():
        damage, seen = damage.replace(placeholder, name), seen.replace(placeholder, name)

    with outside.connect(HOST_OUTER, 8080) as connection:
        stream = connection.makefile("rw")
        stream.readline()
        host.run("sh", "-c", damage.replace("{", "'{").replace("}", "}'"))
        assert any(re.search(seen, sentence) for sentence in host.call("check")), host.call("check")
        host.call("repair")
        assert host.call("check") == []
        stream.write("still here\n")
        stream.flush()
        assert stream.readline() == "still here\n"
    assert outside.ask(HOST_OUTER, 8080)[0] == "web"


def test_publishing_repairs_a_table_that_somebody_flushed(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container, address = published(host, serve)
    host.run("nft", "flush", "ruleset")

    container.publish(address, {"container": 80, "host": 8080}, {"container": 80, "host": 8081})

    assert outside.ask(HOST_OUTER, 8080)[0] == "web"
    assert outside.ask(HOST_OUTER, 8081)[0] == "web"
    assert host.call("check") == []


def test_connecting_repairs_a_bridge_that_somebody_deleted(host: Host, serve: Serve) -> None:
    _, address = published(host, serve)
    host.run("ip", "link", "delete", host.call("get", "bridge")["bridge"])

    second = host.container("second")
    second.attach()

    assert second.ask(address, 80)[0] == "web"
    assert host.call("check") == []


def test_container_comes_back_at_once_with_its_address(host: Host, serve: Serve) -> None:
    """Its first namespace is still being taken down, and holds the veth's name."""
    first = host.container("web")
    address = first.attach()
    for _ in range(5):
        host.containers[-1].kill()
        again = host.container("web")
        assert again.attach() == address
    serve(again, 80, "again")
    assert host.ask(address, 80)[0] == "again"


def test_last_network_takes_the_table_along(host: Host) -> None:
    host.call("create", "red", {})
    host.call("create", "blue", {})
    host.call("remove", "red")
    assert len(host.tables()) == 1
    host.call("remove", "blue")
    assert host.tables() == []
    assert host.links() == []


def test_network_in_use_is_not_removed(host: Host) -> None:
    container = host.container("web")
    container.attach()
    with pytest.raises(Refused, match="network bridge is in use by name of web"):
        host.call("remove", "bridge")
    container.kill()
    host.call("release", "web")
    host.call("remove", "bridge")
    assert host.call("list") == []


def test_teardown_leaves_nothing(host: Host, serve: Serve, tmp_path: Path) -> None:
    container, _ = published(host, serve)
    host.call("create", "blue", {})
    container.kill()

    host.call("teardown")

    assert host.tables() == []
    assert host.links() == []
    assert host.call("list") == []
    assert host.call("check") == []
    host.container("again").attach()
    assert host.call("check") == []
