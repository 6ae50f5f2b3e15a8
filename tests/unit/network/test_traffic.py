# SPDX-License-Identifier: Apache-2.0
"""Which ports the guard knows: those of the cables that are in use, and no others."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import cast

import pytest

from mooring_agent.linux.rtnetlink import RouteSocket
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

    def admit(self, ifindex: int, sender: Sender) -> None:
        self.known[ifindex] = sender

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
