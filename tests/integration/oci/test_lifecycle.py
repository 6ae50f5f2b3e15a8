# SPDX-License-Identifier: Apache-2.0
"""A container's life by the commands of `mooring oci`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.forked import in_child
from harness.host import need_programs
from harness.waiting import eventually
from mooring_agent.linux import syscalls
from mooring_agent.runtime.join import parent_and_start_time

from .conftest import Oci

pytestmark = pytest.mark.root


def test_a_container_is_created_started_killed_and_deleted(oci: Oci) -> None:
    id = oci.id()
    bundle = oci.bundle("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
    oci.quiet("create", "--bundle", bundle, id)
    created = oci.state(id)
    assert (created["status"], created["bundle"], created["ociVersion"]) == ("created", bundle, "1.2.0")
    assert Path(f"/proc/{created['pid']}").exists()
    oci.ok("start", id)
    assert oci.state(id)["status"] == "running"
    eventually(lambda: _catches(created["pid"], signal.SIGTERM), what="the shell has set its trap")
    oci.ok("kill", id, "TERM")
    oci.await_status(id, "stopped")
    assert "does not run" in oci("kill", id).stderr
    oci.ok("delete", id)
    assert "does not exist" in oci("state", id).stderr
    assert oci.remains() == []


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal, proc_pid_status(5)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (caught,) = (line.split()[1] for line in lines if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_run_answers_with_what_the_process_printed_and_its_status(oci: Oci) -> None:
    answer = oci("run", "-b", oci.bundle("sh", "-c", "echo out; echo err >&2; exit 7"), oci.id())
    assert (answer.returncode, answer.stdout, answer.stderr) == (7, "out\n", "err\n")
    assert oci.remains() == []


def test_a_killed_process_answers_with_its_signal(oci: Oci) -> None:
    answer = oci("run", "-b", oci.bundle("sh", "-c", "sh -c 'kill -9 $$'; exit $?"), oci.id())
    assert answer.returncode == 137


def test_a_command_that_is_not_there_is_the_creation_s_error_and_leaves_nothing(oci: Oci) -> None:
    answer = oci("create", "-b", oci.bundle("no-such-command"), oci.id())
    assert answer.returncode == 127
    assert "executable file not found in $PATH" in answer.stderr
    assert oci.remains() == []


def test_an_error_stands_in_the_log_as_json_too(oci: Oci, tmp_path: Path) -> None:
    log = tmp_path / "log"
    answer = oci("--log", str(log), "--log-format", "json", "state", oci.id("absent"))
    assert answer.returncode == 1
    line = json.loads(log.read_text())
    assert line["level"] == "error"
    assert "does not exist" in line["msg"]


def test_a_name_is_given_once_and_the_first_lives_on(oci: Oci) -> None:
    id, bundle = oci.id(), oci.bundle("sleep", "100")
    oci.quiet("run", "-d", "-b", bundle, id)
    assert "already exists" in oci("run", "-d", "-b", bundle, id).stderr
    assert oci.state(id)["status"] == "running"
    assert "kill it first" in oci("delete", id).stderr
    assert json.loads(oci.ok("list", "--format", "json"))[0]["id"] == id


def test_processes_are_listed_paused_resumed_and_killed_together(oci: Oci) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sh", "-c", "sleep 100 & sleep 100"), id)
    pids = json.loads(oci.ok("ps", "--format", "json", id))
    assert oci.state(id)["pid"] in pids
    oci.ok("pause", id)
    assert oci.state(id)["status"] == "paused"
    oci.ok("resume", id)
    assert oci.state(id)["status"] == "running"
    oci.ok("kill", "--all", id, "KILL")
    oci.await_status(id, "stopped")


def test_a_frozen_container_can_be_deleted_by_force(oci: Oci) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), id)
    oci.ok("pause", id)
    oci.ok("delete", "--force", id)
    assert oci.remains() == []


def test_limits_are_applied_and_changed(oci: Oci) -> None:
    id = oci.id()

    def limited(config: dict[str, Any]) -> None:
        config["linux"]["resources"].update(pids={"limit": 20}, memory={"limit": 64 << 20})

    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100", change=limited), id)
    groups = Path(f"/proc/{oci.state(id)['pid']}/cgroup").read_text()
    assert f"mooring-oci-{id}" in groups
    # Groups of other tests go meanwhile, which os.walk passes over and Path.glob does not.
    found = (Path(place, "pids.max") for place, _, files in os.walk("/sys/fs/cgroup") if "pids.max" in files)
    limit = next(path for path in found if path.parent.name == f"mooring-oci-{id}")
    assert limit.read_text() == "20\n"
    oci.ok("update", "--pids-limit", "30", id)
    assert limit.read_text() == "30\n"
    stats = json.loads(oci.ok("events", "--stats", id))
    assert stats["data"]["pids"]["current"] == 1


def test_the_first_process_is_its_caller_s_child_once_the_command_has_ended(oci: Oci) -> None:
    bundle = oci.bundle("true")

    def child() -> Any:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        oci.quiet("create", "-b", bundle, "--pid-file", str(oci.base / "pid"), oci.id())
        pid = int((oci.base / "pid").read_text())
        parent = parent_and_start_time(pid)[0]
        oci.ok("start", oci.id())
        return [parent == os.getpid(), os.waitpid(pid, 0)[1]]

    assert in_child(child) == [True, 0]


def test_a_terminal_s_master_goes_to_the_console_socket(oci: Oci, tmp_path: Path) -> None:
    id = oci.id()

    def with_terminal(config: dict[str, Any]) -> None:
        config["process"]["terminal"] = True

    bundle = oci.bundle(
        "sh", "-c", "read line; echo got $line; tty; stat -c %t:%T /dev/console", change=with_terminal
    )
    assert "--console-socket" in oci("create", "-b", bundle, id).stderr
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        oci.quiet("create", "-b", bundle, "--console-socket", str(tmp_path / "console"), id)
        connection, _ = listener.accept()
        with connection:
            _, (master,), _, _ = socket.recv_fds(connection, 64, 1)
    oci.ok("start", id)
    os.write(master, b"hello\n")
    oci.await_status(id, "stopped")
    said = ""
    while "/dev/pts/0" not in said:  # it comes in pieces; at its end this is an error
        said += os.read(master, 4096).decode()
    os.close(master)
    assert "got hello" in said
    assert "/dev/pts/0" in said


def _run_with_descriptor(oci: Oci, file: str, *words: str) -> list[str]:
    """What a command prints that has `file` open as descriptor 3."""
    shell = ["sh", "-c", f'exec "$@" 3<{file}', "sh", *oci.command(*words)]
    return subprocess.run(shell, check=True, capture_output=True, text=True, timeout=60).stdout.split()


def test_only_descriptors_that_are_asked_for_get_in(oci: Oci, tmp_path: Path) -> None:
    bundle = oci.bundle("sh", "-c", "ls /proc/$$/fd; cat <&3 || true")
    (tmp_path / "given").write_text("from outside\n")
    with (tmp_path / "given").open() as file:
        given = f"/proc/{os.getpid()}/fd/{file.fileno()}"
        without = _run_with_descriptor(oci, given, "run", "-b", bundle, oci.id("a"))
        with_one = _run_with_descriptor(oci, given, "run", "--preserve-fds", "1", "-b", bundle, oci.id("b"))
    assert [word for word in without if word.isdigit()] == ["0", "1", "2"]
    assert with_one == ["0", "1", "2", "3", "from", "outside"]


def test_a_root_may_be_entered_without_pivot_root(oci: Oci) -> None:
    bundle = oci.bundle("sh", "-c", "cat /etc/motd; ls /")
    said = oci.ok("run", "--no-pivot", "-b", bundle, oci.id())
    assert said.startswith("a root file system of Mooring's tests\n")
    assert "sys" in said


def test_what_this_runtime_cannot_do_is_said(oci: Oci, tmp_path: Path) -> None:
    assert "systemd" in oci("--systemd-cgroup", "create", "-b", oci.bundle("true"), oci.id()).stderr
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), oci.id())
    assert "criu" in oci("checkpoint", oci.id()).stderr
    assert "unknown option --nonsense" in oci("state", "--nonsense", oci.id()).stderr
    features = json.loads(oci.ok("features"))
    assert "tmpcopyup" in features["mountOptions"]
    assert "time" in features["linux"]["namespaces"]


def test_the_executable_of_its_own_is_the_same() -> None:
    program = str(Path(sys.executable).parent / "mooring-oci")
    need_programs(program)
    answer = subprocess.run([program, "--version"], check=True, capture_output=True, text=True)
    assert answer.stdout.startswith("mooring-oci version ")
    assert "spec: 1.2.0" in answer.stdout
