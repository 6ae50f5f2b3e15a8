# SPDX-License-Identifier: Apache-2.0
"""A network across hosts that is encrypted: who has the key reaches the others, and nobody reads along."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.host import missing_feature
from integration.network.conftest import Serve
from integration.network.test_overlay import SUBNET, Fleet, Flow, addresses_of, populate
from integration.network.topology import Container, Host, Namespace, Refused

pytestmark = pytest.mark.root
wireguard = pytest.mark.kernel("wireguard")

ETH_P_ALL = 0x0003  # <linux/if_ether.h>
PORT = 51820
PLAIN = b"said in confidence "
STRANGERS = "qAbZMQHcnwcMXzGMrMZbPBNFPhKqnEmRo0EVXwnWKhg="


class Encrypted(Fleet):
    """Hosts whose network is encrypted, with the keys that they tell."""

    def __init__(self, base: Path) -> None:
        super().__init__(base)
        self.keys: dict[str, str] = {}

    def add(self, name: str) -> Host:
        host = super().add(name)
        self.keys[name] = host.call("keys.public")
        return host

    def spec(self, *names: str, **rest: Any) -> dict[str, Any]:
        hosts = {name: {"address": self.addresses[name], "public_key": self.keys[name]} for name in names}
        spec = {"driver": "overlay", "subnet": SUBNET, "hosts": hosts, "encryption": "wireguard", **rest}
        return {key: value for key, value in spec.items() if value is not None}

    def plain(self, *names: str) -> dict[str, Any]:
        return super().spec(*names)

    def declared(self, *names: str) -> dict[str, Host]:
        """Hosts with the network among them."""
        hosts = {name: self.add(name) for name in names}
        for host in hosts.values():
            host.call("create", "mesh", self.spec(*names))
        return hosts


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Encrypted]:
    made = Encrypted(tmp_path)
    try:
        yield made
    finally:
        made.remove()


class Tap:
    """Reads along on an interface, packet(7)."""

    def __init__(self, where: Namespace, ifname: str) -> None:
        self._socket = where.inside(
            lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        )
        self._socket.bind((ifname, ETH_P_ALL))
        self._socket.setblocking(False)

    def ipv4(self) -> list[bytes]:
        """The IPv4 packets since the last call."""
        found = []
        while True:
            try:
                frame = self._socket.recv(65536)
            except BlockingIOError:
                return found
            if frame[12:14] == b"\x08\x00":
                found.append(frame[14:])

    def close(self) -> None:
        self._socket.close()


def talk(client: Container, address: str) -> list[str]:
    """Have something said to a service and back; what it told first."""
    with client.connect(address, 80) as connection, connection.makefile("rwb") as stream:
        told = stream.readline().decode().split()
        stream.write(PLAIN * 20 + b"\n")
        stream.flush()
        assert stream.readline() == PLAIN * 20 + b"\n"
    return told


def devices(host: Host) -> dict[str, str]:
    """The kinds of the interfaces that lead to other hosts."""
    links = json.loads(host.run("ip", "-json", "-details", "link"))
    return {
        link["ifname"]: link["linkinfo"]["info_kind"] for link in links if link["ifname"].startswith("mo")
    }


def routes(host: Host) -> list[str]:
    """The host's routes to the network as a whole."""
    return [line for line in host.run("ip", "route").splitlines() if SUBNET in line]


@wireguard
def test_containers_reach_each_other_and_the_wire_shows_nothing_of_it(fleet: Encrypted, serve: Serve) -> None:
    hosts = fleet.declared("a", "b", "c")
    assert hosts["a"].call("get", "mesh")["mtu"] == 1440
    containers = {name: populate(host, serve, 1) for name, host in hosts.items()}
    ((ours, client),) = containers["a"].items()
    tap = Tap(hosts["a"], "eth0")

    for name in ("b", "c"):
        ((address, container),) = containers[name].items()
        assert talk(client, address) == [address, ours]
        assert talk(container, ours) == [ours, address]
        assert hosts["a"].ask(address, 80)[0] == address
    seen = tap.ipv4()
    tap.close()

    assert len(seen) > 20
    assert {packet[9] for packet in seen} == {socket.IPPROTO_UDP}
    assert {packet[20:24] for packet in seen} == {PORT.to_bytes(2, "big") * 2}
    assert not any(PLAIN[:8] in packet for packet in seen)
    assert all(host.call("check") == [] for host in hosts.values())


