# SPDX-License-Identifier: Apache-2.0
"""How shells are opened, and how they end."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest

from mooring_kernel.core.client import Client
from mooring_kernel.core.errors import ShellEnded, ShellUnusable
from mooring_kernel.core.shell import ShellSession
from unit.kernel.shell_bench import Open, Shell
from unit.kernel.stand_in import StandIn

# --- the end of the shell


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [("exit 4", 4), ("exec sh -c 'echo out; exit 7'", 7), ("set -e; (exit 3)", 3), ("kill -9 $$", 137)],
)
def test_a_shell_that_ends_is_an_error_now_and_later(shell: Shell, code: str, exit_code: int) -> None:
    with pytest.raises(ShellEnded) as caught:
        shell.run(code)
    assert caught.value.exit_code == exit_code
    assert str(caught.value) == (
        f"the shell in here/web1 ended with exit status {exit_code}; `%attach here/web1` opens a new one"
    )
    with pytest.raises(ShellEnded) as again:
        shell.run("echo more")
    assert str(again.value) == str(caught.value)


@pytest.mark.parametrize("pause", ["0.15", "0.2", "0.3", "0.35"])
def test_a_shell_that_ends_while_it_is_looked_at_says_nothing_else(shell: Shell, pause: str) -> None:
    with pytest.raises(ShellEnded, match="exit status 4"):
        shell.run(f"exec 2>/dev/null; sleep {pause}; exit 4")
    assert shell.display.shown == []


def test_set_e_without_a_failure_harms_nobody(shell: Shell) -> None:
    shell.run("false")
    shell.output("set -e; false || true")
    assert shell.output("if false; then :; fi; echo fine") == "fine\n"


def test_another_shell_in_the_place_of_ours_ends_it(shell: Shell) -> None:
    with pytest.raises(ShellUnusable, match="reads single keys"):
        shell.run("exec bash --norc")
    with pytest.raises(ShellEnded, match="`%attach here/web1` opens a new one"):
        shell.run("echo more")


def test_a_container_that_has_stopped_is_named(shell: Shell, agent: StandIn) -> None:
    agent.containers["web1"]["state"] = "exited"
    with pytest.raises(ShellEnded, match="the container web1 on here is exited and its shell with it"):
        shell.run("kill -9 $$")


def test_a_lost_connection_is_told_from_an_ended_shell(shell: Shell, agent: StandIn) -> None:
    threading.Timer(0.3, agent.close).start()
    with pytest.raises(ShellEnded, match="the connection to the shell in here/web1 is lost"):
        shell.run("sleep 20")


def test_closing_ends_the_shell(open_shell: Open, agent: StandIn) -> None:
    shell = open_shell()
    process = agent.execs[shell.session.exec_id].process
    shell.session.close()
    assert process.wait(5) == -signal.SIGKILL
    with pytest.raises(ShellEnded, match="was ended"):
        shell.run("echo more")


# --- opening


def test_without_a_wish_it_is_bash(client: Client) -> None:
    session = ShellSession.open(client, "web1")
    assert os.path.basename(session.shell) == "bash"
    session.close()


@pytest.mark.parametrize("path", ["/usr/bin/zsh", "fish", "/bin/tcsh"])
def test_shells_of_another_language_are_refused(client: Client, path: str) -> None:
    with pytest.raises(
        ShellUnusable, match="cannot be driven from a notebook: name bash, dash or busybox ash"
    ):
        ShellSession.open(client, "web1", shell=path)


def test_a_shell_that_is_not_there(client: Client) -> None:
    with pytest.raises(
        ShellUnusable, match=r"no shell could be started in web1: .*`--shell PATH` names another"
    ):
        ShellSession.open(client, "web1", shell="/nowhere/bash")


def test_a_shell_that_says_nothing_is_given_up(client: Client) -> None:
    with pytest.raises(ShellUnusable, match="no shell came up in web1 within"):
        ShellSession.open(client, "web1", shell="/bin/true", timeout=3)


def test_missing_programs_are_named(client: Client, agent: StandIn, shells: Path, tmp_path: Path) -> None:
    (tmp_path / "stty").symlink_to("/usr/bin/stty")
    agent.environment = lambda given: {**(given or {}), "PATH": str(tmp_path)}  # type: ignore[method-assign]
    with pytest.raises(ShellUnusable, match="web1 has no base64, which a notebook's shell needs"):
        ShellSession.open(client, "web1", shell=str(shells / "dash"))


def test_the_environment_asks_for_no_pager(client: Client) -> None:
    shell = Shell(ShellSession.open(client, "web1", env={"EXTRA": "1"}))
    assert shell.output("echo $TERM $PAGER $EXTRA") == "xterm-256color cat 1\n"
    shell.session.close()
