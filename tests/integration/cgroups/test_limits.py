# SPDX-License-Identifier: Apache-2.0
"""Limits on a real kernel, whichever version of cgroups it has: set, changed live, in force, refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.waiting import PATIENCE, eventually
from mooring_agent.cgroups.group import Group
from mooring_agent.cgroups.resources import Resources
from mooring_agent.errors import Conflict, InvalidSpec

pytestmark = pytest.mark.root

Spawn = Callable[..., subprocess.Popen[bytes]]
MIB = 1 << 20
_ALL = Resources(
    memory=64 * MIB,
    memory_reservation=32 * MIB,
    memory_swap=96 * MIB,
    cpus=0.5,
    cpu_shares=521,  # stands for a weight of version 2 exactly, which not every number does
    cpuset_cpus="0",
    cpuset_mems="0",
    pids_limit=50,
    memory_swappiness=30,
    oom_kill_disable=True,
)
# Allocates as many bytes as its argument says, touches them, says so, and waits.
_HOLD = "import sys, time\nheld = bytearray(int(sys.argv[1]))\nprint('held', flush=True)\ntime.sleep(60)"


def _hold(spawn: Spawn, group: Group, count: int) -> subprocess.Popen[bytes]:
    process = spawn(group, sys.executable, "-S", "-c", _HOLD, str(count))
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_settings_of_a_new_group_are_in_force_when_written(group: Group) -> None:
    for file, value in group.writes(group.hierarchy.settings(_ALL)):
        Path(file).write_text(value)

    assert group.read() == _ALL
    assert group.apply(_ALL) == ()


def test_limits_are_applied_reported_and_taken_back(group: Group) -> None:
    fresh = group.read()

    changed = group.apply(_ALL)

    assert {setting.controller for setting in changed} == {"memory", "cpu", "cpuset", "pids"}
    assert group.read() == _ALL
    assert group.apply(_ALL) == ()
    group.apply(Resources())
    assert group.read() == fresh


def test_memory_goes_up_and_down_past_the_swap_limit(group: Group) -> None:
    """moby#39541."""
    for memory, swap in ((64, 64), (128, 128), (32, 48), (512, 1024), (16, 16), (96, None), (8, 8), (64, -1)):
        wanted = Resources(memory=memory * MIB, memory_swap=swap if swap in (None, -1) else swap * MIB)
        group.apply(wanted)
        after = group.read()
        assert after.memory == memory * MIB
        assert after.memory_swap == (None if swap in (None, -1) else swap * MIB)


def test_drift_is_found_and_repaired(group: Group) -> None:
    """moby#51446: somebody else's reload resets limits."""
    group.apply(_ALL)
    pids = group.paths["pids"] / "pids.max"
    pids.write_text("max")

    assert [setting.file for setting in group.apply(_ALL)] == ["pids.max"]
    assert pids.read_text() == "50\n"


def test_a_limit_below_the_usage_is_refused_with_both_numbers_and_harms_nobody(
    group: Group, spawn: Spawn
) -> None:
    group.apply(Resources(memory=128 * MIB, memory_swap=128 * MIB, pids_limit=50))
    process = _hold(spawn, group, 60 * MIB)

    with pytest.raises(Conflict) as caught:
        group.apply(Resources(memory=16 * MIB, memory_swap=16 * MIB, cpus=0.5))

    assert "16 MiB (16777216 bytes)" in caught.value.message
    assert "is below the 6" in caught.value.message
    assert process.poll() is None
    after = group.read()
    # All or nothing: neither the quota nor the missing limit of tasks was left behind.
    assert (after.memory, after.memory_swap, after.cpus, after.pids_limit) == (128 * MIB, 128 * MIB, None, 50)


def _is_in_memory(path: Path) -> bool:
    kind = subprocess.run(
        ["stat", "--file-system", "--format=%T", str(path)], check=True, capture_output=True
    )
    return kind.stdout.strip() in {b"tmpfs", b"ramfs"}


def test_page_cache_makes_room_for_a_lower_limit(group: Group, spawn: Spawn, tmp_path: Path) -> None:
    if _is_in_memory(tmp_path):
        # There its pages have no other place, so that no limit makes them go: nothing could be seen.
        pytest.skip(f"{tmp_path} is in memory itself: its pages cannot be freed")
    program = (
        f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes({40 * MIB}))\n"
        "import time; print('held', flush=True); time.sleep(60)"
    )
    process = spawn(group, sys.executable, "-S", "-c", program)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    subprocess.run(["sync", str(tmp_path / "file")], check=True)

    group.apply(Resources(memory=16 * MIB))

    assert process.poll() is None
    assert (group.usage().memory_bytes or 0) <= 16 * MIB