@wireguard
@pytest.mark.parametrize("shared", [{"ipv6": True}, {"subnet": None, "ipv4": False, "ipv6": True}])
def test_ipv6_is_encrypted_beside_ipv4_and_alone(
    fleet: Encrypted, serve: Serve, shared: dict[str, Any]
) -> None:
    hosts = {name: fleet.add(name) for name in ("a", "b")}
    for host in hosts.values():
        view = host.call("create", "mesh", fleet.spec("a", "b", **shared))
    [client], [server] = (list(populate(host, serve, 1).values()) for host in hosts.values())
    tap = Tap(hosts["a"], "eth0")

    for mine, address in zip(addresses_of(client), addresses_of(server), strict=True):
        assert talk(client, address) == [address, mine]
    assert hosts["b"].ask(addresses_of(client)[-1], 80)[1] == view["gateway6"]
    seen = tap.ipv4()
    tap.close()
    assert len(seen) > 10
    assert not any(PLAIN in packet for packet in seen)
    assert all(host.call("check") == [] for host in hosts.values())

    # The host speaks from its address there again when that has been away.
    hosts["b"].run("ip", "-6", "address", "flush", "dev", view["bridge"], "scope", "global")
    hosts["b"].call("repair")
    assert hosts["b"].ask(addresses_of(client)[-1], 80)[1] == view["gateway6"]
    assert hosts["b"].call("check") == []

    # Without the device they take no other way, and after a repair the device.
    hosts["a"].run("ip", "link", "delete", "mo" + hosts["a"].call("get", "mesh")["bridge"][2:])
    [sealed] = [line for line in hosts["a"].run("ip", "-6", "route").splitlines() if view["subnet6"] in line]
    assert sealed.startswith("unreachable")
    hosts["a"].call("repair")
    assert talk(client, addresses_of(server)[-1])[0] == addresses_of(server)[-1]


@wireguard
def test_host_with_a_wrong_key_is_cut_off_and_nobody_else_is(fleet: Encrypted, serve: Serve) -> None:
    hosts = fleet.declared("a", "b", "c")
    containers = {name: populate(host, serve, 1) for name, host in hosts.items()}
    ((_, client),) = containers["a"].items()
    ((of_b, inside_b),) = containers["b"].items()
    ((of_c, _),) = containers["c"].items()
    assert (client.ask(of_b, 80)[0], client.ask(of_c, 80)[0]) == (of_b, of_c)

    own, fleet.keys["b"] = fleet.keys["b"], STRANGERS
    hosts["a"].call("update", "mesh", fleet.spec("a", "b", "c"))
    assert client.cannot_reach(of_b, 80)
    assert client.ask(of_c, 80)[0] == of_c
    assert inside_b.ask(of_c, 80)[0] == of_c  # who still knows it by its own key

    fleet.keys["b"] = own
    hosts["a"].call("update", "mesh", fleet.spec("a", "b", "c"))
    assert client.ask(of_b, 80)[0] == of_b


@wireguard
def test_hosts_come_go_and_change_keys_while_traffic_between_others_flows(
    fleet: Encrypted, serve: Serve
) -> None:
    hosts = fleet.declared("a", "b", "c")
    containers = {name: populate(host, serve, 1) for name, host in hosts.items()}
    ((_, client),) = containers["a"].items()
    ((address, _),) = containers["b"].items()
    ((of_c, _),) = containers["c"].items()
    assert client.ask(address, 80)[0] == address  # from here on both hosts have a key for what they say
    flow = Flow(client, address, 80)
    flow.more()

    hosts["d"] = fleet.add("d")
    hosts["d"].call("create", "mesh", fleet.spec("a", "b", "c", "d"))
    for name in ("a", "b", "c"):
        hosts[name].call("update", "mesh", fleet.spec("a", "b", "c", "d"))
    ((added, its),) = populate(hosts["d"], serve, 1).items()
    assert client.ask(added, 80)[0] == added
    assert its.ask(address, 80)[0] == address
    flow.more()

    # Another key of one host; each takes it up as the play comes by.
    old = fleet.keys["c"]
    fleet.keys["c"] = hosts["c"].call("keys.renew", [old])
    assert fleet.keys["c"] != old
    for host in hosts.values():
        host.call("update", "mesh", fleet.spec("a", "b", "c", "d"))
    assert client.ask(of_c, 80)[0] == of_c
    flow.more()
    for name in ("a", "b", "d"):
        hosts[name].call("update", "mesh", fleet.spec("a", "b", "d"))
    flow.more()
    flow.end()

    assert flow.failed == []
    assert client.cannot_reach(of_c, 80)
    assert client.ask(added, 80)[0] == added
    assert hosts["a"].call("check") == []


