# SPDX-License-Identifier: Apache-2.0
"""Health checks of declared containers: changed, waited for, restarted, and across agents."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually
from integration.conftest import StartAgent

pytestmark = pytest.mark.root


@pytest.fixture
def tidy(agent: AgentUnderTest) -> Iterator[None]:
    """Leave the agent without containers."""
    yield
    agent.remove_everything()


def declared(test: object, **options: Any) -> dict[str, Any]:
    check = {"test": test, "interval": "200ms", "retries": 2, **options.pop("check", {})}
    return {
        "image": "busybox",
        "command": ["sleep", "600"],
        "stop_timeout": 0,
        "healthcheck": check,
        **options,
    }


def put(agent: AgentUnderTest, spec: dict[str, Any], name: str = "web", **options: Any) -> Any:
    return agent.api("PUT", f"/mooring/v1/containers/{name}", spec, timeout=60, **options)


def view(agent: AgentUnderTest, name: str = "web") -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def status(agent: AgentUnderTest, name: str = "web") -> str:
    health = view(agent, name)["health"]
    return health["status"] if health else "none"


def run(agent: AgentUnderTest, command: str, name: str = "web") -> Any:
    return agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["sh", "-c", command]})


def processes(needle: str) -> list[int]:
    """Those of this host whose command line has it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if needle in (entry / "cmdline").read_text(errors="replace").replace("\0", " "):
                    found.append(int(entry.name))
            except OSError:
                continue
    return [pid for pid in found if pid != os.getpid()]


@pytest.mark.usefixtures("tidy")
def test_a_check_is_changed_live_and_what_is_the_same_is_no_change(agent: AgentUnderTest) -> None:
    identity = put(agent, declared("true"))["result"]["id"]
    eventually(lambda: status(agent) == "healthy")
    assert not put(agent, declared(["CMD-SHELL", "true"], check={"interval": 0.2}))["changed"]

    outcome = put(agent, declared("false"))
    assert [action["action"] for action in outcome["actions"]] == ["update"]
    assert "healthcheck test true" in outcome["actions"][0]["reason"]
    eventually(lambda: status(agent) == "unhealthy")
    spec = declared("false")
    del spec["healthcheck"]
    assert put(agent, spec)["changed"]
    assert view(agent)["health"] is None
    put(agent, declared("true"))
    eventually(lambda: status(agent) == "healthy")
    assert view(agent)["id"] == identity
    assert [entry["exit_code"] for entry in view(agent)["health"]["log"]][:1] == [0]
    (listed,) = agent.api("GET", "/mooring/v1/containers")
    assert listed["health"] == {"status": "healthy", "failing_streak": 0}


@pytest.mark.usefixtures("tidy")
def test_what_the_image_says_already_is_no_change(agent: AgentUnderTest, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        'FROM busybox\nHEALTHCHECK --interval=1m CMD true\nCMD ["sleep", "600"]\n'
    )
    agent.api("PUT", "/mooring/v1/images/asking", {"build": {"context": str(tmp_path)}}, timeout=110)
    spec = {"image": "asking", "stop_timeout": 0}
    put(agent, spec)
    same = {"test": ["CMD-SHELL", "true"], "interval": 60, "retries": 3, "timeout": "30s"}
    for check in ({}, {"interval": 60}, same):
        assert not put(agent, {**spec, "healthcheck": check})["changed"]
    dry = agent.api("PUT", "/mooring/v1/containers/web?dry_run=true", {**spec, "healthcheck": {"retries": 4}})
    assert [action["action"] for action in dry["actions"]] == ["update"]
    put(agent, {**spec, "healthcheck": {"test": ["NONE"]}})
    assert view(agent)["health"] is None


