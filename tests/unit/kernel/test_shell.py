# SPDX-License-Identifier: Apache-2.0
"""Cells in real shells on real ptys: bash, dash and busybox ash."""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mooring_kernel.core.cell import Ask, CellResult, Timing
from mooring_kernel.core.client import Client
from mooring_kernel.core.errors import ProgramStopped, ShellEnded, ShellUnusable
from mooring_kernel.core.output import CellOutput, Limits
from mooring_kernel.core.shell import ShellSession
from unit.kernel.recorder import Recorder
from unit.kernel.stand_in import StandIn

# Short, since each case is waited for.
TIMING = Timing(interrupt_patience=0.6, stop_patience=0.5)
SHELLS = ("bash", "dash", "ash")


class Shell:
    """A session with what its last cell has shown."""

    def __init__(self, session: ShellSession) -> None:
        self.session = session
        self.display = Recorder()

    def run(self, code: str, ask: Ask | None = None, limits: Limits | None = None) -> CellResult:
        self.display = Recorder()
        return self.session.run(code, CellOutput(self.display, limits), ask)

    def output(self, code: str) -> str:
        """Run a cell that must succeed, and return its output."""
        assert self.run(code) == CellResult(0, False), self.display.shown
        return self.display.stdout()

    def interrupted_after(self, seconds: float, code: str) -> CellResult:
        timer = threading.Timer(seconds, self.session.interrupt)
        timer.start()
        try:
            return self.run(code)
        finally:
            timer.cancel()
            timer.join()


Open = Callable[[], Shell]


