# SPDX-License-Identifier: Apache-2.0
"""What a launcher and the keeper say to each other before the execve."""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from harness.forked import fork, in_child
from mooring_agent.linux import syscalls
from mooring_agent.runtime import launch
from mooring_agent.runtime.join import parent_and_start_time, run_joiner, start_time
from mooring_agent.runtime.plan import JoinPlan, Process
from mooring_agent.runtime.process import CannotRun

Channel = tuple[socket.socket, socket.socket]


@pytest.fixture
def channel() -> Iterator[Channel]:
    """Return the keeper's end and the launcher's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(10)
        yield ours, theirs


def memory_file(content: bytes) -> int:
    descriptor = os.memfd_create("plan", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    return descriptor


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (CannotRun("exec: 'x': no such file", 127), 127, "exec: 'x': no such file"),
        (
            OSError(errno.EINVAL, "mount tmpfs on /x: Invalid argument"),
            125,
            "mount tmpfs on /x: Invalid argument",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "/a/b"), 125, "/a/b: No such file"),
        (ValueError("embedded null byte"), 125, "ValueError: embedded null byte"),
    ],
)
def test_a_failure_is_reported_in_words_for_people(
    channel: Channel, error: BaseException, status: int, words: str
) -> None:
    ours, theirs = channel
    assert launch.report(theirs, error) == status
    assert json.loads(ours.recv(1 << 16)) == {"error": words, "exit_code": status}


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "é" * 100_000, "\udc80" * 100_000, "\U0001f600" * 100_000, "\0" * 100_000]
)
def test_a_long_failure_fits_into_a_packet(channel: Channel, text: str) -> None:
    ours, theirs = channel
    launch.report(theirs, CannotRun(text))
    report = json.loads(ours.recv(64 << 10))
    assert text.startswith(report["error"])


def test_a_failure_that_nobody_hears_ends_all_the_same(channel: Channel) -> None:
    ours, theirs = channel
    ours.close()
    assert launch.report(theirs, CannotRun("x")) != 0


def test_a_plan_comes_with_its_streams(channel: Channel) -> None:
    ours, theirs = channel
    plan = memory_file(b"p" * 300_000)
    null = os.open("/dev/null", os.O_RDWR)
    socket.send_fds(ours, [b"plan"], [plan, null, null, null])
    before = len(os.listdir("/proc/self/fd"))
    raw, stdio = launch.receive_plan(theirs)
    assert raw == b"p" * 300_000
    assert [os.readlink(f"/proc/self/fd/{one}") for one in stdio] == ["/dev/null"] * 3
    assert len(os.listdir("/proc/self/fd")) == before + 3
    for descriptor in (plan, null, *stdio):
        os.close(descriptor)


def test_a_closed_channel_means_not_needed(channel: Channel) -> None:
    ours, theirs = channel
    ours.close()
    assert launch.receive_plan(theirs) == (b"", [])


@pytest.mark.parametrize("content", [b"", b"not json", b"{}", b"[]", b'{"process": 5}'])
def test_a_broken_plan_is_reported(channel: Channel, content: bytes) -> None:
    """Whatever goes wrong in a joiner, the keeper hears of it and the process ends."""
    ours, theirs = channel
    report, status = joined(ours, theirs, content)
    assert report["exit_code"] == status == 125
    assert report["error"]


@pytest.mark.parametrize("reaped", [True, False])
def test_a_container_that_has_gone_is_not_joined(channel: Channel, reaped: bool) -> None:
    ours, theirs = channel
    gone = fork()
    if gone == 0:
        os._exit(0)
    os.waitid(os.P_PID, gone, os.WEXITED | os.WNOWAIT)
    started = start_time(gone)
    if reaped:
        os.waitpid(gone, 0)
    plan = JoinPlan(gone, started, (), Process((), ()), namespaces=("net",))
    report, _ = joined(ours, theirs, plan.encode())
    assert report["error"] == f"process {gone} of the container has gone"
    if not reaped:
        os.waitpid(gone, 0)


def test_another_process_of_the_same_number_is_not_joined(channel: Channel) -> None:
    ours, theirs = channel
    plan = JoinPlan(os.getpid(), start_time(os.getpid()) + 1, (), Process((), ()))
    report, status = joined(ours, theirs, plan.encode())
    assert status == 125
    assert report["error"] == f"process {os.getpid()} of the container has gone"


def joined(ours: socket.socket, theirs: socket.socket, plan: bytes) -> tuple[dict[str, Any], int]:
    """What a joiner says to a plan, and its exit status."""
    pid = fork()
    if pid == 0:
        ours.close()
        run_joiner(theirs)
    theirs.close()
    file = memory_file(plan)
    socket.send_fds(ours, [b"plan"], [file])
    os.close(file)
    report = json.loads(ours.recv(1 << 16))
    return report, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_joiner_cannot_be_looked_into_before_it_joins(channel: Channel) -> None:
    """CVE-2019-5736: a process of the container must not reach the host's files through /proc/PID of it."""
    ours, theirs = channel

    def work() -> list[str]:
        # Without capabilities and as one user only dumpability decides, ptrace(2) "access mode checking".
        if os.geteuid() == 0:
            os.setresuid(65534, 65534, 65534)
            syscalls.prctl(syscalls.PR_SET_DUMPABLE, 1)
        plain = fork()
        if plain == 0:
            theirs.recv(1, socket.MSG_PEEK)
            os._exit(0)
        joiner = fork()
        if joiner == 0:
            ours.close()
            run_joiner(theirs)
        seen = [_looked(plain)]
        deadline = time.monotonic() + 5
        while _looked(joiner) == "seen" and time.monotonic() < deadline:
            time.sleep(0.005)  # it has been forked, but has not run yet
        seen.append(_looked(joiner))
        ours.send(b"")
        os.kill(joiner, 9)
        os.kill(plain, 9)
        for pid in (plain, joiner):
            os.waitpid(pid, 0)
        return seen

    assert in_child(work) == ["seen", "PermissionError"]


def _looked(pid: int) -> str:
    try:
        os.readlink(f"/proc/{pid}/exe")
    except OSError as error:
        return type(error).__name__
    return "seen"


def test_start_times_tell_processes_apart() -> None:
    parent, started = parent_and_start_time(os.getpid())
    assert parent == os.getppid()
    assert started == start_time(os.getpid())
    assert started >= start_time(parent)


@pytest.mark.parametrize("name", [b"a) S 1 2 (b", b"(((", b")", b"1 2 3"])
def test_a_command_name_with_brackets_is_no_trap(name: bytes) -> None:
    def work() -> list[int]:
        with open("/proc/self/comm", "wb") as file:
            file.write(name)
        return [*parent_and_start_time(os.getpid()), os.getppid()]

    parent, started, expected = in_child(work)
    assert parent == expected
    assert started >= start_time(os.getpid())
