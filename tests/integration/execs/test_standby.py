# SPDX-License-Identifier: Apache-2.0
"""The joiner that stands by in a container after two execs alike: it becomes the third, or harms nobody."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

from .shells import run, view

# On cgroup v2 a process cannot be moved at little cost, so that none stands by.
pytestmark = [pytest.mark.root, pytest.mark.kernel("cgroup_v1")]

LEAVES_WITHIN = 20.0
PF_EXITING = 0x4  # one that ends is in no group of cgroup v1 any more


def joiners(agent: AgentUnderTest, name: str) -> list[int]:
    """The joiners that wait in the namespaces of a container; one that has got its command is in its groups
    too.
    """
    found = view(agent, name)
    return joiners_beside(agent, found["pid"], outside=found["id"])


def in_pool(agent: AgentUnderTest) -> list[int]:
    """The joiners of the keeper that wait for any container."""
    return joiners_beside(agent, os.getpid())


def joiners_beside(agent: AgentUnderTest, pid: int, outside: str | None = None) -> list[int]:
    """The keeper's joiners in the mount namespace of a process that are not about to end, but for those of a
    group. Other agents of this host have theirs in the same namespace.
    """
    namespace = os.readlink(f"/proc/{pid}/ns/mnt")
    keeper = str(agent.keeper_pids()[0])
    waiting = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            status = (process / "stat").read_text().split()
            if (
                status[1] == "(mooring-join)"
                and status[3] == keeper
                and not int(status[8]) & PF_EXITING
                and os.readlink(process / "ns/mnt") == namespace
                and (outside is None or outside not in (process / "cgroup").read_text())
            ):
                waiting.append(int(process.name))
        except OSError:
            continue  # it has ended
    return waiting


def standing_by(
    agent: AgentUnderTest, name: str, killed: Collection[int] = frozenset(), **options: Any
) -> int:
    """Run two commands alike; the joiner that then waits for a third. One that stood by for commands of
    another kind, or was `killed`, may still be about to end.
    """
    for _ in range(2):
        assert run(agent, name, "true", **options)["exit_code"] == 0

    def only() -> list[int]:
        waiting = [pid for pid in joiners(agent, name) if pid not in killed]
        return waiting if len(waiting) == 1 else []

    (pid,) = eventually(only, what="a joiner that stands by")
    return pid


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


def inside(agent: AgentUnderTest, name: str, path: str) -> Path:
    """A path of a container's file system, as the host sees it."""
    return Path(f"/proc/{view(agent, name)['pid']}/root{path}")


def test_it_becomes_the_third_whatever_the_command(agent: AgentUnderTest, box: str) -> None:
    pid = standing_by(agent, box)

    found = run(agent, box, "sh", "-c", 'echo "$0" out; echo err >&2; exit 7', "ä b\n")

    assert (found["exit_code"], found["stdout"], found["stderr"]) == (7, "ä b\n out\n", "err\n")
    eventually(lambda: gone(pid), what="the end of the joiner")


def test_it_is_in_the_container_s_groups_and_namespaces(agent: AgentUnderTest, box: str) -> None:
    script = (
        "cat /proc/self/cgroup; for each in mnt pid net uts ipc cgroup; do readlink /proc/self/ns/$each; done"
    )
    script += "; grep -e Cap -e Seccomp: -e NoNewPrivs /proc/self/status; id; pwd; umask; ulimit -a; env"
    script += "; ls /proc/self/fd"
    fresh = run(agent, box, "sh", "-c", script)
    standing_by(agent, box)

    third = run(agent, box, "sh", "-c", script)

    assert third == fresh


def test_nobody_in_the_container_sees_or_counts_it(agent: AgentUnderTest, declare: Any) -> None:
    declare("counted", pids_limit=20)
    standing_by(agent, "counted")

    assert len(agent.docker("top", "counted").stdout.splitlines()) == 2  # the heading and `sleep`
    group = inside(agent, "counted", "/sys/fs/cgroup/pids")
    assert (group / "pids.current").read_text() == "1\n"
    assert [entry.name for entry in inside(agent, "counted", "/proc").glob("[0-9]*")] == ["1"]


@pytest.mark.parametrize("options", [{"user": "65534:65534"}, {"workdir": "/tmp"}, {"env": {"A": "b"}}])
def test_an_exec_of_another_kind_does_not_get_it(
    agent: AgentUnderTest, box: str, options: dict[str, Any]
) -> None:
    pid = standing_by(agent, box)

    found = run(agent, box, "sh", "-c", "id -u; pwd; echo $A", **options)["stdout"]

    user, directory, value = options.get("user", "0")[:5], options.get("workdir", "/"), ""
    value = options.get("env", {}).get("A", "")
    assert found == f"{user}\n{directory}\n{value}\n"
    eventually(lambda: gone(pid), what="the end of the joiner")


def test_a_user_without_any_right_gets_it_too(agent: AgentUnderTest, box: str) -> None:
    pid = standing_by(agent, box, user="65534:65534")

    assert run(agent, box, "id", "-u", user="65534:65534")["stdout"] == "65534\n"
    eventually(lambda: gone(pid), what="the end of the joiner")


def test_users_that_have_changed_meanwhile_are_the_new_ones(agent: AgentUnderTest, declare: Any) -> None:
    declare("users")
    passwd = inside(agent, "users", "/etc/passwd")
    passwd.write_text("root:x:0:0::/:/bin/sh\napp:x:1001:1001::/:/bin/sh\n")
    standing_by(agent, "users", user="app")

    passwd.write_text("root:x:0:0::/:/bin/sh\napp:x:2002:2002::/:/bin/sh\n")

    assert run(agent, "users", "id", "-u", user="app")["stdout"] == "2002\n"


