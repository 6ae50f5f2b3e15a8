# SPDX-License-Identifier: Apache-2.0
"""Published ports go by health: of a successor, and of those that share them."""

from __future__ import annotations

from typing import Any

import pytest

from harness.waiting import eventually

from .test_shared_ports import counted, joined, member, shares
from .world import Asker, World, server

pytestmark = pytest.mark.root

OFTEN = {"interval": "200ms", "retries": 1}


def checked(test: str, **check: Any) -> dict[str, Any]:
    return {"healthcheck": {"test": test, **check}}


def status(world: World, name: str) -> str:
    found: str = world.view(name)["health"]["status"]
    return found


def run(world: World, name: str, command: str) -> None:
    world.agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["sh", "-c", command]})


def test_successor_gets_the_port_when_it_is_healthy(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    asker = Asker(world)
    slow = server("new", **checked("test -e /warm"))
    slow["command"][2] = slow["command"][2].replace(
        "exec httpd", "(sleep 2; echo warm >/srv/index.html; touch /warm) & exec httpd"
    )

    world.put("web", slow)

    assert world.says() == "warm"
    assert set(asker.finish()) == {"old", "warm"}, "it has answered nobody before it was healthy"
    assert status(world, "web") == "healthy"


def test_successor_that_is_not_healthy_leaves_the_port_where_it_is(world: World) -> None:
    world.put("web", server("old"))
    world.until_served("old")
    before = world.view("web")["id"]
    asker = Asker(world)

    bad = server("new", ready_timeout=1, **checked("echo cold; exit 4"))
    refused = world.put("web", bad, check=False)
    assert "container web was not replaced, and runs on as it was" in refused["message"]
    assert (
        "is not healthy after 1 s, its last check ended with exit code 4 and said: cold"
        in (refused["message"])
    )

    refused = world.put("web", server("new", **checked("echo bad; exit 4", **OFTEN)), check=False)
    assert "is unhealthy, its last check ended with exit code 4 and said: bad" in refused["message"]

    assert set(asker.finish()) == {"old"}
    assert (world.names(), world.view("web")["id"]) == (["web"], before)


def test_unhealthy_one_gets_no_connections_while_others_are_healthy(world: World) -> None:
    for name in ("aa", "bb"):
        world.put(name, member(name, **checked("test ! -e /bad", **OFTEN)))
    joined(world, "aa", "bb")
    eventually(lambda: status(world, "aa") == status(world, "bb") == "healthy")
    assert set(counted(world, 10)) == {"aa", "bb"}

    run(world, "aa", "touch /bad")
    eventually(lambda: shares(world, "aa") == [0])
    assert set(counted(world, 10)) == {"bb"}

    run(world, "bb", "touch /bad")
    joined(world, "aa")
    assert set(counted(world, 10)) == {"aa", "bb"}, "where nobody is healthy there is no better one"

    run(world, "bb", "rm /bad")
    eventually(lambda: shares(world, "aa") == [0])
    assert set(counted(world, 10)) == {"bb"}

    world.agent.api("POST", "/mooring/v1/containers/bb/stop?timeout=0")
    joined(world, "aa")
    assert set(counted(world, 10)) == {"aa"}

    world.agent.api("POST", "/mooring/v1/containers/bb/start")
    joined(world, "bb")
    eventually(lambda: shares(world, "aa") == [0])
    run(world, "aa", "rm /bad")
    joined(world, "aa")
    assert set(counted(world, 10)) == {"aa", "bb"}


def test_new_one_gets_connections_when_it_is_healthy(world: World) -> None:
    world.put("aa", member("aa", **checked("true", **OFTEN)))
    eventually(lambda: status(world, "aa") == "healthy")
    joined(world, "aa")
    world.put("bb", member("bb", **checked("test -e /warm")))
    run(world, "bb", "test ! -e /warm")
    assert shares(world, "bb") == [0]
    run(world, "bb", "touch /warm")
    joined(world, "bb")
    assert set(counted(world, 10)) == {"aa", "bb"}


def test_agent_that_is_killed_knows_afterwards_who_is_unhealthy(world: World) -> None:
    for name in ("aa", "bb"):
        world.put(name, member(name, **checked("test ! -e /bad", **OFTEN)))
    joined(world, "aa", "bb")
    run(world, "aa", "touch /bad")
    eventually(lambda: shares(world, "aa") == [0])
    world.agent.kill9()
    assert set(counted(world, 10)) == {"bb"}
    world.agent.start()
    assert shares(world, "aa") == [0]
    assert status(world, "aa") == "unhealthy"
    assert set(counted(world, 10)) == {"bb"}
    run(world, "aa", "rm /bad")
    joined(world, "aa")