@wireguard
def test_encrypted_network_outlives_the_agent_and_is_repaired(fleet: Encrypted, serve: Serve) -> None:
    hosts = fleet.declared("a", "b")
    first, second = hosts.values()
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    [device] = devices(second)
    first.kill_agent()
    assert client.ask(address, 80)[0] == address
    assert first.start_agent() == []
    assert first.call("keys.public") == fleet.keys["a"]

    second.run("ip", "route", "flush", "dev", device)
    assert second.call("check") == [
        "routes of the encrypted network mesh are missing, too many or not as declared"
    ]
    second.call("repair")
    assert client.ask(address, 80)[0] == address
    second.run("ip", "link", "delete", device)
    assert second.call("check") == [
        f"device {device} of the encrypted network mesh is missing or not as declared"
    ]
    second.call("repair")
    assert client.ask(address, 80)[0] == address
    assert second.call("check") == []


@wireguard
def test_what_is_to_be_encrypted_takes_no_other_way(fleet: Encrypted, serve: Serve) -> None:
    hosts = fleet.declared("a", "b")
    first, second = hosts.values()
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    first.run("ip", "route", "add", "default", "via", fleet.addresses["b"])
    [device] = devices(first)
    tap = Tap(first, "eth0")

    first.run("ip", "link", "delete", device)
    assert client.cannot_reach(address, 80)
    assert client.cannot_reach("10.220.99.2", 80)  # nobody's
    inner = [packet for packet in tap.ipv4() if packet[9] == socket.IPPROTO_TCP]
    tap.close()

    assert inner == []


@wireguard
def test_encryption_begins_and_ends_while_containers_run(fleet: Encrypted, serve: Serve) -> None:
    hosts = {name: fleet.add(name) for name in ("a", "b")}
    first, second = hosts.values()
    for host in hosts.values():
        host.call("create", "mesh", fleet.plain("a", "b"))
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    assert client.ask(address, 80)[0] == address

    for host in hosts.values():
        assert host.call("update", "mesh", fleet.spec("a", "b"))["mtu"] == 1440
    assert talk(client, address)[0] == address
    assert [set(devices(host).values()) for host in hosts.values()] == [{"wireguard"}] * 2
    assert all(host.call("check") == [] for host in hosts.values())

    for host in hosts.values():
        assert host.call("update", "mesh", fleet.plain("a", "b"))["mtu"] == 1450
    assert talk(client, address)[0] == address
    assert [set(devices(host).values()) for host in hosts.values()] == [{"vxlan"}] * 2
    assert all(host.call("check") == [] for host in hosts.values())
    assert not any("unreachable" in line for host in hosts.values() for line in routes(host))


