# SPDX-License-Identifier: Apache-2.0
"""A group on a real kernel, whichever version of cgroups it has: making, joining, freezing, killing,
removing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from harness.waiting import PATIENCE, eventually
from mooring_agent.cgroups.devices import DEFAULT_RULES
from mooring_agent.cgroups.group import Group
from mooring_agent.cgroups.hierarchy import Hierarchy
from mooring_agent.cgroups.resources import Resources
from mooring_agent.errors import Conflict, InvalidSpec, NotFound, NotSupported, Unavailable

pytestmark = pytest.mark.root

Spawn = Callable[..., subprocess.Popen[bytes]]

_BOMB = 1600


def test_a_group_is_made_with_those_above_it_and_removed_with_those_inside(parent: Group) -> None:
    hierarchy = parent.hierarchy
    deep = hierarchy.group(f"{parent.path}/x/y/z")

    deep.create()
    deep.create()

    assert deep.exists()
    assert all(path.is_dir() for path in deep.paths.values())
    assert hierarchy.group(f"{parent.path}/x").remove() is True
    assert not deep.exists()
    assert hierarchy.group(f"{parent.path}/x").remove() is False


def test_a_process_joins_by_itself_and_is_counted(group: Group, parent: Group, spawn: Spawn) -> None:
    process = spawn(group, "sleep", "60")

    assert group.pids() == [process.pid]
    assert parent.pids() == []
    assert parent.pids(recursive=True) == [process.pid]
    assert not parent.is_empty()
    usage = group.usage()
    assert usage.pids == 1
    assert usage.memory_bytes is not None
    assert usage.memory_bytes > 0
    assert usage.cpu_ns is not None
    assert group.oom_kills() == 0
    assert "pgfault" in group.memory_stat()


def test_many_processes_are_all_listed(group: Group, spawn: Spawn) -> None:
    fork = "import os, signal\nfor _ in range(1500):\n if os.fork() == 0: signal.pause()\n"
    process = spawn(group, sys.executable, "-S", "-c", f"{fork}os.write(1, b'all')\nsignal.pause()")
    assert process.stdout is not None
    assert process.stdout.read(3) == b"all"

    # The kernel hands them out in pieces of a page, which has place for about 800.
    assert len(set(group.pids())) == 1501


def test_a_process_is_moved_in(group: Group) -> None:
    process = subprocess.Popen(["sleep", "60"])
    try:
        group.attach(process.pid)
        assert group.pids() == [process.pid]
    finally:
        process.kill()
        process.wait()
    with pytest.raises(NotFound, match="has ended"):
        group.attach(process.pid)


def test_cpu_time_is_accounted(group: Group, spawn: Spawn) -> None:
    before = group.usage().cpu_ns or 0

    # What its interpreter needs to start is only more: the kernel's two clocks differ by some ticks.
    spin = "import time\nbegun = time.process_time()\nwhile time.process_time() - begun < 0.2: pass"
    process = spawn(group, sys.executable, "-S", "-c", spin)
    process.wait(10 * PATIENCE)

    assert (group.usage().cpu_ns or 0) - before >= 190_000_000
    stat = group.cpu_stat()
    assert stat.user_ns + stat.system_ns >= 150_000_000


def test_frozen_processes_stand_still_and_go_on(group: Group, spawn: Spawn) -> None:
    loop = "import os\nn = 0\nwhile True:\n n += 1\n if n % 20000 == 0: os.write(1, b'.')"
    process = spawn(group, sys.executable, "-S", "-c", loop)
    assert process.stdout is not None
    process.stdout.read(1)

    started = time.monotonic()
    group.freeze()
    took = time.monotonic() - started

    assert group.is_frozen()
    assert took < 1.0
    before = group.usage().cpu_ns
    time.sleep(0.1)
    assert group.usage().cpu_ns == before
    group.thaw()
    assert not group.is_frozen()
    eventually(lambda: (group.usage().cpu_ns or 0) > (before or 0), what="running on")


def test_freezing_is_repeatable(group: Group, spawn: Spawn) -> None:
    spawn(group, "sleep", "60")

    group.thaw()
    for _ in range(20):
        group.freeze()
        group.freeze()
        group.thaw()

    assert not group.is_frozen()


def test_a_group_inside_a_frozen_one_cannot_be_thawed(group: Group, parent: Group, spawn: Spawn) -> None:
    spawn(group, "sleep", "60")
    parent.freeze()

    assert group.is_frozen()
    with pytest.raises(Conflict, match="group above it is frozen"):
        group.thaw(0.2)
    parent.thaw()
    assert not group.is_frozen()


def test_killing_ends_all_and_what_they_fork(group: Group, parent: Group, spawn: Spawn) -> None:
    bomb = (
        "import os, signal\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "def fork():\n"
        " try: return os.fork()\n"
        " except BlockingIOError: return 1\n"
        "while True:\n"
        " if fork() == 0:\n"
        "  for _ in range(3):\n"
        "   if fork(): os._exit(0)\n"
    )
    inside = group.hierarchy.group(f"{group.path}-b/inner")
    inside.create()
    spawn(inside, "sleep", "60")
    # Twice of what the kernel lists at once. Not more, and for no longer than it takes: whoever joins a group
    # waits for all forks that are under way, and so do other tests.
    parent.apply(Resources(pids_limit=_BOMB))
    spawn(group, sys.executable, "-S", "-c", bomb)
    eventually(lambda: (parent.usage().pids or 0) > _BOMB * 3 / 4, what="the bomb")

    parent.kill(20 * PATIENCE)

    assert parent.is_empty()


def test_a_frozen_group_is_killed_with_frozen_ones_inside(group: Group, spawn: Spawn) -> None:
    inside = group.hierarchy.group(f"{group.path}-b/inner")
    inside.create()
    process = spawn(inside, "sleep", "60")
    inside.freeze()
    outer = group.hierarchy.group(f"{group.path}-b")
    outer.freeze()

    outer.kill(5 * PATIENCE)

    assert process.wait(5 * PATIENCE) == -signal.SIGKILL


def test_killing_without_waiting(group: Group, spawn: Spawn) -> None:
    process = spawn(group, "sleep", "60")

    group.kill(0)

    assert process.wait(5 * PATIENCE) == -signal.SIGKILL


def test_killing_what_is_not_there(hierarchy: Hierarchy) -> None:
    nothing = hierarchy.group("mrgt-nothing")

    nothing.kill(1)
    assert nothing.pids() == []
    assert nothing.remove() is False
    for call in (nothing.read, nothing.usage, nothing.freeze, nothing.thaw, nothing.set_devices):
        with pytest.raises(NotFound, match="group mrgt-nothing does not exist"):
            call()


def test_a_group_in_use_is_not_removed_and_says_who_uses_it(group: Group, spawn: Spawn) -> None:
    process = spawn(group, "sleep", "60")

    started = time.monotonic()
    with pytest.raises(Conflict, match=rf"still has the processes {process.pid}"):
        group.remove(0.2)

    assert time.monotonic() - started < 2 * PATIENCE
    assert group.exists()


def test_removing_waits_for_the_last_process_to_leave(group: Group, spawn: Spawn) -> None:
    spawn(group, "sleep", "0.3")

    assert group.remove(10) is True


def test_a_slot_is_renamed_with_the_process_in_it(group: Group, parent: Group, spawn: Spawn) -> None:
    process = spawn(group, "sleep", "60")
    if not group.hierarchy.can_rename:
        with pytest.raises(NotSupported, match="cannot be renamed"):
            group.rename("b")
        return

    renamed = group.rename("b")

    assert renamed.path == f"{parent.path}/b"
    assert renamed.pids() == [process.pid]
    assert renamed.usage().pids == 1
    assert not group.exists()
    assert f"{parent.path}/b" in _membership(process.pid)


def test_a_name_in_use_is_refused_and_nothing_is_renamed(group: Group, parent: Group) -> None:
    # Taken in the last hierarchy only: what was renamed before has to come back.
    taken = list(parent.paths.values())[-1] / "b"
    taken.mkdir()
    if not group.hierarchy.can_rename:
        for name in ("b", "b/c", ".."):
            with pytest.raises(NotSupported, match="cannot be renamed"):
                group.rename(name)
        assert group.exists()
        return

    with pytest.raises(Conflict, match="because that group exists"):
        group.rename("b")
    assert group.exists()
    with pytest.raises(Conflict, match='a name without "/"'):
        group.rename("b/c")
    with pytest.raises(InvalidSpec):
        group.rename("..")


def test_devices_beyond_the_list_are_refused(group: Group, spawn: Spawn) -> None:
    group.set_devices(DEFAULT_RULES)
    # Twice: on version 2 the program of before has to go.
    group.set_devices(DEFAULT_RULES)
    probe = (
        "import os, stat\n"
        "os.close(os.open('/dev/null', os.O_RDWR)); os.close(os.open('/dev/urandom', os.O_RDONLY))\n"
        "path = '/tmp/mrgt-node-%d' % os.getpid()\n"
        "os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 11))\n"
        "try:\n"
        "    os.open(path, os.O_WRONLY)\n"
        "    os.write(1, b'opened')\n"
        "except PermissionError:\n"
        "    os.write(1, b'refused')\n"
        "finally:\n"
        "    os.unlink(path)\n"
    )

    process = spawn(group, sys.executable, "-S", "-c", probe)

    output, _ = process.communicate(timeout=10 * PATIENCE)
    assert output == b"refused"
    assert process.returncode == 0


@pytest.mark.alone
def test_a_thousand_groups_are_read_quickly(parent: Group) -> None:
    groups = [parent.hierarchy.group(f"{parent.path}/{number}") for number in range(200)]
    for each in groups:
        each.create()

    started = time.monotonic()
    for each in groups:
        each.usage()
    took = time.monotonic() - started

    # 1,000 groups in well under a second; generous, as the machine may be busy.
    assert took * 5 < 2.0


def test_a_process_that_cannot_die_is_named_after_the_deadline(
    group: Group, spawn: Spawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = spawn(group, "sleep", "60")
    monkeypatch.setattr("mooring_agent.cgroups.killing.kill", lambda freezer, processes: None)

    with pytest.raises(Unavailable, match=str(process.pid)):
        group.kill(0.3)
    monkeypatch.undo()


def _membership(pid: int) -> str:
    with open(f"/proc/{pid}/cgroup") as file:
        return file.read()


def test_an_unwritable_tree_is_explained(parent: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, mode: int = 0o777) -> None:
        raise OSError(30, os.strerror(30), path)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(NotSupported, match="Read-only file system"):
        parent.hierarchy.group(f"{parent.path}/x").create()
