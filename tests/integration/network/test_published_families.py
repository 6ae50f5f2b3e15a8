# SPDX-License-Identifier: Apache-2.0
"""Published ports over IPv6 and both, of UDP that goes on, and of SCTP."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

import pytest

from harness.waiting import eventually
from integration.network.conftest import Serve
from integration.network.topology import (
    HOST_OUTER,
    HOST_OUTER6,
    OUTSIDE6,
    TRAFFIC_TIMEOUT,
    Container,
    Host,
    NamedNamespace,
    Refused,
)

pytestmark = pytest.mark.root

_SCTP = 132
_INIT, _INIT_ACK = 1, 2


def dual(host: Host, serve: Serve, name: str = "web", **spec: object) -> tuple[Container, str]:
    """A container on a network with IPv6, with a service on port 80 of all its addresses."""
    if "both" not in [network["name"] for network in host.call("list")]:
        host.call("create", "both", {"ipv6": True, **spec})
    container = host.container(name)
    address = container.attach("both")
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        serve(container, 80, name, address="::", kind=kind)
    return container, address


def test_port_is_reached_over_both_families_from_everywhere(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container, address = dual(host, serve)
    container.publish(
        address, {"container": 80, "host": 8080}, {"container": 80, "host": 8080, "protocol": "udp"}
    )
    other = host.container("other")
    other.attach("both")

    assert outside.ask(HOST_OUTER6, 8080) == ["web", OUTSIDE6], "the client's address is seen"
    for where in (outside, other, container):
        for place in (HOST_OUTER, HOST_OUTER6):
            assert where.ask(place, 8080)[0] == "web"
            assert where.ask_udp(place, 8080)[0] == "web"
    for place in ("127.0.0.1", HOST_OUTER, HOST_OUTER6):
        assert host.ask(place, 8080)[0] == "web"
        assert host.ask_udp(place, 8080)[0] == "web"
    with pytest.raises(ConnectionRefusedError):  # at once, so that who tries ::1 first goes on with 127.0.0.1
        host.ask("::1", 8080)
    assert host.call("check") == []


def test_ipv6_alone(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    container, address = dual(host, serve, ipv4=False)
    container.publish(address, {"container": 80, "host": 8080})

    assert outside.ask(HOST_OUTER6, 8080)[0] == "web"
    assert host.ask(HOST_OUTER6, 8080)[0] == "web"
    assert outside.cannot_reach(HOST_OUTER, 8080)
    with pytest.raises(Refused, match="no IPv4 address"):
        container.publish(address, {"container": 80, "host": 8080, "host_ip": "0.0.0.0"})


def test_port_of_one_family_or_address_is_not_one_of_the_others(
    host: Host, outside: NamedNamespace, serve: Serve
) -> None:
    container, address = dual(host, serve)
    container.publish(
        address,
        {"container": 80, "host": 8080, "host_ip": "0.0.0.0"},
        {"container": 80, "host": 8081, "host_ip": "::"},
        {"container": 80, "host": 8082, "host_ip": HOST_OUTER6},
    )

    assert outside.ask(HOST_OUTER, 8080)[0] == "web"
    assert outside.cannot_reach(HOST_OUTER6, 8080)
    assert outside.ask(HOST_OUTER6, 8081)[0] == "web"
    assert outside.cannot_reach(HOST_OUTER, 8081)
    assert outside.ask(HOST_OUTER6, 8082)[0] == "web"
    assert host.cannot_reach(host.call("get", "both")["gateway6"], 8082)


def test_port_moves_over_both_families(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    old, address = dual(host, serve)
    old.publish(address, {"container": 80, "host": 8080})
    new, target = dual(host, serve, "new")
    with outside.connect(HOST_OUTER6, 8080) as before:
        stream = before.makefile("rw")
        assert stream.readline().startswith("web")
        new.publish(target, {"container": 80, "host": 8080}, taking_over="web")
        for place in (HOST_OUTER, HOST_OUTER6):
            assert outside.ask(place, 8080)[0] == "new"
        stream.write("still here\n")
        stream.flush()
        assert stream.readline() == "still here\n"


@pytest.mark.parametrize("place", [HOST_OUTER, HOST_OUTER6])
def test_datagrams_of_a_client_that_goes_on_follow_the_port(
    host: Host, outside: NamedNamespace, serve: Serve, place: str
) -> None:
    old, address = dual(host, serve)
    new, target = dual(host, serve, "new")
    port = {"container": 80, "host": 8080, "protocol": "udp"}
    with outside.open_socket(socket.SOCK_DGRAM, place) as client:
        client.connect((place, 8080))

        def answer() -> str:
            host.call("check")  # its loop runs only while it is asked something
            client.send(b"?")
            try:
                return client.recv(1000).decode().split()[0]
            except OSError:
                return ""

        assert answer() == "", "nobody is there yet"
        old.publish(address, port)
        eventually(lambda: answer() == "web")
        new.publish(target, port, taking_over="web")
        assert answer() == "new"
        host.call("unpublish", "new")
        client.settimeout(0.3)
        assert answer() == ""


@pytest.mark.parametrize("place", [HOST_OUTER, HOST_OUTER6])
def test_sctp_is_led_to_the_container(host: Host, outside: NamedNamespace, serve: Serve, place: str) -> None:
    """Its INIT arrives, and what answers it comes from where it was sent to: RFC 9260, written by hand, since
    a kernel may have no sockets of it.
    """
    container, address = dual(host, serve)
    container.publish(address, {"container": 5000, "host": 5001, "protocol": "sctp"})
    family = socket.AF_INET6 if ":" in place else socket.AF_INET

    def raw(where: Callable[[Callable[[], socket.socket]], socket.socket]) -> socket.socket:
        made = where(lambda: socket.socket(family, socket.SOCK_RAW, _SCTP))
        made.settimeout(TRAFFIC_TIMEOUT)
        return made

    with raw(outside.inside) as client, raw(container.inside) as server:
        client.sendto(_packet(4000, 5001, 0, _INIT), (place, 0))
        received, sender = server.recvfrom(2000)
        packet = received if family == socket.AF_INET6 else received[20:]
        assert struct.unpack_from(">HH", packet) == (4000, 5000)
        server.sendto(_packet(5000, 4000, 7, _INIT_ACK), (sender[0], 0))
        received, sender = client.recvfrom(2000)
        packet = received if family == socket.AF_INET6 else received[20:]
        assert (sender[0], struct.unpack_from(">HH", packet)) == (place, (5001, 4000))


def test_a_range_is_one_change(host: Host, outside: NamedNamespace, serve: Serve) -> None:
    container, address = dual(host, serve)
    ports = [{"container": 1000 + number, "host": 20000 + number} for number in range(1000)]
    ports[500]["container"] = 80
    container.publish(address, *ports)

    assert outside.ask(HOST_OUTER, 20500)[0] == "web"
    assert outside.ask(HOST_OUTER6, 20500)[0] == "web"
    assert host.call("check") == []
    host.call("unpublish", "web")
    assert host.call("check") == []


def _packet(source: int, destination: int, tag: int, kind: int) -> bytes:
    """A packet with one chunk: a tag, a window, two streams, a first number; with its CRC32c."""
    chunk = struct.pack(">BBHIIHHI", kind, 0, 20, 7, 65536, 1, 1, 1)
    head = struct.pack(">HHI", source, destination, tag)
    return head + struct.pack("<I", _crc32c(head + bytes(4) + chunk)) + chunk


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF
