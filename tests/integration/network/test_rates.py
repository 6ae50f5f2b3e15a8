# SPDX-License-Identifier: Apache-2.0
"""Rates of containers: what TCP gets of them, changed live, kept over agents, repaired."""

from __future__ import annotations

import re
import socket
import struct
import threading
import time

import pytest

from harness.waiting import eventually
from integration.network.conftest import Serve
from integration.network.topology import OUTSIDE, Container, Host, NamedNamespace, Namespace

pytestmark = [pytest.mark.root, pytest.mark.alone]

MBIT = 1_000_000
SETTLING, MEASURED = 0.5, 2.0  # seconds: a stream's start, and what is looked at afterwards
BYTES_RECEIVED = 128  # tcpi_bytes_received of struct tcp_info, <linux/tcp.h>
AT_ONCE = 0.001  # seconds


def taken(connection: socket.socket) -> tuple[float, int]:
    """A moment, and how many bytes the kernel had got by then: when we read them is up to the scheduler."""
    while True:
        moment = time.monotonic()
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, BYTES_RECEIVED + 8)
        if time.monotonic() < moment + AT_ONCE:
            return moment, struct.unpack_from("=Q", info, BYTES_RECEIVED)[0]


def throughput(sender: Namespace, receiver: Namespace, address: str) -> float:
    """What a TCP stream carries, in bits a second of its payload."""
    with receiver.open_socket() as listener:
        listener.bind((address, 0))
        listener.listen(1)
        with sender.connect(address, listener.getsockname()[1]) as out:
            into, _ = listener.accept()
            over = threading.Event()

            def send() -> None:
                block = bytes(65536)
                try:
                    while not over.is_set():
                        out.sendall(block)
                except OSError:
                    return

            thread = threading.Thread(target=send, daemon=True)
            thread.start()
            with into:
                into.settimeout(5)
                start = time.monotonic()
                while time.monotonic() < start + SETTLING:
                    into.recv(65536)
                begin, before = taken(into)
                while time.monotonic() < begin + MEASURED:
                    into.recv(65536)
                end, after = taken(into)
                over.set()
                into.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            thread.join(5)
    return (after - before) * 8 / (end - begin)


def set_limits(container: Container, **limits: int) -> None:
    container.host.call("terms", container.id, {"bridge": limits} if limits else {}, [])


def queues(host: Host) -> list[str]:
    return [name for name in host.run("ls", "/proc/sys/net/ipv4/conf").split() if name.startswith("mi")]


@pytest.mark.parametrize("megabits", [20, 100])
def test_tcp_gets_the_rate_in_both_directions(host: Host, megabits: int) -> None:
    container, other = host.container(), host.container()
    set_limits(container, rate_in=megabits * MBIT, rate_out=2 * megabits * MBIT)
    address, its = container.attach(), other.attach()

    received, sent = throughput(other, container, address), throughput(container, other, its)

    assert 0.95 <= received / (megabits * MBIT) <= 1.02
    assert 0.95 <= sent / (2 * megabits * MBIT) <= 1.02


def test_limits_come_change_and_go_while_it_runs(host: Host) -> None:
    container, other = host.container(), host.container()
    address, its = container.attach(), other.attach()

    for limits, expected in (
        ({"rate_out": 32 * MBIT}, 32 * MBIT),
        ({"rate_out": 64 * MBIT}, 64 * MBIT),
        ({}, None),
    ):
        set_limits(container, **limits)
        host.call("change_terms", container.id)
        sent = throughput(container, other, its)
        assert sent > 200 * MBIT if expected is None else 0.95 <= sent / expected <= 1.02
        assert host.call("check") == []

    assert throughput(other, container, address) > 200 * MBIT
    assert queues(host) == []


def test_limits_survive_the_agent_and_what_somebody_took_off_is_put_back(host: Host) -> None:
    container, other = host.container(), host.container()
    set_limits(container, rate_in=16 * MBIT, rate_out=16 * MBIT)
    address, its = container.attach(), other.attach()
    cable = str(host.call("endpoints", container.id)[0]["host_ifname"])
    host.kill_agent()
    assert throughput(container, other, its) < 17 * MBIT

    host.start_agent([container.id, {"bridge": {"rate_in": 16 * MBIT, "rate_out": 16 * MBIT}}, []])
    assert host.call("check") == []
    host.run("tc", "qdisc", "delete", "dev", cable, "root")
    wrong = f"interface {cable} of network bridge has not the rates that it should have"
    assert host.call("check") == [wrong]
    assert host.call("repair") == [wrong]
    assert host.call("check") == []
    assert throughput(other, container, address) < 17 * MBIT


def test_nothing_is_left_of_a_container_that_is_gone(host: Host) -> None:
    container = host.container()
    set_limits(container, rate_out=16 * MBIT)
    container.attach()
    assert len(queues(host)) == 1

    host.call("release", container.id)

    eventually(lambda: queues(host) == [], what="its queue is gone")


def test_limits_that_were_taken_back_while_it_was_stopped_leave_no_queue(host: Host) -> None:
    container = host.container("web")
    set_limits(container, rate_out=16 * MBIT)
    container.attach()
    container.kill()
    assert len(queues(host)) == 1

    set_limits(container)
    host.container("web").attach()

    eventually(lambda: queues(host) == [], what="its queue is gone")


def test_another_burst_is_seen_and_put_back(host: Host) -> None:
    container = host.container()
    set_limits(container, rate_in=16 * MBIT, burst=65_536)
    container.attach()
    cable = str(host.call("endpoints", container.id)[0]["host_ifname"])
    assert host.call("check") == []
    host.kill_agent()

    repaired = host.start_agent([container.id, {"bridge": {"rate_in": 16 * MBIT, "burst": 131_072}}, []])

    assert repaired == [f"interface {cable} of network bridge has not the rates that it should have"]
    assert host.call("check") == []


def test_class_sorts_what_a_container_sends_into_the_hosts_queues(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    [uplink] = [name for name in host.run("ls", "/proc/sys/net/ipv4/conf").split() if name.startswith("gt")]
    for line in (
        f"qdisc add dev {uplink} root handle 1: htb default 30",
        f"class add dev {uplink} parent 1: classid 1:10 htb rate 100mbit",
        f"class add dev {uplink} parent 1: classid 1:30 htb rate 100mbit",
    ):
        host.run("tc", *line.split())
    container, other = host.container("first"), host.container("other")
    host.call("terms", "first", {}, [], "1:10")
    container.attach()
    other.attach()
    serve(outside, 80)

    def sent() -> dict[str, int]:
        listed = host.run("tc", "-s", "class", "show", "dev", uplink)
        return {
            name: int(count)
            for name, count in re.findall(r"^class htb (\S+) .*\n Sent \d+ bytes (\d+) pkt", listed, re.M)
        }

    other.ask(OUTSIDE, 80)
    assert sent()["1:10"] == 0
    container.ask(OUTSIDE, 80)
    # The end of the connection is still to be sent when the answer is there.
    eventually(lambda: not container.run("ss", "-Htn", "exclude", "time-wait", "exclude", "listening"))
    before = sent()["1:10"]
    assert before > 0
    assert host.call("check") == []

    host.call("terms", "first", {}, [])
    host.call("classify")
    container.ask(OUTSIDE, 80)
    assert sent()["1:10"] == before
    assert [table for table in host.tables() if "rules" in table] == []
