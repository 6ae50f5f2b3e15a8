# SPDX-License-Identifier: Apache-2.0
"""Ports of the host that lead to containers: from everywhere, switched, taken back, and in nobody's way."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from integration.network.conftest import Serve
from integration.network.topology import HOST_OUTER, OUTSIDE, Container, Host, NamedNamespace, Refused

pytestmark = pytest.mark.root


@pytest.fixture
def web(host: Host, serve: Serve) -> tuple[Container, str]:
    """A container with a service on port 80, TCP and UDP, and its address."""
    container = host.container("web")
    address = container.attach()
    serve(container, 80, "web")
    serve(container, 80, "web", kind=socket.SOCK_DGRAM)
    return container, address


@pytest.mark.parametrize("bridge_netfilter", ["0", "1"])
def test_port_is_reached_from_everywhere(
    host: Host, outside: NamedNamespace, web: tuple[Container, str], bridge_netfilter: str
) -> None:
    """The module br_netfilter, which docker loads, sends bridged packets through the firewall too."""
    if Path("/proc/sys/net/bridge").exists():
        host.run("sysctl", "-qw", f"net.bridge.bridge-nf-call-iptables={bridge_netfilter}")
    container, address = web
    host.call("create", "blue", {})
    neighbour, stranger = host.container(), host.container()
    neighbour.attach()
    other = stranger.attach("blue")

    container.publish(address, {"container": 80, "host": 8080})

    assert outside.ask(HOST_OUTER, 8080) == ["web", OUTSIDE]
    assert host.ask(HOST_OUTER, 8080)[0] == "web"
    assert host.ask("127.0.0.1", 8080)[0] == "web"
    assert neighbour.ask(HOST_OUTER, 8080)[0] == "web"
    assert neighbour.ask(_gateway(host), 8080)[0] == "web"
    assert container.ask(HOST_OUTER, 8080)[0] == "web"
    assert stranger.ask(HOST_OUTER, 8080) == ["web", other]


def test_udp_port_is_reached_from_everywhere(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    container, address = web
    container.publish(address, {"container": 80, "host": 8080, "protocol": "udp"})

    assert outside.ask_udp(HOST_OUTER, 8080) == ["web", OUTSIDE]
    assert host.ask_udp("127.0.0.1", 8080)[0] == "web"
    assert container.ask_udp(HOST_OUTER, 8080)[0] == "web"
    assert outside.cannot_reach(HOST_OUTER, 8080)


def test_port_of_one_address_is_not_one_of_the_others(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    container, address = web
    container.publish(
        address,
        {"container": 80, "host": 8080, "host_ip": "127.0.0.1"},
        {"container": 80, "host": 9090, "host_ip": HOST_OUTER},
    )

    assert host.ask("127.0.0.1", 8080)[0] == "web"
    assert outside.cannot_reach(HOST_OUTER, 8080)
    assert outside.ask(HOST_OUTER, 9090)[0] == "web"
    assert host.cannot_reach("127.0.0.1", 9090)


def test_neighbour_of_the_host_does_not_reach_ports_of_its_loopback(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    container, address = web
    container.publish(address, {"container": 80, "host": 8080, "host_ip": "127.0.0.1"})
    outside.run("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=1")
    outside.run("ip", "address", "delete", "127.0.0.1/8", "dev", "lo")
    outside.run("ip", "route", "add", "127.0.0.1", "via", HOST_OUTER)

    assert outside.cannot_reach("127.0.0.1", 8080)


def test_free_port_is_chosen_and_kept(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    container, address = web
    [chosen] = container.publish(address, {"container": 80})
    [again] = container.publish(address, {"container": 80})

    assert chosen == again
    assert outside.ask(HOST_OUTER, chosen["host"])[0] == "web"


def test_what_is_published_is_exactly_what_was_last_asked_for(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    container, address = web
    container.publish(address, {"container": 80, "host": 8080}, {"container": 80, "host": 8081})
    container.publish(address, {"container": 80, "host": 8081}, {"container": 80, "host": 8082})

    assert outside.cannot_reach(HOST_OUTER, 8080)
    assert outside.ask(HOST_OUTER, 8081)[0] == "web"
    assert outside.ask(HOST_OUTER, 8082)[0] == "web"
    host.call("unpublish", "web")
    assert outside.cannot_reach(HOST_OUTER, 8081)
    assert host.call("check") == []


def test_port_moves_to_another_container_and_connections_stay(
    host: Host, outside: NamedNamespace, serve: Serve, web: tuple[Container, str]
) -> None:
    old, address = web
    new = host.container("new")
    target = new.attach()
    serve(new, 80, "new")
    old.publish(address, {"container": 80, "host": 8080})

    with outside.connect(HOST_OUTER, 8080) as before:
        stream = before.makefile("rw")
        assert stream.readline().startswith("web")
        new.publish(target, {"container": 80, "host": 8080}, taking_over="web")
        assert outside.ask(HOST_OUTER, 8080)[0] == "new"
        stream.write("still here\n")
        stream.flush()
        assert stream.readline() == "still here\n"
    assert host.call("published", "web") == []
    assert host.call("check") == []


def test_port_of_another_container_is_refused_by_name(host: Host, web: tuple[Container, str]) -> None:
    container, address = web
    container.publish(address, {"container": 80, "host": 8080})
    other = host.container("other")
    target = other.attach()

    for host_ip in ("0.0.0.0", "127.0.0.1"):
        with pytest.raises(Refused, match=r"host port 8080/tcp is already .* by container name of web"):
            other.publish(target, {"container": 81}, {"container": 80, "host": 8080, "host_ip": host_ip})
    assert host.call("published", "other") == []
    assert host.call("check") == []


@pytest.mark.parametrize("bound_to", ["0.0.0.0", "127.0.0.1"])
def test_port_of_a_process_is_refused_by_name(
    host: Host, serve: Serve, web: tuple[Container, str], bound_to: str
) -> None:
    container, address = web
    serve(host, 8080, address=bound_to)

    with pytest.raises(Refused, match=r"host port 8080/tcp is in use by \S+ \(process \d+\)"):
        container.publish(address, {"container": 80, "host": 8080})
    assert host.call("check") == []


def test_published_port_is_refused_to_processes_of_the_host(host: Host, web: tuple[Container, str]) -> None:
    container, address = web
    container.publish(address, {"container": 80, "host": 8080})

    with host.open_socket() as late, pytest.raises(OSError, match="in use"):
        late.bind(("0.0.0.0", 8080))
    host.call("unpublish", "web")
    with host.open_socket() as late:
        late.bind(("0.0.0.0", 8080))


def test_port_can_be_published_right_after_its_service_has_gone(
    host: Host, outside: NamedNamespace, web: tuple[Container, str]
) -> None:
    """Its last connections stay in TIME_WAIT for a minute, and refuse plain binds."""
    container, address = web
    with host.open_socket() as native:
        native.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        native.bind(("0.0.0.0", 8080))
        native.listen()
        with outside.connect(HOST_OUTER, 8080) as client:
            native.accept()[0].close()
            assert client.recv(1) == b""
    with host.open_socket() as plain, pytest.raises(OSError, match="in use"):
        plain.bind(("0.0.0.0", 8080))

    container.publish(address, {"container": 80, "host": 8080})

    assert outside.ask(HOST_OUTER, 8080)[0] == "web"


def test_ports_of_an_internal_network_are_refused(host: Host) -> None:
    host.call("create", "cut-off", {"internal": True})
    container = host.container("lonely")
    address = container.attach("cut-off")

    with pytest.raises(Refused, match="network cut-off is internal"):
        container.publish(address, {"container": 80, "host": 8080})


def test_address_that_the_host_has_not_is_refused(host: Host, web: tuple[Container, str]) -> None:
    container, address = web
    with pytest.raises(Refused, match=r"host address 203\.0\.113\.9 .* no such address"):
        container.publish(address, {"container": 80, "host": 8080, "host_ip": "203.0.113.9"})


def _gateway(host: Host) -> str:
    return str(host.call("get", "bridge")["gateway"])
