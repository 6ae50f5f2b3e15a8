# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of the keeper in the midst of a start when its guardian has been killed before."""

from __future__ import annotations

import os
import signal

import pytest

from harness.unix_http import Response
from harness.waiting import eventually

from .site import Site, spec

pytestmark = pytest.mark.root


@pytest.mark.parametrize("point", ["keeper.recorded", "keeper.handed"])
def test_what_a_launcher_ends_with_is_not_told_of_its_container(site: Site, point: str) -> None:
    def declare(site: Site, name: str) -> Response:
        return site.agent.request("PUT", f"/mooring/v1/containers/{name}", spec("exit 7"))

    guardian = site.agent.api("GET", "/mooring/v1/host")["keeper"]["guardian_pid"]
    if guardian is not None:
        os.kill(guardian, signal.SIGKILL)
    site.arm(point)
    answer = site.during(declare, "orphan")
    site.reached()
    answer.result(60)
    site.revive()
    found = eventually(lambda: (view := site.view("orphan"))["state"] == "exited" and view, 30)
    assert (found["exit_code"], found["exit_known"]) in [(7, True), (255, False)]
    site.check_witness()
    site.agent.api("DELETE", "/mooring/v1/containers/orphan")
