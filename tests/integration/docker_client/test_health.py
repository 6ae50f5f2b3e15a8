# SPDX-License-Identifier: Apache-2.0
"""Health checks as the real docker client declares and sees them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]

OFTEN = ("--health-interval", "200ms")
SOON = ("--health-start-interval", "200ms")


def run(agent: AgentUnderTest, name: str, *options: str, image: str = "busybox") -> str:
    command = ("sleep", "600") if image == "busybox" else ()
    return agent.docker("run", "-d", "--name", name, "--stop-timeout=0", *options, image, *command).stdout


def shown(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(agent.docker("inspect", name).stdout)[0]
    return document


def health(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    found: dict[str, Any] = shown(agent, name)["State"]["Health"]
    return found


def until(agent: AgentUnderTest, name: str, status: str) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found = health(agent, name)
        assert found["Status"] == status, found
        return found

    found = eventually(reached, what=f"{name} is {status}")
    assert found is not None
    return found


def listed(agent: AgentUnderTest, *filters: str) -> str:
    return agent.docker("ps", "--format", "{{.Names}}: {{.Status}}", *filters).stdout


def test_a_container_is_starting_healthy_unhealthy_and_healthy_again(agent: AgentUnderTest) -> None:
    began = shown_time(agent)
    asked = "echo asked; test -e /good"
    patient = ("--health-start-period", "1h", *SOON)
    run(agent, "web", "--health-cmd", asked, *OFTEN, *patient, "--health-retries", "2")
    assert "(health: starting)" in listed(agent)
    assert listed(agent, "--filter", "health=starting").startswith("web: ")

    agent.docker("exec", "web", "touch", "/good")
    found = until(agent, "web", "healthy")
    assert found["FailingStreak"] == 0
    assert (found["Log"][-1]["ExitCode"], found["Log"][-1]["Output"]) == (0, "asked\n")
    assert all(entry["Start"] < entry["End"] for entry in found["Log"])
    assert listed(agent).rstrip().endswith("(healthy)")

    agent.docker("exec", "web", "rm", "/good")
    found = until(agent, "web", "unhealthy")
    assert found["FailingStreak"] >= 2
    assert found["Log"][-1]["ExitCode"] == 1
    assert listed(agent, "--filter", "health=unhealthy").rstrip().endswith("(unhealthy)")
    assert listed(agent, "--filter", "health=healthy", "--filter", "health=none") == ""
    eventually(lambda: len(health(agent, "web")["Log"]) == 5)

    agent.docker("exec", "web", "touch", "/good")
    assert until(agent, "web", "healthy")["FailingStreak"] == 0

    def told() -> list[str]:
        return agent.docker(
            # The client leaves out the fraction of the second that it has now.
            *("events", "--since", began, "--until", "0s", "--filter", "event=health_status"),
            *("--format", "{{.Action}} {{.Actor.Attributes.name}}"),
        ).stdout.splitlines()

    statuses = ("healthy", "unhealthy", "healthy")
    eventually(lambda: told() == [f"health_status: {status} web" for status in statuses])
    agent.docker("stop", "web")
    assert health(agent, "web")["Status"] == "unhealthy", "as docker has it"


def shown_time(agent: AgentUnderTest) -> str:
    now: str = agent.api("GET", "/info")["SystemTime"]
    return now


def test_probes_are_execs_of_which_listeners_hear(agent: AgentUnderTest) -> None:
    run(agent, "web", "--health-cmd", "test -e /good", *OFTEN, "--health-start-period", "1h", *SOON)
    listening = subprocess.Popen(
        agent.docker_command("events", "--format", "{{.Action}}", "--filter", "container=web"),
        stdout=subprocess.PIPE,
        text=True,
        env=agent.docker_environment(),
    )
    try:
        assert listening.stdout is not None
        said = [listening.stdout.readline().strip()]
        while said[-1] != "exec_die":  # the next probe is heard from its beginning
            said.append(listening.stdout.readline().strip())
        agent.docker("exec", "web", "touch", "/good")
        while not said[-1].startswith("health_status"):
            said.append(listening.stdout.readline().strip())
    finally:
        listening.terminate()
        listening.communicate()
    of_probe = [action for action in said if "touch" not in action and action != "exec_die"]
    begun = "exec_start: /bin/sh -c test -e /good"
    assert of_probe[-3:] == ["exec_create: /bin/sh -c test -e /good", begun, "health_status: healthy"]
    last = len(said) - 1 - said[::-1].index(begun)
    assert "exec_die" in said[last:]


def test_a_probe_has_the_user_the_environment_and_the_directory_of_its_container(
    agent: AgentUnderTest,
) -> None:
    asked = 'echo "$(id -u) $(pwd) $V"; echo err >&2'
    run(agent, "web", "--health-cmd", asked, *OFTEN, "-u", "1000", "-w", "/tmp", "-e", "V=x y")
    output = until(agent, "web", "healthy")["Log"][-1]["Output"]
    assert sorted(output.splitlines()) == ["1000 /tmp x y", "err"]


def test_a_long_answer_is_cut(agent: AgentUnderTest) -> None:
    run(agent, "web", "--health-cmd", "yes | head -c 200000", *OFTEN)
    assert until(agent, "web", "healthy")["Log"][-1]["Output"] == "y\n" * 2048 + "..."


def test_a_probe_that_takes_too_long_is_killed_with_what_it_has_started(agent: AgentUnderTest) -> None:
    asked = "echo slow; sleep 1001 & sleep 1002"
    run(agent, "web", "--health-cmd", asked, *OFTEN, "--health-timeout", "300ms", "--health-retries", "1")
    until(agent, "web", "unhealthy")

    def tells_what_it_said() -> bool:
        # One whose shell had no processor within its time has said nothing.
        told = [(entry["ExitCode"], entry["Output"]) for entry in health(agent, "web")["Log"]]
        assert (-1, "Health check exceeded timeout (300ms): slow\n") in told, told
        return True

    eventually(tells_what_it_said)
    agent.docker("pause", "web")
    agent.docker("unpause", "web")

    def few() -> bool:
        return agent.docker("top", "web").stdout.count("sleep 1001") <= 1

    eventually(few)
    agent.docker("stop", "web")


def test_what_cannot_be_executed_is_a_failure(agent: AgentUnderTest) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "StopTimeout": 0}
    check = {"Test": ["CMD", "/no/such"], "Interval": 200_000_000, "Retries": 1}
    agent.api("POST", "/v1.47/containers/create?name=web", {**body, "Healthcheck": check})
    agent.docker("start", "web")
    entry = until(agent, "web", "unhealthy")["Log"][0]
    assert entry["ExitCode"] == -1
    assert "/no/such" in entry["Output"]


def test_failures_in_the_start_period_do_not_count(agent: AgentUnderTest) -> None:
    run(
        *(agent, "web", "--health-cmd", "test -e /good", "--health-interval", "200ms"),
        *("--health-start-period", "1h", "--health-start-interval", "100ms", "--health-retries", "1"),
    )
    eventually(lambda: len(health(agent, "web")["Log"]) == 5)
    assert (health(agent, "web")["Status"], health(agent, "web")["FailingStreak"]) == ("starting", 0)
    agent.docker("exec", "web", "touch", "/good")
    until(agent, "web", "healthy")
    agent.docker("exec", "web", "rm", "/good")
    until(agent, "web", "unhealthy")


def test_a_paused_container_is_not_asked(agent: AgentUnderTest) -> None:
    run(agent, "web", "--health-cmd", "cat /proc/uptime", *OFTEN)
    until(agent, "web", "healthy")
    agent.docker("pause", "web")
    before = health(agent, "web")["Log"]
    # As many others are asked meanwhile as it would have been.
    run(agent, "other", "--health-cmd", "true", *OFTEN)
    eventually(lambda: len(health(agent, "other")["Log"]) == 5)
    assert health(agent, "web")["Log"] == before
    agent.docker("unpause", "web")
    eventually(lambda: health(agent, "web")["Log"] != before)
    assert health(agent, "web")["Status"] == "healthy"


def test_an_image_has_a_check_that_is_laid_over_field_by_field(agent: AgentUnderTest, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM busybox\n"
        'SHELL ["/bin/sh", "-e", "-c"]\n'
        "HEALTHCHECK --interval=200ms --retries=7 CMD false; true\n"
        'CMD ["sleep", "600"]\n'
    )
    agent.docker("build", "-q", "-t", "asking", str(tmp_path), timeout=110)
    run(agent, "plain", image="asking")
    run(agent, "over", "--health-retries", "2", "--health-timeout", "5s", image="asking")
    run(agent, "none", "--no-healthcheck", image="asking")
    assert shown(agent, "over")["Config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "false; true"],
        "Interval": 200_000_000,
        "Timeout": 5_000_000_000,
        "Retries": 2,
    }
    until(agent, "over", "unhealthy")  # by the shell's -e
    assert shown(agent, "plain")["Config"]["Healthcheck"]["Retries"] == 7
    assert "Health" not in shown(agent, "none")["State"]
    assert shown(agent, "none")["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    assert listed(agent, "--filter", "health=none").startswith("none: ")


@pytest.mark.parametrize(
    ("check", "words"),
    [
        ({"Test": ["CMD", "x"], "Interval": 5}, "Healthcheck.Interval is 5"),
        ({"Test": ["CMD", "x"], "Timeout": -1}, "Healthcheck.Timeout is -1"),
        ({"Test": ["CMD", "x"], "StartPeriod": 999_999}, "Healthcheck.StartPeriod is 999999"),
        ({"Test": ["CMD", "x"], "StartInterval": "1s"}, 'Healthcheck.StartInterval is "1s"'),
        ({"Test": ["CMD", "x"], "Retries": -2}, "Healthcheck.Retries is -2"),
        ({"Test": ["ASK", "x"]}, 'Healthcheck.Test is ["ASK", "x"]'),
        ({"Test": ["CMD"]}, 'Healthcheck.Test is ["CMD"]'),
        ({"Tests": ["CMD"]}, "Healthcheck.Tests is not known"),
        ({"Interval": 1_000_000_000}, "has a healthcheck without a test"),
    ],
)
def test_what_means_nothing_is_refused_by_name(
    agent: AgentUnderTest, check: dict[str, Any], words: str
) -> None:
    body = {"Image": "busybox", "Cmd": ["true"], "Healthcheck": check}
    answer = agent.request("POST", "/v1.47/containers/create?name=web", body)
    assert answer.status == 400
    assert words in answer.json()["message"]


def test_a_filter_for_no_status_is_refused(agent: AgentUnderTest) -> None:
    done = agent.docker("ps", "--filter", "health=fine", check=False)
    assert "expected one of starting, healthy, unhealthy, none" in done.stderr