@pytest.fixture(params=SHELLS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_shell(client: Client, shells: Path, name: str) -> Iterator[Open]:
    sessions = []

    def open_one() -> Shell:
        session = ShellSession.open(client, "web1", shell=str(shells / name), timing=TIMING)
        sessions.append(session)
        return Shell(session)

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def shell(open_shell: Open) -> Shell:
    return open_shell()


def answering(*lines: str | None) -> tuple[Ask, list[bool]]:
    """An `ask` that gives these lines (None: end of input), and a list of what it was asked."""
    asked: list[bool] = []
    pending = list(lines)

    def ask(*, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        asked.append(password)
        assert still_wanted()
        line = pending.pop(0)
        if line is None:
            raise EOFError
        return line

    return ask, asked


# --- what a cell says and leaves


def test_output_and_exit_status(shell: Shell) -> None:
    assert shell.output("echo hello; echo oops >&2") == "hello\noops\n"
    assert shell.run("false").status == 1
    assert shell.run("(exit 42)").status == 42
    assert shell.run("sh -c 'kill -9 $$'").status == 137
    assert shell.run("nosuchcommand").status == 127


def test_the_last_status_is_known_to_the_next_cell(shell: Shell) -> None:
    shell.run("(exit 9)")
    assert shell.output("echo $?") == "9\n"
    shell.run('echo "')
    assert shell.output("echo $?") == "2\n"


def test_variables_functions_and_directory_stay(shell: Shell, tmp_path: Path) -> None:
    shell.output(f"x='a  b'; f() {{ echo \"<$1>\"; }}; cd '{tmp_path}'; umask 077")
    assert shell.output('f "$x"; pwd; umask') == f"<a  b>\n{tmp_path}\n0077\n"
    assert shell.session.directory == str(tmp_path)


@pytest.mark.parametrize("directory", ["a b;c", "ünï", "-n", "it's", '"', "$x`y`"])
def test_the_directory_is_known_whatever_its_name(shell: Shell, tmp_path: Path, directory: str) -> None:
    path = tmp_path / directory
    path.mkdir()
    shell.output(f"cd {shlex.quote(str(path))}")
    assert shell.session.directory == str(path)


def test_a_directory_with_a_control_character_is_not_told(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "a\x07b").mkdir()
    assert shell.output(f"cd {tmp_path}/a?b; echo ok") == "ok\n"
    assert shell.session.directory is None
    assert shell.output("cd ..; echo ok") == "ok\n"


@pytest.mark.parametrize(
    "code", ['echo "a', "echo 'a", "echo $(", "if true; then", "for i in", ")", "echo `a", "a() {"]
)
def test_a_syntax_error_is_a_status_and_the_shell_goes_on(shell: Shell, code: str) -> None:
    assert shell.run(code).status in (1, 2)
    assert shell.display.stdout() != ""
    assert shell.run(code).status in (1, 2)
    assert shell.output("echo fine") == "fine\n"


def test_what_comes_before_a_syntax_error_is_run(shell: Shell) -> None:
    assert shell.run("echo first\necho 'second").status == 2
    assert shell.display.stdout().startswith("first\n")


def test_cells_of_several_lines(shell: Shell) -> None:
    code = 'for i in 1 2; do\n\techo "line $i"\ndone\n\n# a comment\ncase a in\na) echo A;;\nesac\n'
    assert shell.output(code) == "line 1\nline 2\nA\n"


def test_here_documents(shell: Shell) -> None:
    assert shell.output("x=1\ncat <<E\na $x\n\tb\nE\ncat <<'E'\n$x\nE") == "a 1\n\tb\n$x\n"
    assert shell.output("cat <<-E\n\ta\n\tE\necho end") == "a\nend\n"


def test_nothing_in_a_cell_is_special_on_the_way(shell: Shell) -> None:
    code = (
        "printf '%s' '\\033]133;D;0 "
        "\x1b]133;D;0;x\x07 \x03\x04\x11\x13\x15\x16\x17\x1a\x1c ! !! ~ \\n EOF _E_'"
    )
    assert "\\033]133;D;0 " in shell.output(code)
    assert shell.output("cat <<'_E_'\n)\"; exit 1\n_E_") == ')"; exit 1\n'


@pytest.mark.parametrize("size", [4095, 4096, 200_000, 1_000_000])
def test_large_cells(shell: Shell, size: int) -> None:
    assert shell.output(f"x='{'y' * size}'; echo ${{#x}}") == f"{size}\n"


def test_a_large_cell_of_many_lines(shell: Shell) -> None:
    code = "\n".join(f"x{number}={'z' * 30}" for number in range(5000)) + "\necho $x4999"
    assert len(code) > 180_000
    assert shell.output(code) == "z" * 30 + "\n"


def test_cells_that_no_shell_can_take(shell: Shell) -> None:
    with pytest.raises(ShellUnusable, match="holds a NUL"):
        shell.run("echo \0")
    with pytest.raises(ShellUnusable, match="expected 4194304 at most"):
        shell.run("x" * (4 << 20) + "x")
    assert shell.output("echo fine") == "fine\n"


def test_text_of_the_world(shell: Shell) -> None:
    assert shell.output("echo 'grüße 日本 😀 \u202e'") == "grüße 日本 😀 \u202e\n"


def test_binary_output(shell: Shell) -> None:
    shell.output("head -c 20000 /dev/urandom; echo; head -c 3000 /bin/busybox")
    assert shell.output("echo fine") == "fine\n"


def test_marks_of_others_do_not_end_a_cell(shell: Shell) -> None:
    assert (
        shell.output("printf '\\033]133;D;0\\007\\033]133;D;5;feed;/x\\007'; sleep 0.1; echo rest")
        == "rest\n"
    )


def test_output_comes_while_the_cell_runs(shell: Shell) -> None:
    times: list[float] = []
    display = Recorder()
    display.text = lambda stream, text: times.append(time.monotonic())  # type: ignore[method-assign]
    shell.session.run("echo a; sleep 0.6; echo b", CellOutput(display), None)
    assert len(times) == 2
    assert times[1] - times[0] > 0.4


def test_options_of_the_shell_do_not_show_what_drives_it(shell: Shell) -> None:
    shell.output("set -x")
    output = shell.output("echo traced")
    assert output in ("+ echo traced\ntraced\n", "++ echo traced\ntraced\n")
    shell.run("set +x; set -v")
    assert shell.output("echo verbose") in ("verbose\n", "echo verbose\nverbose\n")
    assert "v" in shell.output("echo $-").splitlines()[-1]
    shell.run("set +v; set -u; set -a; set -f; IFS=ab")
    assert shell.output("echo fine") == "fine\n"


def test_a_cell_cannot_lose_the_shell_by_changing_what_shells_have(shell: Shell) -> None:
    shell.output("PS1='> '; PS2='? '; unset PROMPT_COMMAND; PATH=/nowhere; alias eval=false printf=false")
    assert shell.output("echo one") == "one\n"
    shell.output("exec 8>&1 >/dev/null 2>&1")
    assert shell.output("echo hidden") == ""
    shell.output("exec >&8 2>&1")
    assert shell.output("echo two") == "two\n"


def test_a_terminal_in_disorder_is_put_in_order(shell: Shell) -> None:
    shell.output("stty raw -echo -onlcr; printf '\\033[31m'")
    assert shell.output("stty -a | grep -o -- '-*icanon'; echo a; echo b") == "icanon\na\nb\n"


def test_clear_clears(shell: Shell) -> None:
    shell.run("echo old; printf '\\033[H\\033[J'; echo new")
    assert shell.display.shown == [("clear", "wait"), ("stdout", "new\n")]


# --- the background


def test_jobs_in_the_background_speak_up_with_the_next_cell(shell: Shell) -> None:
    shell.run("(sleep 0.3; echo from behind) &")
    assert "from behind" not in shell.display.stdout()
    time.sleep(0.5)
    assert "from behind\n" in shell.output("echo front")
    assert shell.display.stdout().rstrip().splitlines()[-1] == "front" or "Done" in shell.display.stdout()
    assert shell.output("echo alone") == "alone\n"


def test_a_busy_job_in_the_background_neither_stops_nor_is_stopped(shell: Shell, tmp_path: Path) -> None:
    shell.run(
        f"(for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/zero | tr '\\0' x; done; echo >{tmp_path}/done)&"
    )
    deadline = time.monotonic() + 10
    while not (tmp_path / "done").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert shell.run("echo front").status == 0
    assert "bytes that came between the cells are lost" in shell.display.stderr()
    assert "front\n" in shell.display.stdout()


# --- interrupts


def test_an_interrupt_ends_the_program_and_keeps_the_shell(shell: Shell) -> None:
    shell.output("x=kept")
    began = time.monotonic()
    result = shell.interrupted_after(0.3, "echo begun; sleep 30; echo not reached")
    assert (result.status, result.interrupted) == (130, True)
    assert time.monotonic() - began < 5
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
    result = shell.interrupted_after(0.3, "sh -c 'trap \"\" INT; sleep 30; :'")
    assert (result.status, result.interrupted) == (143, True)
    assert "has ignored INT: sending TERM" in shell.display.stderr()
    assert shell.output("echo fine") == "fine\n"


def test_a_program_that_ignores_everything_is_killed(shell: Shell) -> None:
    result = shell.interrupted_after(0.3, "sh -c 'trap \"\" INT TERM; while :; do sleep 0.1; done'")
    assert (result.status, result.interrupted) == (137, True)
    assert "has ignored TERM: sending KILL" in shell.display.stderr()
    assert shell.output("echo fine") == "fine\n"


def test_the_shell_itself_is_never_killed(shell: Shell) -> None:
    began = time.monotonic()
    done = threading.Timer(2.5, lambda: open(f"{shell.session.directory}/go", "w").close())
    done.start()
    result = shell.interrupted_after(
        0.2, "trap '' INT; while ! [ -e go ]; do :; done; trap - INT; echo survived"
    )
    assert time.monotonic() - began > 2
    assert (result.status, shell.display.stdout()) == (0, "survived\n")
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
    def ask(*, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        deadline = time.monotonic() + 10
        while still_wanted():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return None

    timer = threading.Timer(0.8, shell.session.interrupt)
    timer.start()
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


# --- floods


def test_a_flood_is_cut_off_and_kept_in_a_file(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    limits = Limits(shown_bytes=100_000)
    assert shell.run(f"yes {'0123456789' * 9} | head -c 5000000; echo the end", limits=limits).status == 0
    assert 100_000 < len(shell.display.stdout()) < 110_000
    assert shell.display.stdout().endswith("the end\n")
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 5_000_000 + len("the end\n") - 100_000
    assert len(shell.display.shown) < 60
    assert shell.output("echo fine") == "fine\n"


def test_a_flood_without_end_can_be_interrupted(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    began = time.monotonic()
    assert shell.interrupted_after(0.5, "yes").interrupted
    assert time.monotonic() - began < 8
    assert shell.output("echo fine") == "fine\n"


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
