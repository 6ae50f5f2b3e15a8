# SPDX-License-Identifier: Apache-2.0
"""The last steps before execve, each in a forked child: the program that is found, and what it is given."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from os import execve
from pathlib import Path
from typing import Any

import pytest

from harness.forked import Ended, in_child, run_child
from mooring_agent.runtime import process
from mooring_agent.runtime.plan import Capabilities, Process
from mooring_agent.runtime.process import CannotRun
from mooring_agent.runtime.users import Identity

ALL = (1 << 64) - 1
EVERY_CAPABILITY = Capabilities(bounding=ALL, effective=ALL, permitted=ALL)
SHELL = shutil.which("sh") or "/bin/sh"


def script(path: Path, text: str = "echo found $0 $*", mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{SHELL}\n{text}\n")
    path.chmod(mode)
    return path


def executed(args: tuple[str, ...], **environment: str) -> Ended:
    def work() -> None:
        try:
            process._execute(args, environment, execve)
        except CannotRun as error:
            os.write(1, f"{error.exit_code} {error}\n".encode())
            os._exit(error.exit_code)

    return run_child(work)


def test_a_path_is_run_as_it_is(tmp_path: Path) -> None:
    program = script(tmp_path / "here")
    assert executed((str(program), "a", "b")).output == f"found {program} a b\n"


def test_a_name_is_searched_in_order(tmp_path: Path) -> None:
    for number in (1, 2):
        script(tmp_path / str(number) / "tool")
    path = f"{tmp_path}/none:{tmp_path}/2:{tmp_path}/1"
    assert executed(("tool",), PATH=path).output == f"found {tmp_path}/2/tool\n"


def test_an_empty_part_of_the_path_is_the_working_directory(tmp_path: Path) -> None:
    script(tmp_path / "tool")

    def work() -> None:
        os.chdir(tmp_path)
        process._execute(("tool",), {"PATH": "/nowhere::/bin"}, execve)

    assert run_child(work).output == "found ./tool\n"


def test_what_may_not_be_run_is_passed_over(tmp_path: Path) -> None:
    """As execvp(3) does: /root/.local/bin in the PATH of an image must not keep its user from /bin/sh."""
    script(tmp_path / "1/tool", mode=0o644)
    (tmp_path / "2/tool").mkdir(parents=True)
    script(tmp_path / "3/tool")
    path = ":".join(f"{tmp_path}/{number}" for number in (1, 2, 3))
    assert executed(("tool",), PATH=path).output == f"found {tmp_path}/3/tool\n"


@pytest.mark.root
def test_a_closed_directory_in_the_path_is_passed_over(tmp_path: Path) -> None:
    script(tmp_path / "closed/tool")
    script(tmp_path / "open/tool")
    above = Path(tempfile.gettempdir())
    for directory in (tmp_path, *tmp_path.parents):
        if directory.is_relative_to(above) and directory != above:
            directory.chmod(0o755)
    (tmp_path / "closed").chmod(0o700)

    def work() -> None:
        os.setresuid(65534, 65534, 65534)
        process._execute(("tool",), {"PATH": f"{tmp_path}/closed:{tmp_path}/open"}, execve)

    assert run_child(work).output == f"found {tmp_path}/open/tool\n"


@pytest.mark.parametrize(
    ("argument", "path", "status", "words"),
    [
        ("tool", "/nowhere", 127, "exec: 'tool': executable file not found in $PATH"),
        ("tool", "", 127, "exec: 'tool': executable file not found in $PATH"),
        ("./tool", "/bin", 127, "exec: './tool': no such file or directory"),
        ("/no/such/tool", "/bin", 127, "exec: '/no/such/tool': no such file or directory"),
        ("{dir}/plain", "", 126, "exec: '{dir}/plain': permission denied"),
        ("plain", "{dir}", 126, "exec: 'plain': permission denied"),
        ("{dir}", "", 126, "exec: '{dir}': permission denied"),
        ("{dir}/noise", "", 126, "exec: '{dir}/noise': exec format error"),
        ("noise", "{dir}", 126, "exec: 'noise': exec format error"),
    ],
)
def test_why_nothing_runs_is_said_as_a_shell_would(
    tmp_path: Path, argument: str, path: str, status: int, words: str
) -> None:
    script(tmp_path / "plain", mode=0o644)
    (tmp_path / "noise").write_text("neither a script nor a program")
    (tmp_path / "noise").chmod(0o755)
    ended = executed((argument.format(dir=tmp_path),), PATH=path.format(dir=tmp_path))
    assert ended.status == status
    assert ended.output == f"{status} {words.format(dir=tmp_path)}\n"


def test_a_missing_interpreter_is_not_a_missing_command(tmp_path: Path) -> None:
    program = tmp_path / "tool"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    ended = executed((str(program),))
    assert ended.status == 127
    assert "no such file" in ended.output


def test_the_environment_is_what_was_said_and_a_home(tmp_path: Path) -> None:
    said = Process(args=(), env=("A=b=c", "EMPTY=", "NOTHING", "A=last"))
    found = process._environment(said, Identity(0, 0, (), "/home/web"))
    assert found == {"A": "last", "EMPTY": "", "HOME": "/home/web"}
    own = Process(args=(), env=("HOME=/elsewhere",))
    assert process._environment(own, Identity(0, 0, (), "/home/web")) == {"HOME": "/elsewhere"}


def test_only_the_standard_streams_and_the_channel_stay_open() -> None:
    def work() -> list[int]:
        keep = os.dup(1)
        for _ in range(5):
            os.dup(0)
        process._close_others((keep, -1), 3)
        return [number for number in range(1024) if _is_open(number)] + [keep]

    found = in_child(work)
    assert found[:-1] == [0, 1, 2, found[-1]]


def test_the_working_directory_must_be_below_the_root(tmp_path: Path) -> None:
    def work() -> str:
        place = tmp_path / "gone"
        place.mkdir()
        descriptor = os.open(place, os.O_RDONLY)
        place.rmdir()
        try:
            process._enter_working_directory(f"/proc/self/fd/{descriptor}")
        except CannotRun as error:
            return str(error)
        return "entered"

    assert "working directory /proc/self/fd/" in in_child(work)


@pytest.mark.parametrize("path", ["/proc/self/fd/{fd}", "/proc/self/fd/{fd}/below", "/proc/self/cwd/x"])
def test_no_working_directory_is_made_through_a_magic_link(tmp_path: Path, path: str) -> None:
    """CVE-2024-21626: a descriptor of the host's must not become the way out."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(CannotRun, match="working directory /proc/self"):
            process._make_working_directory(path.format(fd=descriptor))
    finally:
        os.close(descriptor)
    assert os.listdir(tmp_path) == []