def test_one_made_before_images_checks_were_known_is_asked_only_when_that_is_declared(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    agent = start_agent()
    (tmp_path / "Dockerfile").write_text(
        'FROM busybox\nHEALTHCHECK --interval=200ms CMD true\nCMD ["sleep", "600"]\n'
    )
    agent.api("PUT", "/mooring/v1/images/asking", {"build": {"context": str(tmp_path)}}, timeout=110)
    spec = {"image": "asking", "stop_timeout": 0}
    before = put(agent, spec)["result"]
    agent.terminate()
    with closing(sqlite3.connect(agent.config.data_root / "state.db")) as state, state:
        state.execute("UPDATE containers SET resolved = json_remove(resolved, '$.image_health')")
    agent.start()

    assert (view(agent)["pid"], view(agent)["health"]) == (before["pid"], None)
    assert not put(agent, spec)["changed"]
    refused = put(agent, {**spec, "state": "healthy"}, check=False)
    assert "was made before those of images were asked" in refused["message"]
    refused = put(agent, {**spec, "healthcheck": {"retries": 2}}, check=False)
    assert "has a healthcheck without a test, and image asking gave it none" in refused["message"]
    asked = {**spec, "state": "healthy", "healthcheck": {"test": "true", "interval": "200ms"}}
    assert put(agent, asked)["result"]["pid"] == before["pid"]
    put(agent, {**spec, "env": {"V": "2"}})
    eventually(lambda: status(agent) == "healthy")
    agent.destroy()


@pytest.mark.usefixtures("tidy")
def test_a_container_is_waited_for_until_it_is_healthy(agent: AgentUnderTest) -> None:
    spec = declared("test -e /ready", check={"interval": 30}, state="healthy")
    spec["command"] = ["sh", "-c", "sleep 1; touch /ready; sleep 600"]
    outcome = put(agent, spec)
    assert outcome["result"]["health"]["status"] == "healthy"
    assert outcome["after"]["state"] == "running"
    assert not put(agent, spec)["changed"]

    run(agent, "rm /ready")
    put(agent, {**spec, "state": "running", "healthcheck": {"test": "test -e /ready", "interval": "200ms"}})
    eventually(lambda: status(agent) == "unhealthy")
    refused = put(
        agent, {**spec, "healthcheck": {"test": "test -e /ready", "interval": "200ms"}}, check=False
    )
    assert "container web is unhealthy, its last check ended with exit code 1" in refused["message"]


@pytest.mark.usefixtures("tidy")
def test_nothing_can_be_waited_for_without_a_check(agent: AgentUnderTest) -> None:
    spec = {"image": "busybox", "command": ["sleep", "600"], "state": "healthy"}
    for dry in ("", "?dry_run=true"):
        refused = agent.api("PUT", f"/mooring/v1/containers/web{dry}", spec, check=False)
        assert 'has the state "healthy" and no health check' in refused["message"]
    assert agent.api("GET", "/mooring/v1/containers") == []


@pytest.mark.usefixtures("tidy")
def test_a_replacement_that_does_not_get_healthy_is_undone(agent: AgentUnderTest) -> None:
    before = put(agent, declared("true", state="healthy"))["result"]["id"]
    spec = declared("echo no luck; exit 3", state="healthy", env={"V": "2"}, ready_timeout=2)
    refused = put(agent, {**spec, "healthcheck": {**spec["healthcheck"], "interval": 60}}, check=False)
    assert "container web was not replaced" in refused["message"]
    assert (
        "is not healthy after 2 s, its last check ended with exit code 3 and said: no luck"
        in (refused["message"])
    )
    refused = put(agent, spec, check=False)
    assert "is unhealthy, its last check ended with exit code 3 and said: no luck" in refused["message"]
    assert (view(agent)["id"], view(agent)["state"]) == (before, "running")
    assert len(agent.api("GET", "/mooring/v1/containers")) == 1


@pytest.mark.usefixtures("tidy")
def test_an_unhealthy_container_is_started_again_by_its_policy(agent: AgentUnderTest) -> None:
    spec = declared("test ! -e /tmp/bad", restart="on-failure", check={"on_unhealthy": "restart"})
    spec["volumes"] = [{"type": "tmpfs", "target": "/tmp"}]
    # It ends well when it is asked to, which is a failure all the same.
    spec |= {"command": ["sh", "-c", "trap 'exit 0' TERM; sleep 600 & wait"], "stop_timeout": 10}
    first = put(agent, spec)["result"]
    eventually(lambda: status(agent) == "healthy")
    run(agent, "touch /tmp/bad")
    eventually(lambda: view(agent)["restart_count"] == 1)
    eventually(lambda: status(agent) == "healthy")
    assert view(agent)["id"] == first["id"]
    assert view(agent)["pid"] != first["pid"]


@pytest.mark.usefixtures("tidy")
def test_attempts_in_vain_have_an_end_and_leave_it_running(agent: AgentUnderTest) -> None:
    put(agent, declared("false", restart="on-failure:2", check={"on_unhealthy": "restart", "retries": 1}))
    eventually(lambda: view(agent)["restart_count"] == 2)
    eventually(lambda: len((view(agent)["health"] or {}).get("log", ())) == 5)
    assert (view(agent)["state"], status(agent), view(agent)["restart_count"]) == ("running", "unhealthy", 2)


def test_the_next_agent_goes_on_with_status_and_log_and_ends_what_was_asked(start_agent: StartAgent) -> None:
    agent = start_agent()
    marker = f"1{os.getpid()}"
    put(agent, declared(f"test ! -e /slow || sleep {marker}", check={"timeout": "1h"}))
    eventually(lambda: status(agent) == "healthy")
    eventually(lambda: len(view(agent)["health"]["log"]) == 5)
    run(agent, "touch /slow")
    (asking,) = eventually(lambda: [pid for pid in processes(f"sleep {marker}") if _is_sleep(pid)])
    known = view(agent)["health"]

    agent.kill9()
    agent.start()

    assert view(agent)["health"] == known
    eventually(lambda: not Path(f"/proc/{asking}").exists(), what="the probe of before is gone")
    eventually(lambda: len([pid for pid in processes(f"sleep {marker}") if _is_sleep(pid)]) == 1)
    run(agent, "rm /slow")
    (asking,) = [pid for pid in processes(f"sleep {marker}") if _is_sleep(pid)]
    os.kill(asking, 9)
    eventually(lambda: view(agent)["health"]["log"][-1]["exit_code"] == 0)
    agent.restart()
    assert status(agent) == "healthy"
    before = view(agent)["health"]["log"]
    eventually(lambda: view(agent)["health"]["log"] != before)
    agent.destroy()


def _is_sleep(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"sleep\0")
    except OSError:
        return False


def test_a_restart_that_was_cut_off_is_made_by_the_next_agent(
    switched: tuple[AgentUnderTest, Path],
) -> None:
    agent, point = switched
    spec = declared("test ! -e /tmp/bad", restart="always", check={"on_unhealthy": "restart"})
    put(agent, {**spec, "volumes": [{"type": "tmpfs", "target": "/tmp"}]})
    eventually(lambda: status(agent) == "healthy")
    point.write_text("unhealthy.saved")
    run(agent, "touch /tmp/bad")
    assert agent.process is not None
    assert agent.process.wait(10 * PATIENCE) != 0
    agent.process = None
    agent.start()
    eventually(lambda: view(agent)["restart_count"] == 1 and status(agent) == "healthy")


@pytest.mark.usefixtures("tidy")
def test_the_command_line_declares_and_shows_it(agent: AgentUnderTest) -> None:
    def mooring(*arguments: str) -> str:
        command = [sys.executable, "-m", "mooring_agent", "--socket", str(agent.socket), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout

    options = ("--health-cmd", "true", "--health-interval", "200ms", "--health-start-period", "1m")
    mooring("run", "-d", "--name", "web", "--stop-timeout", "0", *options, "busybox", "sleep", "600")
    eventually(lambda: "running (healthy)" in mooring("ps"))
    (shown,) = json.loads(mooring("inspect", "web"))
    assert shown["spec"]["healthcheck"] == {
        "test": ["CMD-SHELL", "true"],
        "interval": "200ms",
        "start_period": 60,
    }
