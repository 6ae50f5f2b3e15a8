# SPDX-License-Identifier: Apache-2.0
"""What cells say and leave behind in real shells on real ptys: bash, dash and busybox ash."""

from __future__ import annotations

import shlex
import time
from pathlib import Path

import pytest

from harness.waiting import PATIENCE, eventually, has_died
from mooring_kernel.core.errors import ShellUnusable
from mooring_kernel.core.output import CellOutput, Limits
from unit.kernel.recorder import Recorder
from unit.kernel.shell_bench import Shell

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


def test_output_comes_while_the_cell_runs(shell: Shell, tmp_path: Path) -> None:
    shown: list[str] = []

    def text(stream: str, text: str) -> None:
        shown.append(text)
        (tmp_path / "go").touch()

    display = Recorder()
    display.text = text  # type: ignore[method-assign]
    code = f"echo a; until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo b"
    shell.session.run(code, CellOutput(display), None)
    assert shown == ["a\n", "b\n"]


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


def test_jobs_in_the_background_speak_up_with_the_next_cell(shell: Shell, tmp_path: Path) -> None:
    job = f"until [ -e {tmp_path}/go ]; do sleep 0.05; done; echo from behind"
    shell.run(f"({job}) & echo $! >{tmp_path}/pid")
    assert "from behind" not in shell.display.stdout()
    (tmp_path / "go").touch()
    pid = int((tmp_path / "pid").read_text())
    eventually(lambda: has_died(pid), what="the end of the job")
    assert "from behind\n" in shell.output("echo front")
    assert shell.display.stdout().rstrip().splitlines()[-1] == "front" or "Done" in shell.display.stdout()
    assert shell.output("echo alone") == "alone\n"


def test_a_busy_job_in_the_background_neither_stops_nor_is_stopped(shell: Shell, tmp_path: Path) -> None:
    shell.run(
        f"(for i in 1 2 3 4 5 6 7 8; do head -c 300000 /dev/zero | tr '\\0' x; done; echo >{tmp_path}/done)&"
    )
    eventually((tmp_path / "done").exists, what="the end of the job")
    assert shell.run("echo front").status == 0
    assert "bytes that came between the cells are lost" in shell.display.stderr()
    assert "front\n" in shell.display.stdout()


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
    assert time.monotonic() - began < 8 * PATIENCE
    assert shell.output("echo fine") == "fine\n"