@pytest.mark.root
def test_the_process_becomes_who_it_should_be() -> None:
    def work() -> None:
        process.become(
            Process(
                args=(
                    "sh",
                    "-c",
                    "id -u; id -g; pwd; umask; echo $HOME; ulimit -n; ls /proc/self/fd | wc -l",
                ),
                env=("PATH=/usr/bin:/bin",),
                cwd="/tmp",
                user="12345:54321",
                umask=0o27,
                rlimits=((7, 123, 200),),  # RLIMIT_NOFILE
            ),
            process.read_last_capability(),
            None,
            os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC),
        )

    lines = run_child(work).output.split()
    assert lines[:6] == ["12345", "54321", "/tmp", "0027", "/", "123"]
    assert int(lines[6]) == 4  # three streams, and what ls reads the directory with


@pytest.mark.root
def test_it_has_the_capabilities_of_the_plan_and_no_more() -> None:
    capabilities = Capabilities(bounding=0b100001, effective=0b1, permitted=0b1)

    def status(user: str) -> dict[str, str]:
        def work() -> None:
            plan = Process(
                args=("cat", "/proc/self/status"),
                env=("PATH=/usr/bin:/bin",),
                user=user,
                capabilities=capabilities,
                no_new_privileges=True,
            )
            process.become(plan, process.read_last_capability(), None, os.dup(0))

        lines = (line.split(":\t", 1) for line in run_child(work).output.splitlines() if ":\t" in line)
        return dict(lines)

    root = status("0")
    assert int(root["CapBnd"], 16) == 0b100001
    assert int(root["CapPrm"], 16) & ~0b100001 == 0
    assert root["NoNewPrivs"] == "1"
    assert int(root["CapInh"], 16) == int(root["CapAmb"], 16) == 0
    other = status("1000")
    assert [int(other[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")] == [0, 0, 0, 0]
    assert other["Groups"].split() == []


@pytest.mark.root
def test_signals_are_at_their_defaults_again() -> None:
    def work() -> None:
        ignored = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGPIPE)
        for number in (*ignored, signal.SIGCHLD):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR1})
        plan = Process(args=("cat", "/proc/self/status"), env=("PATH=/usr/bin:/bin",))
        process.become(plan, process.read_last_capability(), None, os.dup(0))

    fields = dict(line.split(":\t", 1) for line in run_child(work).output.splitlines() if ":\t" in line)
    assert {int(fields[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}


@pytest.mark.root
@pytest.mark.parametrize("user", ["ghost", "4294967295", "0:4294967295"])
def test_who_is_unknown_does_not_run_at_all(user: str) -> None:
    """4294967295 is setresuid(2)'s "leave it as it is": the process would stay root."""

    def work() -> Any:
        try:
            process.become(
                Process(args=("id", "-u"), env=("PATH=/usr/bin:/bin",), user=user),
                process.read_last_capability(),
                None,
                os.dup(0),
            )
        except CannotRun as error:
            return str(error)

    found = in_child(work)
    assert user.split(":")[-1] in found


def test_nothing_of_the_last_steps_loads_code_in_the_container() -> None:
    """CVE-2019-14271: what is imported after the root has changed would be the image's."""
    source = (
        "import builtins, os, sys\n"
        "from mooring_agent.runtime import process, launch, join\n"
        "from mooring_agent.runtime.plan import Process\n"
        "loaded = set(sys.modules)\n"
        "builtins.__import__ = lambda name, *rest: sys.exit(f'imports {name}')\n"
        "try:\n"
        "    process.become(Process(args=('/no/such',), env=('PATH=/bin', 'A=1')), 40, None, os.dup(0))\n"
        "except process.CannotRun as error:\n"
        "    os.write(1, f'{error} {sorted(set(sys.modules) - loaded)}'.encode())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=30
    )
    if os.geteuid() == 0:
        assert done.stdout == "exec: '/no/such': no such file or directory []", done.stderr
    assert "imports" not in done.stderr


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
