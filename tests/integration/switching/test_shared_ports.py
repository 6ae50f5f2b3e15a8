# SPDX-License-Identifier: Apache-2.0
"""Several containers behind one port: spread by weight, taken out, brought in, and in nobody's way."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from harness.host import need_programs
from harness.waiting import PATIENCE, eventually
from integration.network.topology import HOST_OUTER

from .world import Load, World, echoes, server

pytestmark = pytest.mark.root

ABC = ("aa", "bb", "cc")
BOTH = [
    {"container": 80, "host": 8080, "balance": "round_robin"},
    {"container": 81, "host": 8081, "balance": "round_robin"},
]


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
    world.put("aa", member("aa", weight=2))
    world.put("bb", member("bb"))
    joined(world, "aa", "bb")

    assert counted(world, 30) == {"aa": 20, "bb": 10}


def test_the_same_client_stays_with_the_same_container(world: World) -> None:
    for name in ABC:
        world.put(name, member(name, balance="source"))
    joined(world, *ABC)
    [(chosen, _)] = counted(world, 10).items()
    [other, another] = set(ABC) - {chosen}

    world.agent.api("DELETE", f"/mooring/v1/containers/{other}")
    assert counted(world, 10) == {chosen: 10}
    world.put(chosen, member(f"{chosen}-again", balance="source"))
    assert counted(world, 10) == {f"{chosen}-again": 10}, "a successor has the place of the one before"
    world.agent.api("DELETE", f"/mooring/v1/containers/{chosen}")
    assert counted(world, 10) == {another: 10}


@pytest.mark.slow
def test_containers_come_and_go_under_full_load_and_no_request_is_lost(world: World) -> None:
    need_programs("wrk")
    world.put("aa", member("aa"))
    joined(world, "aa")
    with Load(world.outside) as load:
        for round_ in range(3):
            world.put("bb", member(f"b{round_}"))
            joined(world, "bb")
            world.put("aa", member("aa", weight=0))
            assert set(counted(world, 10)) == {f"b{round_}"}
            world.put("aa", member("aa"))
            world.put("aa", member(f"a{round_}"))  # a replacement
            world.agent.api("POST", "/mooring/v1/containers/bb/stop")
            assert set(counted(world, 10)) == {f"a{round_}"}
            world.agent.api("DELETE", "/mooring/v1/containers/bb")
            world.put("aa", member("aa"))
        answered, wrong = load.finish()
    assert wrong == []
    assert answered > 500


@pytest.mark.slow
def test_shares_change_under_full_load_and_no_connection_is_refused(world: World) -> None:
    """A packet may be at the old rule when the new one takes effect."""
    need_programs("wrk")
    world.put("aa", member("aa"))
    world.put("bb", member("bb"))
    joined(world, "aa", "bb")
    with Load(world.outside) as load:
        for change in range(200):
            world.put("aa", member("aa", weight=change % 3 + 1))
        answered, wrong = load.finish()
    assert wrong == []
    assert answered > 500


def test_taking_one_out_waits_for_its_connections(world: World) -> None:
    world.put("aa", server("aa", ports=BOTH))
    eventually(lambda: shares(world, "aa") == [1, 1])
    with world.outside.connect(HOST_OUTER, 8081) as connection:
        assert echoes(connection)

        planned = world.agent.api("POST", "/mooring/v1/containers/aa/drain?dry_run=true")
        assert (planned["changed"], shares(world, "aa")) == (True, [1, 1])
        done = world.agent.api("POST", "/mooring/v1/containers/aa/drain?timeout=0.2")
        assert (done["changed"], done["connections"]) == (True, 1)
        assert echoes(connection, b"2\n")
    done = world.agent.api("POST", "/mooring/v1/containers/aa/drain?timeout=10")
    assert (done["changed"], done["connections"]) == (False, 0)
    assert world.outside.cannot_reach(HOST_OUTER, 8080)

    assert world.put("aa", server("aa", ports=BOTH))["changed"], "what is declared holds again"
    eventually(lambda: shares(world, "aa") == [1, 1])
    assert world.says() == "aa"


def test_one_that_ends_by_itself_gets_no_more_connections(world: World) -> None:
    world.put("aa", member("aa"))
    mortal = member("bb", restart="always")
    script = mortal["command"][2].replace("exec httpd", "httpd")
    mortal["command"][2] = f"test -e /again && exec sleep 600; touch /again; {script}; exit 1"
    world.put("bb", mortal)
    joined(world, "aa", "bb")
    world.agent.api("POST", "/mooring/v1/containers/bb/exec", {"argv": ["killall", "httpd"]})

    eventually(lambda: world.view("bb")["restart_count"] == 1 and world.view("bb")["state"] == "running")
    assert shares(world, "bb") == [0], "it does not listen again"
    assert counted(world, 10) == {"aa": 10}


def test_restarted_agent_knows_the_shares(world: World) -> None:
    world.put("aa", member("aa", weight=2))
    world.put("bb", member("bb"))
    joined(world, "aa", "bb")
    world.agent.kill9()
    assert set(counted(world, 6)) == {"aa", "bb"}
    world.agent.start()

    assert (shares(world, "aa"), shares(world, "bb")) == ([2], [1])
    assert counted(world, 30) == {"aa": 20, "bb": 10}
    assert not world.put("aa", member("aa", weight=2))["changed"]


def test_port_of_somebody_alone_is_not_shared(world: World) -> None:
    world.put("aa", server("aa"))
    refused = world.put("bb", member("bb"), check=False)
    assert "host port 8080/tcp is published by container aa with balance none" in refused["message"]
    assert world.names() == ["aa"]


def test_drain_of_one_that_shares_nothing_is_refused(world: World) -> None:
    world.put("aa", server("aa"))
    refused = world.agent.api("POST", "/mooring/v1/containers/aa/drain", check=False)
    assert "container aa shares no published port" in refused["message"]


def test_one_that_is_started_again_gets_connections_when_it_listens(world: World) -> None:
    world.put("aa", member("aa"))
    slow = member("bb")
    until_told = "until test -e /go; do sleep 0.1; done"
    slow["command"][2] = f"test -e /again && {until_told}; touch /again; {slow['command'][2]}".replace(
        "mkdir", "mkdir -p"
    )
    world.put("bb", slow)
    joined(world, "aa", "bb")
    world.agent.api("POST", "/mooring/v1/containers/bb/restart?timeout=0")

    assert shares(world, "bb") == [0]
    assert counted(world, 10) == {"aa": 10}
    world.agent.api("POST", "/mooring/v1/containers/bb/exec", {"argv": ["touch", "/go"]})
    joined(world, "bb")
    assert set(counted(world, 10)) == {"aa", "bb"}


def test_successor_that_listens_later_than_its_switch_gets_connections_then(world: World) -> None:
    world.put("aa", member("old", command=["sleep", "600"]))
    late = member("new")
    late["command"][2] = f"until test -e /go; do sleep 0.1; done; {late['command'][2]}"
    assert world.put("aa", late)["actions"][0]["action"] == "replace"

    assert shares(world, "aa") == [0]
    world.agent.api("POST", "/mooring/v1/containers/aa/exec", {"argv": ["touch", "/go"]})
    joined(world, "aa")
    assert world.says() == "new"


def test_one_that_does_not_heed_a_signal_and_listens_then_keeps_nobody_waiting(world: World) -> None:
    stubborn = member("aa")
    stubborn["command"][2] = f"trap '' TERM; until test -e /go; do sleep 0.1; done; {stubborn['command'][2]}"
    world.put("aa", stubborn)
    world.agent.api("POST", "/v1.43/containers/aa/kill?signal=TERM")
    world.agent.api("POST", "/mooring/v1/containers/aa/exec", {"argv": ["touch", "/go"]})
    answers_there = {"argv": ["sh", "-c", "until grep -q :0050 /proc/net/tcp*; do sleep 0.1; done; sleep 1"]}
    world.agent.api("POST", "/mooring/v1/containers/aa/exec", answers_there)

    assert shares(world, "aa") == [0], "it is to end"


def test_one_that_ends_while_its_connections_drain_is_stopped(world: World) -> None:
    mortal = server("aa", ports=BOTH, drain=60)
    mortal["command"][2] = mortal["command"][2].replace("exec httpd -f", "httpd") + (
        "; until test -e /end; do sleep 0.1; done; exit 5"
    )
    world.put("aa", mortal)
    eventually(lambda: shares(world, "aa") == [1, 1])
    with world.outside.connect(HOST_OUTER, 8081) as connection, ThreadPoolExecutor(1) as beside:
        assert echoes(connection)
        stopping = beside.submit(world.agent.api, "POST", "/mooring/v1/containers/aa/stop")
        eventually(lambda: shares(world, "aa") == [0, 0])
        world.agent.api("POST", "/mooring/v1/containers/aa/exec", {"argv": ["touch", "/end"]})
        stopping.result(10 * PATIENCE)
    assert (world.view("aa")["state"], world.view("aa")["exit_code"]) == ("exited", 5)