@wireguard
@pytest.mark.parametrize("point", ["network.tunnel-without-key", "network.tunnel-without-routes"])
def test_agent_that_dies_at_work_ends_it_the_next_time(
    fleet: Encrypted, serve: Serve, point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hosts = {name: fleet.add(name) for name in ("a", "b")}
    first, second = hosts.values()
    second.call("create", "mesh", fleet.spec("a", "b"))
    first.kill_agent()
    (tmp_path / "fail").write_text(point)
    monkeypatch.setenv("MOORING_FAIL_POINTS", str(tmp_path / "fail"))
    first.start_agent()
    with pytest.raises(json.JSONDecodeError):
        first.call("create", "mesh", fleet.spec("a", "b"))
    first.kill_agent()

    assert first.start_agent() == []
    assert first.created() == []
    first.call("create", "mesh", fleet.spec("a", "b"))
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    assert client.ask(address, 80)[0] == address
    assert first.call("check") == []


@wireguard
def test_nothing_is_left_of_a_network_that_is_removed(fleet: Encrypted) -> None:
    host = fleet.add("a")
    host.call("create", "mesh", fleet.spec("a"))
    assert len(routes(host)) == 2
    host.call("remove", "mesh")
    assert (devices(host), host.links(), routes(host)) == ({}, [], [])


@wireguard
def test_port_that_somebody_has_is_refused_and_nothing_stays(fleet: Encrypted) -> None:
    host = fleet.add("a")
    taken = host.open_socket(socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", PORT))
    with taken, pytest.raises(Refused, match=f"UDP port {PORT} is in use on this host") as refusal:
        host.call("create", "mesh", fleet.spec("a"))
    assert refusal.value.kind == "Conflict"
    assert (devices(host), host.links(), routes(host), host.created()) == ({}, [], [], [])

    host.call("create", "mesh", fleet.spec("a", port=PORT + 1))
    assert host.call("check") == []


@wireguard
def test_change_that_is_refused_leaves_the_network_as_it_was(fleet: Encrypted, serve: Serve) -> None:
    hosts = fleet.declared("a", "b")
    first, second = hosts.values()
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    taken = first.open_socket(socket.SOCK_DGRAM)
    taken.bind(("0.0.0.0", PORT + 1))
    with taken, pytest.raises(Refused, match="is in use on this host"):
        first.call("update", "mesh", fleet.spec("a", "b", port=PORT + 1))
    fleet.keys["a"] = STRANGERS
    with pytest.raises(Refused, match=f"has the public key {STRANGERS} for this host, whose own is"):
        first.call("update", "mesh", fleet.spec("a", "b"))

    assert client.ask(address, 80)[0] == address
    assert first.call("check") == []


@wireguard
def test_private_key_is_kept_for_root_alone_and_told_to_nobody(fleet: Encrypted) -> None:
    host = fleet.add("a")
    host.call("create", "mesh", fleet.spec("a"))
    path = host.config.data_root / "wireguard.keys"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    [private] = path.read_text().split()
    assert private not in json.dumps([host.call("get", "mesh"), host.call("check")])
    assert private.encode() not in (host.config.data_root / "state.db").read_bytes()

    # A key that no network uses goes when the next one comes, and the one that is used does not.
    spare = host.call("keys.renew", [fleet.keys["a"]])
    newest = host.call("keys.renew", [fleet.keys["a"]])
    assert path.read_text().split()[0] == private
    assert len(path.read_text().split()) == 2
    assert len({fleet.keys["a"], spare, newest, host.call("keys.public")}) == 3


@wireguard
def test_hosts_with_ipv6_addresses(fleet: Encrypted, serve: Serve) -> None:
    hosts = {name: fleet.add(name) for name in ("a", "b")}
    for number, (name, host) in enumerate(hosts.items(), 1):
        fleet.addresses[name] = f"2001:db8::{number}"
        host.run("ip", "address", "add", f"{fleet.addresses[name]}/64", "dev", "eth0", "nodad")
    for host in hosts.values():
        assert host.call("create", "mesh", fleet.spec("a", "b"))["mtu"] == 1420
    first, second = hosts.values()
    ((_, client),) = populate(first, serve, 1).items()
    ((address, _),) = populate(second, serve, 1).items()
    assert talk(client, address)[0] == address
    assert first.call("check") == []


@pytest.mark.skipif(missing_feature("wireguard") is None, reason="this kernel has WireGuard")
def test_kernel_without_wireguard_is_told_with_the_way_out_and_nothing_stays(tmp_path: Path) -> None:
    fleet = Fleet(tmp_path)
    try:
        host = fleet.add("a")
        said = r"its kernel \S+ has no WireGuard; load the module wireguard"
        with pytest.raises(Refused, match=said) as refusal:
            host.call("keys.public")
        assert refusal.value.kind == "NotSupported"
        hosts = {"a": {"address": fleet.addresses["a"], "public_key": STRANGERS}}
        with pytest.raises(Refused, match=f"network mesh .*{said}") as refusal:
            host.call("create", "mesh", fleet.spec("a", hosts=hosts, encryption="wireguard"))
        assert refusal.value.kind == "NotSupported"
        assert (host.links(), routes(host), host.created()) == ([], [], [])
        assert not (host.config.data_root / "wireguard.keys").exists()
    finally:
        fleet.remove()
