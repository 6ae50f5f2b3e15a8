# SPDX-License-Identifier: Apache-2.0
"""The name service itself, with a bridge and no containers: many names, and names that never should come."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness import dns
from harness.waiting import eventually
from mooring_agent.network.naming.realms import Home, Resident
from mooring_agent.network.naming.service import NameService
from mooring_agent.network.records import Network, Subnet

pytestmark = pytest.mark.root

NAMES = 1000
SUBNET = ipaddress.IPv4Network("198.18.0.0/20")  # RFC 2544: for measurements


@pytest.fixture
def network() -> Iterator[Network]:
    """A network with a bridge."""
    bridge = f"mrt{secrets.token_hex(4)}"
    _ip("link", "add", bridge, "type", "bridge")
    _ip("address", "add", f"{SUBNET[1]}/{SUBNET.prefixlen}", "dev", bridge)
    _ip("link", "set", bridge, "up")
    subnet = Subnet(SUBNET, SUBNET[1])
    yield Network("many", 0, "bridge", subnet, None, True, False, {}, bridge, time.time())
    _ip("link", "delete", bridge)


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run root that dnsmasq may pass through."""
    path = tmp_path_factory.mktemp("names")
    above = Path(tempfile.gettempdir())
    for each in (path, *path.parents):
        if each.is_relative_to(above) and each != above:
            each.chmod(0o755)
    return path


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, timeout=10)


def _table(name: str) -> str:
    argv = ["nft", "list", "table", "inet", name]
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout


def _resident(network: Network, number: int, *names: str) -> Resident:
    address = SUBNET[number + 2]
    mac = (b"\x02m" + address.packed).hex(":")
    home = Home(network.bridge, (str(address),), mac, (f"n{number}", *names))
    return Resident(f"{number:064x}", (home,))


@pytest.fixture
def client(network: Network) -> Iterator[subprocess.Popen[bytes]]:
    """A process in a network namespace of its own, on the network."""
    process = subprocess.Popen(["unshare", "--net", "sleep", "300"])
    eventually(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", what="a client")
    outer, inner = f"mrt{secrets.token_hex(4)}", "eth0"
    _ip("link", "add", outer, "type", "veth", "peer", "name", inner, "netns", str(process.pid))
    _ip("link", "set", outer, "master", network.bridge, "up")
    enter = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "ip"]
    for argv in (["addr", "add", f"{SUBNET[4000]}/20", "dev", inner], ["link", "set", inner, "up"]):
        subprocess.run([*enter, *argv], check=True, timeout=10)
    yield process
    process.kill()
    process.wait(10)


def test_a_thousand_names(network: Network, root: Path, client: subprocess.Popen[bytes]) -> None:
    async def scenario() -> None:
        service = NameService(root, "mrtmany", "mrt", lambda: [network], lambda _: None)
        await service.settle([])
        residents = [_resident(network, number, "all.example.com") for number in range(NAMES)]
        await service.expect(residents[0])
        await service.ready(residents[0])
        with dns.inside(client.pid) as made:

            def ask(name: str) -> dns.Answer:
                return dns.ask(made, str(SUBNET[1]), name)

            started = time.perf_counter()
            for resident in residents:
                service.publish(resident)
            await asyncio.sleep(0)  # when it is written
            written = time.perf_counter() - started
            for resident in residents:
                [home] = resident.homes
                assert ask(home.names[0]).values == home.addresses
            asked = time.perf_counter()
            for resident in residents[:500]:
                service.withdraw(resident.container_id)
            await asyncio.sleep(0)
            withdrawn = time.perf_counter() - asked
            assert ask("n0").code == dns.NXDOMAIN
            assert ask("n999").values == (str(SUBNET[1001]),)
            began = time.perf_counter()
            for _ in range(1000):
                ask("n998")
            looked_up = time.perf_counter() - began
        await service.teardown()
        print(
            f"\na name told {written / NAMES * 1e6:.0f} µs, taken back {withdrawn / 500 * 1e6:.0f} µs, "
            f"looked up {looked_up / 1000 * 1e6:.0f} µs"
        )
        assert not list((root / "names").glob("*/*/hosts/*"))

    asyncio.run(scenario())


def test_a_network_with_another_mtu_has_the_same_server(network: Network, root: Path) -> None:
    async def scenario() -> None:
        networks = [network]
        service = NameService(root, "mrtmany", "mrt", lambda: networks, lambda _: None)
        await service.settle([])
        service.publish(_resident(network, 1))
        await asyncio.sleep(0)
        await service.ready(_resident(network, 1))
        networks[0] = replace(network, mtu=1440)
        service.follow_networks()
        [config] = (root / "names" / "servers").glob("*/*.conf")

        def is_told() -> bool:
            view = service.view(networks[0])
            assert view is not None
            return view["state"] == "running" and "option:mtu,1440" in config.read_text()

        await asyncio.to_thread(eventually, is_told, 10, "a server that tells the MTU")
        await service.teardown()

    asyncio.run(scenario())


def test_who_comes_when_another_one_has_just_gone_is_led_to_its_server(network: Network, root: Path) -> None:
    async def scenario() -> None:
        service = NameService(root, "mrtmany", "mrt", lambda: [network], lambda _: None)
        await service.settle([])
        service.publish(_resident(network, 1))
        await asyncio.sleep(0)
        coming = replace(_resident(network, 2), servers=("198.51.100.53",))
        service.withdraw(_resident(network, 1).container_id)
        await service.expect(coming)  # before what is withdrawn has been written
        [home] = coming.homes
        assert home.mac in await asyncio.to_thread(_table, "mrtmany_names")
        await service.teardown()

    asyncio.run(scenario())


def test_what_is_no_name_harms_nobody_else(
    network: Network, root: Path, client: subprocess.Popen[bytes], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        service = NameService(root, "mrtmany", "mrt", lambda: [network], lambda _: None)
        await service.settle([])
        service.publish(_resident(network, 1, "x\n6.6.6.6 n2"))
        service.publish(_resident(network, 2))
        await asyncio.sleep(0)
        await service.ready(_resident(network, 2))
        with dns.inside(client.pid) as made:
            assert dns.ask(made, str(SUBNET[1]), "n2").values == (str(SUBNET[4]),)
            assert dns.ask(made, str(SUBNET[1]), "n1").code == dns.NXDOMAIN
        await service.teardown()

    asyncio.run(scenario())
    assert "cannot be given to a container" in caplog.text
