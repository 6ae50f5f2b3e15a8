# SPDX-License-Identifier: Apache-2.0
"""Programs in cells that are interrupted, that ask for input, or that want more than a cell has."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from harness.waiting import PATIENCE
from mooring_kernel.core.errors import ProgramStopped
from unit.kernel.shell_bench import Shell, answering

# --- interrupts


def test_an_interrupt_ends_the_program_and_keeps_the_shell(shell: Shell) -> None:
    shell.output("x=kept")
    began = time.monotonic()
    result = shell.interrupted_after(0.3, "echo begun; sleep 30; echo not reached")
    assert (result.status, result.interrupted) == (130, True)
    assert time.monotonic() - began < 5 * PATIENCE
    assert shell.display.stdout().strip() == "begun"
    assert shell.output("echo $x") == "kept\n"


@pytest.mark.parametrize(
    "code",
    ["while :; do :; done", "x=$(sleep 30)", "sleep 30 | cat", "(sleep 30)", "sleep 30 & wait"],
)
def test_interrupts_reach_loops_pipes_and_subshells(shell: Shell, code: str) -> None:
    assert shell.interrupted_after(0.3, code).interrupted
    shell.run("kill $! 2>/dev/null; wait")
    assert "fine\n" in shell.output("echo fine")


def test_a_program_that_ignores_the_interrupt_is_terminated(shell: Shell) -> None:
    result = shell.interrupted_after(0.3, "sh -c 'trap \"\" INT; echo begun; sleep 30; :'")
    assert (result.status, result.interrupted) == (143, True)
    assert "has ignored INT: sending TERM" in shell.display.stderr()
    assert shell.output("echo fine") == "fine\n"


def test_a_program_that_ignores_everything_is_killed(shell: Shell) -> None:
    stubborn = "sh -c 'trap \"\" INT TERM; echo begun; while :; do sleep 0.1; done'"
    result = shell.interrupted_after(0.3, stubborn)
    assert (result.status, result.interrupted) == (137, True)
    assert "has ignored TERM: sending KILL" in shell.display.stderr()
    assert shell.output("echo fine") == "fine\n"


def test_the_shell_itself_is_never_killed(shell: Shell) -> None:
    began = time.monotonic()
    done = threading.Timer(2.5 * PATIENCE, lambda: open(f"{shell.session.directory}/go", "w").close())
    done.start()
    result = shell.interrupted_after(
        0.2, "trap '' INT; echo begun; while ! [ -e go ]; do :; done; trap - INT; echo survived"
    )
    assert time.monotonic() - began > 2
    assert (result.status, shell.display.stdout()) == (0, "begun\nsurvived\n")
    assert "the shell itself goes on in spite of the interrupt" in shell.display.stderr()
    assert shell.output("echo fine") == "fine\n"
    done.join()


def test_an_interrupt_while_nothing_runs_does_nothing(shell: Shell) -> None:
    assert not shell.session.interrupt()
    assert shell.output("echo fine") == "fine\n"


# --- input


def test_a_program_that_reads_gets_what_the_user_types(shell: Shell) -> None:
    ask, asked = answering("Jörg Müller", "second")
    result = shell.run("printf 'name? '; read name; echo \"<$name>\"; head -n 1", ask)
    assert (result.status, asked) == (0, [False, False])
    assert shell.display.stdout() == "name? <Jörg Müller>\nsecond\n"


def test_a_password_is_asked_for_as_one(shell: Shell) -> None:
    ask, asked = answering("geheim")
    result = shell.run("stty -echo; read secret; stty echo; echo ${#secret}", ask)
    assert (result.status, asked, shell.display.stdout()) == (0, [True], "6\n")


def test_the_end_of_the_input_can_be_typed(shell: Shell) -> None:
    ask, _ = answering("one", "two", None)
    assert shell.run("cat | tr a-z A-Z; cat >/dev/null </dev/null", ask).status == 0
    assert shell.display.stdout() == "ONE\nTWO\n"


def test_without_a_user_a_program_that_reads_is_stopped(shell: Shell) -> None:
    for code, name in (("cat", "`cat`"), ("read x", "a builtin of the shell")):
        with pytest.raises(ProgramStopped) as caught:
            shell.run(code)
        assert str(caught.value).startswith(name)
        assert "waits for input, which this run of the notebook does not allow" in str(caught.value)
    assert shell.output("echo fine") == "fine\n"


def test_a_question_that_is_not_wanted_any_more_is_given_up(shell: Shell) -> None:
    interrupts = [threading.Timer(0.3, shell.session.interrupt)]

    def ask(*, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        while interrupts:
            interrupts.pop().start()
        deadline = time.monotonic() + 10 * PATIENCE
        while still_wanted():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return None

    assert shell.run("cat", ask).interrupted
    assert shell.run("timeout 1 cat; echo after", ask).status == 0
    assert shell.display.stdout().endswith("after\n")


def test_a_line_longer_than_a_terminal_takes_is_refused(shell: Shell) -> None:
    ask, _ = answering("x" * 5000)
    with pytest.raises(ProgramStopped, match="5000 bytes as a line of input, and a terminal takes 4095"):
        shell.run("cat", ask)
    assert shell.output("echo fine") == "fine\n"


def test_a_full_screen_program_is_stopped(shell: Shell) -> None:
    with pytest.raises(ProgramStopped, match="uses the whole screen"):
        shell.run("printf '\\033[?1049h'; sleep 30")
    assert shell.output("echo fine") == "fine\n"


def test_a_program_that_reads_single_keys_is_stopped(shell: Shell) -> None:
    with pytest.raises(ProgramStopped, match="`head` reads single keys from the terminal"):
        shell.run("stty -icanon; head -c 1")
    assert shell.output("echo fine") == "fine\n"
