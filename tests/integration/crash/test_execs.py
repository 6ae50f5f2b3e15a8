# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the keeper while it starts a command for `docker exec`: the client never takes it for done."""

from __future__ import annotations

import pytest

from harness.unix_http import Response

from .site import DOCKER, Site

pytestmark = pytest.mark.root

POINTS = ["keeper.exec-handed", "keeper.exec-pid", "keeper.exec-recorded", "keeper.executed"]


@pytest.mark.docker
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("command", ["true", "sleep 60"])
def test_what_is_cut_off_has_no_exit_code_of_success(site: Site, command: str, point: str) -> None:
    done: list[int] = []

    def execute(site: Site, name: str) -> Response:
        done.append(site.agent.docker("exec", name, *command.split(), check=False).returncode)
        return site.agent.request("GET", "/_ping")

    site.arm(point)
    answer = site.during(execute, "witness")
    site.reached()
    answer.result(60)
    site.revive()
    assert done[0] != 0
    site.check_witness()


@pytest.mark.parametrize("point", POINTS)
def test_a_detached_one_runs_or_says_that_it_does_not(site: Site, point: str) -> None:
    created = site.agent.api(
        "POST", f"{DOCKER}/containers/witness/exec", {"Cmd": ["sh", "-c", "usleep 500000; exit 9"]}
    )

    def start(site: Site, id: str) -> Response:
        return site.agent.request("POST", f"{DOCKER}/exec/{id}/start", {"Detach": True})

    site.arm(point)
    answer = site.during(start, created["Id"])
    site.reached()
    answered = answer.result(60)
    assert answered is not None
    found = site.agent.api("GET", f"{DOCKER}/exec/{created['Id']}/json")
    if answered.status == 200:
        assert found["Running"] or found["ExitCode"] == 9
    else:
        assert (answered.status, found["Running"], found["ExitCode"]) == (503, False, 255)
    site.revive()
    site.check_witness()
