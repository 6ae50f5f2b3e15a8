# SPDX-License-Identifier: Apache-2.0
"""Which ports the guard knows: those of the cables that are in use, and no others."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
from collections.abc import Iterable
from typing import cast

import pytest

from harness.clock import Clock
from mooring_agent.linux.rtnetlink import Link, RouteSocket
from mooring_agent.network.portguard import PortGuard, Sender
from mooring_agent.network.records import Endpoint
from mooring_agent.network.traffic import PLAIN_TERMS, Traffic

NO_SOCKET = cast(RouteSocket, None)
"""Cables without limits need nothing of the kernel's links."""

WEB = Endpoint("blue", "web", "10.60.0.2", 28, "10.60.0.14", "02:42:0a:3c:00:02", "mv00000001")


class Ports(PortGuard):
    """A guard without a kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Sender] = {}
        self.settled: list[int] = []
        self.missing = errno.ENODEV

    def admit(self, ifindex: int, sender: Sender) -> None:
        self.known[ifindex] = sender

    can_settle = False

    def is_on(self, netlink: RouteSocket, ifindex: int) -> bool:
        raise OSError(self.missing, "bpf")

    def settle(self, netlink: RouteSocket, ifindex: int) -> None:
        self.settled.append(ifindex)

    def dismiss(self, ifindexes: Iterable[int]) -> None:
        for ifindex in ifindexes:
            del self.known[ifindex]


@pytest.fixture
def ports() -> Ports:
    return Ports()


@pytest.fixture
def traffic(ports: Ports) -> Traffic:
    traffic = Traffic("mr0a0a-", lambda _: PLAIN_TERMS)
    traffic.guard = ports
    return traffic


def test_container_that_starts_again_has_one_port(traffic: Traffic, ports: Ports) -> None:
    for ifindex in range(10, 20):
        traffic.admit(NO_SOCKET, WEB, WEB.host_ifname, ifindex)
        assert list(ports.known) == [ifindex]


def test_each_network_has_its_port_until_it_is_released(traffic: Traffic, ports: Ports) -> None:
    red = dataclasses.replace(WEB, network="red", host_ifname="mv00000002")
    traffic.admit(NO_SOCKET, WEB, WEB.host_ifname, 10)
    traffic.admit(NO_SOCKET, red, red.host_ifname, 11)
    traffic.forget([WEB, red], "red")
    assert list(ports.known) == [10]
    traffic.forget([WEB])
    traffic.forget([WEB])
    assert not ports.known


def test_guards_move_one_by_one_when_no_container_comes(
    traffic: Traffic, ports: Ports, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ports, "can_settle", True)

    async def scenario() -> None:
        for number in range(3):
            endpoint = dataclasses.replace(WEB, container_id=f"c{number}")
            traffic.admit(NO_SOCKET, endpoint, WEB.host_ifname, 10 + number)
            await asyncio.sleep(4)
        assert ports.settled == []
        traffic.forget([dataclasses.replace(WEB, container_id="c1")])
        await asyncio.sleep(1.1)
        assert len(ports.settled) == 1
        await asyncio.sleep(0.6)
        assert sorted(ports.settled) == [10, 12]
        await asyncio.sleep(60)
        assert len(ports.settled) == 2

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(scenario())


class Links:
    """What a kernel says of its interfaces."""

    def links(self) -> list[Link]:
        return [Link(10, WEB.host_ifname, "veth", WEB.mac, True, 1500, 2, True)]

    def dump(self, request: bytes) -> list[bytes]:
        return []


def test_cable_that_goes_while_it_is_looked_at_is_no_difference(traffic: Traffic, ports: Ports) -> None:
    netlink = cast(RouteSocket, Links())
    assert traffic.differences(netlink, [WEB]) == []
    ports.missing = errno.EPERM
    with pytest.raises(PermissionError):
        traffic.differences(netlink, [WEB])