def test_the_hard_limit_kills_and_the_kill_is_counted(group: Group, spawn: Spawn) -> None:
    group.apply(Resources(memory=24 * MIB, memory_swap=24 * MIB))

    process = spawn(group, sys.executable, "-S", "-c", _HOLD, str(100 * MIB))

    assert process.wait(20 * PATIENCE) == -signal.SIGKILL
    assert group.oom_kills() == 1
    peak = group.usage().memory_max_usage
    assert peak is None or 20 * MIB <= peak <= 24 * MIB


def test_the_quota_holds(group: Group, spawn: Spawn) -> None:
    group.apply(Resources(cpus=0.2))
    spawn(group, sys.executable, "-S", "-c", "while True: pass")

    before, started = group.usage().cpu_ns or 0, time.monotonic()
    # So long that what it gets ahead counts little: the kernel takes that back in later periods.
    time.sleep(3.0)
    used = ((group.usage().cpu_ns or 0) - before) / 1e9 / (time.monotonic() - started)

    assert used <= 0.35
    # Others may leave it less than its quota for a while.
    eventually(lambda: group.cpu_stat().throttled_periods > 0)


def test_the_limit_of_tasks_holds(group: Group, spawn: Spawn) -> None:
    group.apply(Resources(pids_limit=5))
    program = (
        "import os, time\nmade = 0\n"
        "try:\n"
        " while True:\n"
        "  if os.fork() == 0: time.sleep(60)\n"
        "  made += 1\n"
        "except BlockingIOError: print(made, flush=True)\n"
    )

    process = spawn(group, sys.executable, "-S", "-c", program)

    assert process.stdout is not None
    assert process.stdout.readline() == b"4\n"


def test_cpus_are_pinned(group: Group, spawn: Spawn) -> None:
    group.apply(Resources(cpuset_cpus="0"))

    process = spawn(
        group, sys.executable, "-S", "-c", "import os; print(os.sched_getaffinity(0), flush=True)"
    )

    assert process.stdout is not None
    assert process.stdout.readline() == b"{0}\n"


def test_cpus_that_are_not_there_are_refused(group: Group) -> None:
    with pytest.raises(InvalidSpec, match='cpuset_cpus is "0,4096", expected some of'):
        group.apply(Resources(cpuset_cpus="0,4096"))


def test_cpus_beyond_the_parents_are_refused(group: Group, parent: Group) -> None:
    parent.apply(Resources(cpuset_cpus="0"))

    with pytest.raises(Conflict, match='is not within "0", all that'):
        group.apply(Resources(cpuset_cpus="0-1"))


def test_groups_inside_follow_when_the_cpus_of_a_living_group_change(group: Group, parent: Group) -> None:
    sibling = parent.hierarchy.group(f"{parent.path}/b/c")
    sibling.create()

    parent.apply(Resources(cpuset_cpus="1"))
    assert group.read().cpuset_cpus == sibling.read().cpuset_cpus == "1"
    parent.apply(Resources(cpuset_cpus="0"))
    assert group.read().cpuset_cpus == sibling.read().cpuset_cpus == "0"
    parent.apply(Resources())
    assert group.read().cpuset_cpus == sibling.read().cpuset_cpus == parent.read().cpuset_cpus


def test_a_group_inside_may_not_have_more_cpu_time_than_its_parent_on_version_1(
    group: Group, parent: Group
) -> None:
    parent.apply(Resources(cpus=0.5))

    if group.hierarchy.places["cpu"].version == 2:
        group.apply(Resources(cpus=1))
        return
    with pytest.raises(Conflict, match=r"cpus 1 of group .* is above the 0\.5 of its parent"):
        group.apply(Resources(cpus=1))
    group.apply(Resources(cpus=0.4))
    with pytest.raises(Conflict, match="below the cpus of a group inside it"):
        parent.apply(Resources(cpus=0.3))


def test_a_parent_limits_what_is_inside(group: Group, parent: Group, spawn: Spawn) -> None:
    parent.apply(Resources(memory=24 * MIB, memory_swap=24 * MIB))

    process = spawn(group, sys.executable, "-S", "-c", _HOLD, str(100 * MIB))

    assert process.wait(20 * PATIENCE) == -signal.SIGKILL
