# SPDX-License-Identifier: Apache-2.0
"""What is peculiar to one version of cgroups, on a real kernel."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.forked import in_child
from mooring_agent.cgroups.devices import DEFAULT_RULES, DeviceRule
from mooring_agent.cgroups.group import Group
from mooring_agent.cgroups.hierarchy import Hierarchy, detect
from mooring_agent.cgroups.resources import Resources
from mooring_agent.errors import Conflict, NotSupported
from mooring_agent.linux import bpf, syscalls

pytestmark = pytest.mark.root

Spawn = Callable[..., subprocess.Popen[bytes]]
on_v1 = pytest.mark.kernel("cgroup_v1")
on_v2 = pytest.mark.kernel("cgroup_v2")


@on_v1
def test_this_host_has_version_1(hierarchy: Hierarchy) -> None:
    assert hierarchy.mode in ("v1", "hybrid")
    assert hierarchy.can_rename
    assert all((mount / "tasks").exists() for mount in hierarchy.controllers.values())


@on_v1
def test_a_new_group_has_the_cpus_of_its_parent(parent: Group) -> None:
    parent.apply(Resources(cpuset_cpus="0"))
    inside = parent.hierarchy.group(f"{parent.path}/x/y")

    inside.create()

    assert inside.read().cpuset_cpus == "0"
    assert inside.read().cpuset_mems == parent.read().cpuset_mems


@on_v1
def test_a_group_that_somebody_else_left_without_cpus_is_filled(parent: Group, spawn: Spawn) -> None:
    bare = parent.paths["cpuset"] / "bare"
    (parent.paths["cpuset"] / "cgroup.clone_children").write_text("0")
    bare.mkdir()
    assert (bare / "cpuset.cpus").read_text().strip() == ""
    inside = parent.hierarchy.group(f"{parent.path}/bare/x")

    inside.create()

    assert spawn(inside, "sleep", "60").pid in inside.pids()


@on_v1
def test_a_slot_becomes_a_container(parent: Group, spawn: Spawn) -> None:
    slot = parent.hierarchy.group(f"{parent.path}/slot-7")
    slot.create()
    process = spawn(slot, "sleep", "60")
    assert parent.children() == ("slot-7",)

    container = slot.rename("0123abcd")
    container.apply(Resources(memory=64 << 20))

    assert parent.children() == ("0123abcd",)
    assert container.pids() == [process.pid]
    with pytest.raises(NotSupported, match="no cgroups v2 directory"):
        container.directory_fd()


@on_v2
def test_this_host_has_version_2(hierarchy: Hierarchy) -> None:
    assert hierarchy.mode == "v2"
    assert not hierarchy.can_rename
    core = {"cpuset", "cpu", "cpuacct", "memory", "pids", "devices", "freezer"}
    assert core <= set(hierarchy.controllers) <= {*core, "io"}


@on_v2
def test_a_process_is_born_in_its_group(group: Group) -> None:
    def child() -> bool:  # a bare clone(2) is for a process without other threads
        descriptor = group.directory_fd()
        pid = syscalls.clone_into_cgroup(0, descriptor, signal.SIGCHLD)
        if pid == 0:
            signal.pause()
            os._exit(0)
        try:
            return group.pids() == [pid]
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            os.close(descriptor)

    assert in_child(child)


@on_v2
def test_controllers_are_handed_down_to_every_level(parent: Group) -> None:
    deep = parent.hierarchy.group(f"{parent.path}/x/y/z")

    deep.create()

    handed = (parent.paths["memory"] / "x/y/cgroup.subtree_control").read_text().split()
    assert {"cpu", "cpuset", "memory", "pids"} <= set(handed)
    assert (deep.paths["memory"] / "cgroup.subtree_control").read_text().strip() == ""


@on_v2
def test_a_group_with_processes_cannot_hand_controllers_down(group: Group, spawn: Spawn) -> None:
    spawn(group, "sleep", "60")

    with pytest.raises(Conflict, match="because processes live in it"):
        group.hierarchy.group(f"{group.path}/inside").create()
    assert group.children() == ()


@on_v2
def test_a_group_without_controllers_says_so(parent: Group) -> None:
    (parent.paths["memory"] / "bare/inside").mkdir(parents=True)
    inside = parent.hierarchy.group(f"{parent.path}/bare/inside")

    with pytest.raises(Conflict, match="has no limits of the cpuset controller"):
        inside.apply(Resources())
    inside.create()
    assert inside.apply(Resources()) == ()


@on_v2
def test_a_new_list_of_devices_replaces_the_former(group: Group, spawn: Spawn) -> None:
    def programs() -> int:
        descriptor = os.open(group.paths["devices"], os.O_RDONLY | os.O_DIRECTORY)
        try:
            return len(bpf.device_programs(descriptor))
        finally:
            os.close(descriptor)

    assert programs() == 0
    group.set_devices((*DEFAULT_RULES, DeviceRule("c", 1, 3, allow=False)))
    assert programs() == 1
    opened = (
        "import os\ntry:\n os.open('/dev/null', os.O_RDWR); print('opened')\n"
        "except PermissionError: print('refused')\n"
    )
    assert spawn(group, sys.executable, "-S", "-c", opened).communicate(timeout=60)[0] == b"refused\n"
    group.set_devices()
    assert programs() == 1
    assert spawn(group, sys.executable, "-S", "-c", opened).communicate(timeout=60)[0] == b"opened\n"


def test_a_group_made_by_a_bare_mkdir_is_usable_where_its_parent_delegates(
    parent: Group, spawn: Spawn
) -> None:
    holder = parent.hierarchy.group(f"{parent.path}/holder")
    holder.create(delegate=True)
    holder.create(delegate=True)
    inside = parent.hierarchy.group(f"{parent.path}/holder/x")

    for directory in set(inside.paths.values()):
        directory.mkdir()

    inside.apply(Resources(memory=64 << 20, cpus=0.5, pids_limit=10))
    assert spawn(inside, "sleep", "60").pid in inside.pids()


def test_inside_a_cgroup_namespace_groups_are_still_found(parent: Group, spawn: Spawn) -> None:
    """The mounts keep showing the whole tree, from above the namespace's root."""
    spawn(parent.hierarchy.group(parent.path), "sleep", "60")
    program = (
        "import os; from pathlib import Path\n"
        "from mooring_agent.cgroups.hierarchy import detect\n"
        "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.unshare(0x02000000) == 0\n"
        "seen = detect()\n"
        f"group = seen.group({parent.path!r})\n"
        "print(seen.mode, group.exists(), len(group.pids()))\n"
    )

    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)

    assert done.stdout.decode().split() == [detect().mode, "True", "1"]


def test_own_group_is_told_relative_to_the_mount(hierarchy: Hierarchy) -> None:
    for controller, path in hierarchy.own.items():
        processes = Path(hierarchy.controllers[controller], path, "cgroup.procs").read_text().split()
        assert str(os.getpid()) in processes
