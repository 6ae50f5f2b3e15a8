# SPDX-License-Identifier: Apache-2.0
"""The real docker client, and our own, at a terminal: -it, its size, its keys."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator

import pexpect
import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE as FACTOR
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker]

PATIENCE = 20.0 * FACTOR
Spawn = Callable[..., pexpect.spawn]


@pytest.fixture(params=["docker", "mooring"])
def spawn(agent: AgentUnderTest, request: pytest.FixtureRequest) -> Iterator[Spawn]:
    """Return a function that runs a client's command in a terminal of 33 rows and 99 columns."""
    running: list[pexpect.spawn] = []

    def start(*arguments: str) -> pexpect.spawn:
        if request.param == "docker":
            command, environment = agent.docker_command(*arguments), agent.docker_environment()
        else:
            command = [sys.executable, "-m", "mooring_agent", *arguments]
            environment = {**os.environ, "MOORING_SOCKET": str(agent.socket)}
        child = pexpect.spawn(
            command[0], command[1:], env=environment, timeout=PATIENCE, dimensions=(33, 99), encoding="utf-8"
        )
        running.append(child)
        return child

    yield start
    for child in running:
        child.close(force=True)
    left = agent.docker("ps", "-aq").stdout.split()
    if left:
        agent.docker("rm", "-f", *left)


def ends(child: pexpect.spawn) -> int:
    child.expect(pexpect.EOF)
    child.close()
    status: int = child.exitstatus
    return status


def has_size(shell: pexpect.spawn, size: str) -> None:
    """A client tells the size only once the container runs."""

    def told() -> bool:
        shell.sendline("stty size")
        return bool(shell.expect(["stty: .*\r", size]) == 1)

    shell.expect("# ")
    eventually(told, what=f"the terminal has {size}")
    shell.expect("# ")


def test_run_has_a_terminal_of_the_right_size_and_the_status_of_its_shell(spawn: Spawn) -> None:
    shell = spawn("run", "--rm", "-it", "busybox", "sh")
    has_size(shell, "33 99")
    shell.sendline("tty; echo $((6*7))")
    shell.expect("/dev/")
    shell.expect("42")
    shell.expect("# ")
    shell.sendline("exit 5")
    assert ends(shell) == 5


def test_the_terminal_follows_its_window(spawn: Spawn) -> None:
    shell = spawn("run", "--rm", "-it", "busybox", "sh")
    shell.expect("# ")

    def resized() -> bool:
        # A client that has only just started may miss the first change, or has told no size at all yet; one
        # that is quick tells what is between the two.
        shell.setwinsize(41, 121)
        shell.setwinsize(40, 120)
        shell.sendline("stty size")
        return shell.expect(["40 120", r"\d+ \d+\r", "stty: .*\r"]) == 0

    eventually(resized, what="the new size arrives")
    shell.sendline("exit")
    assert ends(shell) == 0


def test_keys_are_the_containers_own(spawn: Spawn) -> None:
    shell = spawn("run", "--rm", "-it", "busybox", "sh")
    shell.expect("# ")
    shell.sendline("sh -c 'trap \"echo caught; exit\" INT; echo ready; while :; do sleep 0.1; done'")
    shell.expect("ready\r")
    shell.sendcontrol("c")
    shell.expect("caught")
    shell.expect("# ")
    shell.sendcontrol("d")
    ends(shell)


def test_exec_has_a_terminal_of_its_own(agent: AgentUnderTest, spawn: Spawn) -> None:
    agent.docker("run", "-d", "--name", "long", "busybox", "sleep", "600")
    shell = spawn("exec", "-it", "long", "sh")
    has_size(shell, "33 99")
    shell.sendline("exit 3")
    assert ends(shell) == 3


def test_the_detach_keys_leave_it_running(agent: AgentUnderTest, spawn: Spawn) -> None:
    shell = spawn("run", "-it", "--name", "left", "busybox", "sh")
    shell.expect("# ")
    shell.sendcontrol("p")
    shell.sendcontrol("q")
    assert ends(shell) == 0
    assert agent.docker("inspect", "-f", "{{.State.Running}}", "left").stdout == "true\n"


def test_attach_comes_back_to_it(agent: AgentUnderTest, spawn: Spawn, request: pytest.FixtureRequest) -> None:
    agent.docker("run", "-dit", "--name", "back", "busybox", "sh")
    command = agent.docker_command("attach", "back")
    shell = pexpect.spawn(
        command[0], command[1:], env=agent.docker_environment(), timeout=PATIENCE, encoding="utf-8"
    )
    shell.sendline("echo $((6*7))")
    shell.expect("42")
    shell.sendline("exit 4")
    assert ends(shell) == 4
