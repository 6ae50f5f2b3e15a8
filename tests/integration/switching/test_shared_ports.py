# SPDX-License-Identifier: Apache-2.0
"""Several containers behind one port: spread by weight, taken out, brought in, and in nobody's way."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from harness.host import need_programs
from harness.waiting import eventually
from integration.network.topology import HOST_OUTER

from .world import Load, World, server

pytestmark = pytest.mark.root


def member(name: str, *, weight: int = 1, balance: str = "round_robin", **options: Any) -> dict[str, Any]:
    """A web server that shares port 8080."""
    shared = {"container": 80, "host": 8080, "balance": balance, "weight": weight}
    return server(name, ports=[shared], **options)


def shares(world: World, name: str) -> list[int]:
    return [port["weight"] for port in world.view(name)["ports"]]


def joined(world: World, *names: str) -> None:
    for name in names:
        eventually(lambda name=name: shares(world, name) != [0], what=f"{name} gets connections")


def counted(world: World, count: int) -> Counter[str]:
    return Counter(world.says() for _ in range(count))


def test_connections_go_round_by_weight(world: World) -> None:
    world.put("a", member("a", weight=2))
    world.put("b", member("b"))
    joined(world, "a", "b")

    assert counted(world, 30) == {"a": 20, "b": 10}


def test_the_same_client_stays_with_the_same_container(world: World) -> None:
    for name in "abc":
        world.put(name, member(name, balance="source"))
    joined(world, *"abc")
    [(chosen, _)] = counted(world, 10).items()
    [other, another] = set("abc") - {chosen}

    world.agent.api("DELETE", f"/mooring/v1/containers/{other}")
    assert counted(world, 10) == {chosen: 10}
    world.put(chosen, member(f"{chosen}-again", balance="source"))
    assert counted(world, 10) == {f"{chosen}-again": 10}, "a successor has the place of the one before"
    world.agent.api("DELETE", f"/mooring/v1/containers/{chosen}")
    assert counted(world, 10) == {another: 10}


@pytest.mark.slow
def test_containers_come_and_go_under_full_load_and_no_request_is_lost(world: World) -> None:
    need_programs("wrk")
    world.put("a", member("a"))
    joined(world, "a")
    with Load(world.outside) as load:
        for round_ in range(3):
            world.put("b", member(f"b{round_}"))
            joined(world, "b")
            world.put("a", member("a", weight=0))
            assert set(counted(world, 10)) == {f"b{round_}"}
            world.put("a", member("a"))
            world.put("a", member(f"a{round_}"))  # a replacement
            world.agent.api("POST", "/mooring/v1/containers/b/stop")
            assert set(counted(world, 10)) == {f"a{round_}"}
            world.agent.api("DELETE", "/mooring/v1/containers/b")
            world.put("a", member("a"))
        answered, wrong = load.finish()
    assert wrong == []
    assert answered > 500


def test_taking_one_out_waits_for_its_connections(world: World) -> None:
    ports = [
        {"container": 80, "host": 8080, "balance": "round_robin"},
        {"container": 81, "host": 8081, "balance": "round_robin"},
    ]
    world.put("a", server("a", ports=ports))
    eventually(lambda: shares(world, "a") == [1, 1])
    with world.outside.connect(HOST_OUTER, 8081) as connection:
        connection.sendall(b"1\n")
        assert connection.recv(10) == b"1\n"

        planned = world.agent.api("POST", "/mooring/v1/containers/a/drain?dry_run=true")
        assert (planned["changed"], shares(world, "a")) == (True, [1, 1])
        done = world.agent.api("POST", "/mooring/v1/containers/a/drain?timeout=0.2")
        assert (done["changed"], done["connections"]) == (True, 1)
        connection.sendall(b"2\n")
        assert connection.recv(10) == b"2\n"
    done = world.agent.api("POST", "/mooring/v1/containers/a/drain?timeout=10")
    assert (done["changed"], done["connections"]) == (False, 0)
    assert world.outside.cannot_reach(HOST_OUTER, 8080)

    assert world.put("a", server("a", ports=ports))["changed"], "what is declared holds again"
    eventually(lambda: shares(world, "a") == [1, 1])
    assert world.says() == "a"


def test_one_that_ends_by_itself_gets_no_more_connections(world: World) -> None:
    world.put("a", member("a"))
    mortal = member("b", restart="always")
    mortal["command"][2] = "test -e /again && exec sleep 600; touch /again; " + mortal["command"][2]
    world.put("b", mortal)
    joined(world, "a", "b")
    world.agent.api("POST", "/mooring/v1/containers/b/exec", {"argv": ["killall", "httpd"]})

    eventually(lambda: world.view("b")["restart_count"] == 1 and world.view("b")["state"] == "running")
    assert shares(world, "b") == [0], "it does not listen again"
    assert counted(world, 10) == {"a": 10}


def test_restarted_agent_knows_the_shares(world: World) -> None:
    world.put("a", member("a", weight=2))
    world.put("b", member("b"))
    joined(world, "a", "b")
    world.agent.kill9()
    assert set(counted(world, 6)) == {"a", "b"}
    world.agent.start()

    assert (shares(world, "a"), shares(world, "b")) == ([2], [1])
    assert counted(world, 30) == {"a": 20, "b": 10}
    assert not world.put("a", member("a", weight=2))["changed"]


def test_port_of_somebody_alone_is_not_shared(world: World) -> None:
    world.put("a", server("a"))
    refused = world.put("b", member("b"), check=False)
    assert "host port 8080/tcp is published by container a with balance none" in refused["message"]
    assert world.names() == ["a"]


def test_drain_of_one_that_shares_nothing_is_refused(world: World) -> None:
    world.put("a", server("a"))
    refused = world.agent.api("POST", "/mooring/v1/containers/a/drain", check=False)
    assert "container a shares no published port" in refused["message"]
