# SPDX-License-Identifier: Apache-2.0
"""A published port goes over to a successor, and nobody notices."""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest

from harness.host import need_programs
from harness.waiting import PATIENCE, eventually
from integration.network.topology import HOST_OUTER, Namespace
from mooring_agent.linux.conntrack import ConntrackSocket

from .world import Asker, Load, World, echoes, server

pytestmark = pytest.mark.root

REPLACEMENTS = 20


class Declaring(threading.Thread):
    """A declaration that takes its time."""

    def __init__(self, world: World, name: str, spec: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self._put = lambda: world.put(name, spec)
        self.start()

    def run(self) -> None:
        """Declare."""
        self._put()


@pytest.mark.slow
def test_twenty_replacements_under_full_load_lose_no_request(world: World) -> None:
    need_programs("wrk")
    world.put("web", server("0"))
    world.until_served("0")
    with Load(world.outside) as load, world.outside.connect(HOST_OUTER, 8081) as long_lived:
        assert echoes(long_lived, b"before\n")
        for number in range(1, REPLACEMENTS + 1):
            # The first one waits for the connection that lasts, until its deadline or until it has ended.
            done = world.put("web", server(str(number), drain=1 if number == 1 else 10))
            assert [action["action"] for action in done["actions"]] == ["replace"]
            assert world.says() == str(number)
        answered, wrong = load.finish()

    assert wrong == []
    assert answered > 1000
    assert world.names() == ["web"]


def test_connection_to_the_old_container_finishes(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    with world.outside.connect(HOST_OUTER, 8081) as connection:
        assert echoes(connection)
        asker = Asker(world)
        replacing = Declaring(world, "web", server("new", drain=30))
        eventually(lambda: "new" in asker.answers)
        for number in range(20):
            assert echoes(connection, b"%d\n" % number)
        assert len(world.names()) == 2
        assert replacing.is_alive(), "it did not wait for the connection"
    replacing.join(5 * PATIENCE)
    assert not replacing.is_alive(), "it ends as soon as the connection has"
    assert set(asker.finish()) == {"old", "new"}
    assert world.names() == ["web"]


def test_drain_has_a_deadline(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    with world.outside.connect(HOST_OUTER, 8081) as connection:
        assert echoes(connection)
        began = time.monotonic()
        world.put("web", server("new", drain=1))
        assert 1 <= time.monotonic() - began < 8 * PATIENCE
    assert world.says() == "new"


def test_client_whom_a_stuck_container_does_not_answer_gets_to_its_successor(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    world.agent.api("POST", "/v1.43/containers/web/kill?signal=STOP")
    with ExitStack() as stack:
        clients = [stack.enter_context(world.outside.open_socket()) for _ in range(30)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((HOST_OUTER, 8080))
        # Some wait to be accepted, of those beyond the kernel takes no notice.
        taken = _taken(clients)
        ignored = [client for client in clients if client not in taken]
        assert len(ignored) > 1, "this server has room for everybody: nothing is tested"

        world.put("web", server("new", drain=2))

        assert world.names() == ["web"]
        for client in ignored:
            # The longer the switch has taken, the later it asks again.
            assert _writable([client], 10 * PATIENCE), "nobody answers"
            client.settimeout(5 * PATIENCE)
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.makefile().read().endswith("new\n")


def test_only_what_is_still_unanswered_is_led_elsewhere(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    address = world.view("web")["networks"]["bridge"]["ipv4_address"]
    world.agent.api("POST", "/v1.43/containers/web/kill?signal=STOP")
    tracking = world.host.inside(ConntrackSocket)
    with tracking, ExitStack() as stack:
        clients = [stack.enter_context(world.outside.open_socket()) for _ in range(30)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((HOST_OUTER, 8080))
        taken = len(_taken(clients))
        # Who asks again after a second has a flow again, whether or not it was forgotten.
        world.outside.run("nft", "add table inet silence")
        chain = "add chain inet silence output { type filter hook output priority 0; policy drop; }"
        world.outside.run("nft", chain)
        before = tracking.answered_by(address, socket.IPPROTO_TCP)
        assert [flow.unanswered for flow in before].count(True) == 30 - taken

        able = tracking.forget_unanswered(address, socket.IPPROTO_TCP, 80)

        assert able == (_kernel() >= (6, 12))
        after = tracking.answered_by(address, socket.IPPROTO_TCP)
        assert [flow.unanswered for flow in after].count(True) == (0 if able else 30 - taken)
        assert [flow.open and not flow.unanswered for flow in after].count(True) == taken


def test_client_whom_the_old_one_has_reset_gets_to_its_successor_from_the_same_port(world: World) -> None:
    spec = {**server("old"), "command": ["sleep", "600"]}
    world.put("web", spec)
    with _listener(world) as listener:
        client = _client(world, port=40001)
        accepted, _ = listener.accept()
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted.close()
        with client, pytest.raises(ConnectionResetError):
            client.recv(1)
    world.put("web", {**spec, "env": {"SUCCESSOR": "1"}})
    with _listener(world), _client(world, port=40001):
        pass


def test_only_connections_through_its_ports_are_waited_for(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    address = world.view("web")["networks"]["bridge"]["ipv4_address"]
    with world.host.connect(address, 81) as connection:
        assert echoes(connection)
        began = time.monotonic()
        world.put("web", server("new", drain=round(20 * PATIENCE)))
        assert time.monotonic() - began < 10 * PATIENCE
    assert world.says() == "new"


@pytest.mark.parametrize("point", ["switch.ready", "switch.moved", "switch.drained", "stop.signalled"])
def test_agent_that_is_killed_in_a_switch_loses_nothing_and_the_next_one_finishes_it(
    world: World, point: str
) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    before = world.view("web")["id"]
    asker = Asker(world)

    world.die_at(point)
    with pytest.raises((OSError, HTTPException)):
        world.put("web", server("new"))
    assert world.agent.process is not None
    assert world.agent.process.wait(10 * PATIENCE) != 0
    world.agent.process = None
    count = len(asker.answers)
    eventually(lambda: len(asker.answers) > count + 50)
    world.agent.start()
    eventually(lambda: world.names() == ["web"] and world.view("web")["id"] != before, 20)

    assert world.says() == "new"
    assert set(asker.finish()) == {"old", "new"}
    assert [port["host"] for port in world.view("web")["ports"]] == [8080, 8081]


def test_successor_that_does_not_answer_leaves_the_port_where_it_is(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    before = world.view("web")["id"]
    asker = Asker(world)

    refused = world.put("web", server("new", command=["sleep", "600"], ready_timeout=1), check=False)
    assert "container web was not replaced, and runs on as it was" in refused["message"]
    assert "does not answer on 80/tcp, 81/tcp 1 s after its start" in refused["message"]

    refused = world.put("web", server("new", command=["sh", "-c", "exit 3"]), check=False)
    assert "ended with exit code 3 before it answered on 80/tcp, 81/tcp" in refused["message"]

    assert set(asker.finish()) == {"old"}
    assert (world.names(), world.view("web")["id"]) == (["web"], before)


def test_successor_that_ends_while_the_old_one_drains_gives_the_port_back(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    before = world.view("web")["id"]
    short_lived = server("new", drain=20)
    short_lived["command"][2] = (
        short_lived["command"][2].replace("exec httpd -f", "httpd")
        + "; until test -e /end; do sleep 0.1; done; exit 4"
    )
    with world.outside.connect(HOST_OUTER, 8081) as connection, ThreadPoolExecutor(1) as beside:
        assert echoes(connection)

        replacing = beside.submit(world.put, "web", short_lived, check=False)
        eventually(lambda: world.says() == "new", what="the new one has taken over")
        [successor] = set(world.names()) - {"web"}
        end = {"argv": ["touch", "/end"]}
        world.agent.api("POST", f"/mooring/v1/containers/{successor}/exec", end)
        refused = replacing.result(60 * PATIENCE)

        assert "ended with exit code 4 after it had taken over" in refused["message"]
        assert echoes(connection, b"2\n")
    assert world.says() == "old"
    assert (world.names(), world.view("web")["id"]) == (["web"], before)
    assert [port["host"] for port in world.view("web")["ports"]] == [8080, 8081]


def test_port_that_nobody_answers_needs_no_answer(world: World) -> None:
    world.put("web", server("old", command=["sleep", "600"]))
    world.put("web", server("new", command=["sleep", "601"]))
    assert world.names() == ["web"]


def test_ports_that_are_not_wanted_any_more_are_taken_back_at_the_switch(world: World) -> None:
    world.put("web", server("old", ports=["8080:80", "8081:81", "81"]))
    world.until_served("old")
    [chosen] = [port["host"] for port in world.view("web")["ports"] if port["host"] not in (8080, 8081)]

    world.put("web", server("new", ports=["8080:80", "81"]))

    assert world.says() == "new"
    assert world.outside.cannot_reach(HOST_OUTER, 8081)
    assert [port["host"] for port in world.view("web")["ports"]] == [8080, chosen], "it keeps what was chosen"


def test_chosen_port_is_kept_beside_a_named_one_that_leads_to_the_same(world: World) -> None:
    world.put("web", server("web", ports=["8080:80", "80"]))
    before = [port["host"] for port in world.view("web")["ports"]]
    world.put("web", server("web", ports=["8080:80", "80", "8081:81"]))

    assert [port["host"] for port in world.view("web")["ports"]] == [*before, 8081]


def _taken(clients: list[socket.socket]) -> list[socket.socket]:
    """Those whom the kernel answers for a server that accepts nobody, once it has answered all of them."""
    taken: list[socket.socket] = []
    while True:
        time.sleep(0.3)
        before, taken = taken, _writable(clients, 0)
        if taken and len(taken) == len(before):
            return taken


def _writable(clients: list[socket.socket], seconds: float) -> list[socket.socket]:
    """Those whose connection is there, or was refused, as soon as there is one."""
    poll = select.poll()
    for client in clients:
        poll.register(client, select.POLLOUT)
    ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
    return [client for client in clients if client.fileno() in ready]


def _kernel() -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", os.uname().release)[:2])


def _listener(world: World) -> socket.socket:
    """A socket that listens where the container's server would."""
    inside = Namespace(Path(f"/proc/{world.view('web')['pid']}/ns/net"))
    listening = inside.open_socket()
    listening.bind(("", 80))
    listening.listen()
    return listening


def _client(world: World, port: int) -> socket.socket:
    """A connection from outside, from a certain port."""
    made = world.outside.open_socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("", port))
    made.connect((HOST_OUTER, 8080))
    return made