def test_a_directory_that_was_made_anew_meanwhile_is_the_new_one(agent: AgentUnderTest, declare: Any) -> None:
    declare("moved")
    standing_by(agent, "moved", workdir="/work")
    directory = inside(agent, "moved", "/work")
    directory.rename(directory.with_name("old"))

    found = run(agent, "moved", "sh", "-c", "touch here; pwd", workdir="/work")

    assert found["stdout"] == "/work\n"
    assert (directory / "here").exists()


def test_its_input_and_large_output_are_whole(agent: AgentUnderTest, box: str) -> None:
    standing_by(agent, box, stdin="x")
    for number in range(4):
        data = f"{number} " * 40_000
        assert run(agent, box, "cat", stdin=data)["stdout"] == data
        eventually(lambda: joiners(agent, box), what="a joiner that stands by")


def test_what_cannot_be_found_is_the_same_sentence(agent: AgentUnderTest, box: str) -> None:
    body = {"argv": ["no-such-program"]}
    fresh = agent.request("POST", f"/mooring/v1/containers/{box}/exec", body)
    standing_by(agent, box)

    third = agent.request("POST", f"/mooring/v1/containers/{box}/exec", body)

    assert (third.status, third.json()) == (fresh.status, fresh.json())
    assert run(agent, box, "true")["exit_code"] == 0


def test_a_command_too_long_for_it_runs_all_the_same(agent: AgentUnderTest, box: str) -> None:
    standing_by(agent, box)

    assert run(agent, box, "echo", "x" * 100_000)["stdout"] == "x" * 100_000 + "\n"


def test_it_ends_with_its_container(agent: AgentUnderTest, declare: Any) -> None:
    declare("ends")
    pid = standing_by(agent, "ends")

    agent.api("POST", "/mooring/v1/containers/ends/restart", {})

    eventually(lambda: gone(pid), what="the end of the joiner")
    assert run(agent, "ends", "echo", "again")["stdout"] == "again\n"


def test_it_does_nothing_while_its_container_is_paused(agent: AgentUnderTest, declare: Any) -> None:
    declare("paused")
    standing_by(agent, "paused")
    agent.docker("pause", "paused")

    answer = agent.request("POST", "/mooring/v1/containers/paused/exec", {"argv": ["true"]})

    agent.docker("unpause", "paused")
    assert answer.status == 409
    assert run(agent, "paused", "true")["exit_code"] == 0


def test_one_that_was_killed_is_not_missed(agent: AgentUnderTest, box: str) -> None:
    os.kill(standing_by(agent, box), signal.SIGKILL)

    assert run(agent, box, "echo", "there")["stdout"] == "there\n"


@pytest.fixture
def kill_slowly() -> Iterator[Callable[[int], None]]:
    """A function that kills a process which gets no processor to die on for some time."""
    processor = min(os.sched_getaffinity(0))
    busy = f"import os; os.sched_setaffinity(0, [{processor}]); print(flush=True)\nwhile True: pass"

    def kill(pid: int) -> None:
        with suppress(ProcessLookupError):  # it has left of its own accord since it was listed
            os.sched_setaffinity(pid, [processor])
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
            os.kill(pid, signal.SIGKILL)

    with subprocess.Popen([sys.executable, "-c", busy], stdout=subprocess.PIPE) as hog:
        try:
            assert hog.stdout is not None
            hog.stdout.readline()
            yield kill
        finally:
            hog.kill()


def test_one_that_is_about_to_die_is_not_missed(
    agent: AgentUnderTest, box: str, kill_slowly: Callable[[int], None]
) -> None:
    """The word reaches it before it dies."""
    killed: set[int] = set()  # the last of which may still be there in the next round
    for _ in range(5):
        pid = standing_by(agent, box, killed)
        kill_slowly(pid)
        killed.add(pid)

        assert run(agent, box, "echo", "there")["stdout"] == "there\n"


def test_those_of_the_pool_that_are_about_to_die_are_not_missed(
    agent: AgentUnderTest, box: str, kill_slowly: Callable[[int], None]
) -> None:
    """They are given the plan before they die."""
    killed: set[int] = set()  # some of which are still there in the next round, and die in it
    for number in range(5):
        waiting = eventually(lambda: set(in_pool(agent)) - killed, what="joiners that wait for a plan")
        for pid in waiting:
            kill_slowly(pid)
        killed.update(waiting)

        assert run(agent, box, "echo", "there", workdir=f"/{number}")["stdout"] == "there\n"


def test_it_leaves_when_nobody_wants_it(agent: AgentUnderTest, box: str) -> None:
    pid = standing_by(agent, box)

    eventually(lambda: gone(pid), LEAVES_WITHIN, "the end of the joiner")


@pytest.mark.parametrize("whom", ["agent", "keeper", "both"])
def test_a_kill_while_it_waits_leaves_nothing_of_it(
    start_agent: Callable[..., AgentUnderTest], whom: str
) -> None:
    agent = start_agent()
    agent.api("PUT", "/mooring/v1/containers/box", {"image": "busybox", "command": ["sleep", "600"]})
    pid = standing_by(agent, "box")

    if whom != "agent":
        os.kill(agent.keeper_pids()[0], signal.SIGKILL)
    if whom != "keeper":
        agent.kill9()
        agent.start()

    eventually(lambda: gone(pid), what="the end of the joiner")
    body = {"argv": ["echo", "there"]}
    path = "/mooring/v1/containers/box/exec"
    eventually(lambda: agent.request("POST", path, body).status == 200, what="an exec that is answered")
