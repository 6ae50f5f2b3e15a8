# SPDX-License-Identifier: Apache-2.0
"""Following what a container writes, through the real docker client: nothing is lost, however slowly
it is taken.
"""

from __future__ import annotations

import subprocess

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker]

MEGABYTES = 120  # more than twice what the log keeps


def test_a_slow_client_gets_every_byte(agent: AgentUnderTest) -> None:
    command = agent.docker_command(
        "run", "--rm", "busybox", "sh", "-c", f"dd if=/dev/zero bs=1M count={MEGABYTES} 2>/dev/null"
    )
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=agent.docker_environment()) as client:
        assert client.stdout is not None
        taken = len(client.stdout.read(1))
        # Meanwhile the container writes to its end, and the log is rotated several times.
        eventually(lambda: not agent.api("GET", "/mooring/v1/host")["containers"]["running"], 60)
        while piece := client.stdout.read(1 << 20):
            taken += len(piece)
        assert client.wait(30) == 0
    assert taken == MEGABYTES << 20


def test_input_reaches_a_container_and_its_output_comes_back(agent: AgentUnderTest) -> None:
    assert agent.docker("run", "--rm", "-i", "busybox", "cat", stdin="x\n").stdout == "x\n"
