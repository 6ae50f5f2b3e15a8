# SPDX-License-Identifier: Apache-2.0
"""Telling hosts apart, against mount tables of real ones and directories that stand for the mounts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring_agent.cgroups.hierarchy import check_path, detect
from mooring_agent.cgroups.resources import DeviceLimit, Resources, Setting
from mooring_agent.errors import InvalidSpec, NotSupported


def v1_line(mount: Path, *controllers: str, root: str = "/") -> str:
    return f"33 31 0:30 {root} {mount} rw - cgroup cgroup rw,{','.join(controllers)}"


def v2_line(mount: Path, root: str = "/") -> str:
    return f"41 31 0:38 {root} {mount} rw - cgroup2 cgroup2 rw"


def v2_tree(directory: Path, *controllers: str) -> Path:
    directory.mkdir()
    (directory / "cgroup.controllers").write_text(" ".join(controllers) + "\n")
    (directory / "cgroup.subtree_control").write_text("\n")
    return directory


def test_version_1_with_controllers_mounted_together(tmp_path: Path) -> None:
    text = "\n".join(
        (
            v1_line(tmp_path / "systemd", "name=systemd"),
            v1_line(tmp_path / "cpu,cpuacct", "cpu", "cpuacct"),
            v1_line(tmp_path / "memory", "memory"),
        )
    )

    hierarchy = detect(text, "3:cpu,cpuacct:/\n2:memory:/user.slice\n")

    assert hierarchy.mode == "v1"
    assert hierarchy.controllers == {
        "cpu": tmp_path / "cpu,cpuacct",
        "cpuacct": tmp_path / "cpu,cpuacct",
        "memory": tmp_path / "memory",
    }
    assert hierarchy.own == {"cpu": "", "cpuacct": "", "memory": "user.slice"}
    assert hierarchy.can_rename
    group = hierarchy.group("mooring/a")
    assert group.paths["cpu"] == group.paths["cpuacct"] == tmp_path / "cpu,cpuacct/mooring/a"
    assert group.attach_self_paths() == (
        tmp_path / "cpu,cpuacct/mooring/a/tasks",
        tmp_path / "memory/mooring/a/tasks",
    )


def test_version_2(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path / "cgroup", "cpuset", "cpu", "io", "memory", "pids")

    hierarchy = detect(v2_line(tree), "0::/system.slice/mooring.service\n")

    assert hierarchy.mode == "v2"
    core = {"cpuset", "cpu", "cpuacct", "memory", "pids", "devices", "freezer"}
    assert set(hierarchy.controllers) == {*core, "io"}
    assert set(hierarchy.controllers.values()) == {tree}
    assert hierarchy.own["memory"] == "system.slice/mooring.service"
    assert hierarchy.unified_mount == tree
    assert not hierarchy.can_rename
    assert hierarchy.group("a").attach_self_paths() == (tree / "a/cgroup.procs",)
    assert hierarchy.device_settings() == ()


def test_both_with_an_empty_version_2(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path / "unified", "hugetlb")
    names = ("memory", "cpu", "cpuacct", "cpuset", "devices", "freezer", "pids")
    text = "\n".join([v2_line(tree), *(v1_line(tmp_path / name, name) for name in names)])

    hierarchy = detect(text, "")

    assert hierarchy.mode == "hybrid"
    assert hierarchy.controllers == {name: tmp_path / name for name in names}
    assert hierarchy.unified_mount is None
    assert hierarchy.can_rename
    assert hierarchy.device_settings()[0] == Setting("devices", "devices.deny", "a")


def test_both_with_controllers_on_either_side(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path / "unified", "memory", "pids")

    hierarchy = detect("\n".join([v1_line(tmp_path / "cpu", "cpu"), v2_line(tree)]), "")

    assert hierarchy.mode == "hybrid"
    assert hierarchy.controllers["cpu"] == tmp_path / "cpu"
    assert hierarchy.controllers["memory"] == hierarchy.controllers["freezer"] == tree
    assert not hierarchy.can_rename
    settings = hierarchy.settings(Resources(memory=1 << 20, cpus=1))
    assert [setting.file for setting in settings] == ["cpu.cfs_quota_us", "memory.max"]


def test_a_named_hierarchy_alone_makes_no_version_1_host(tmp_path: Path) -> None:
    tree = v2_tree(tmp_path / "unified", "memory")

    assert (
        detect("\n".join([v1_line(tmp_path / "systemd", "xattr", "name=systemd"), v2_line(tree)]), "").mode
        == "v2"
    )


def test_in_a_container_the_mounts_show_its_own_group(tmp_path: Path) -> None:
    text = v1_line(tmp_path / "memory", "memory", root="/docker/abc")

    assert detect(text, "2:memory:/docker/abc/inner\n").own == {"memory": "inner"}
    assert detect(text, "2:memory:/docker/other\n").own == {}


def test_of_several_mounts_the_whole_one_is_taken(tmp_path: Path) -> None:
    text = "\n".join(
        (v1_line(tmp_path / "part", "memory", root="/docker/abc"), v1_line(tmp_path / "whole", "memory"))
    )

    assert detect(text, "").controllers == {"memory": tmp_path / "whole"}


def test_no_cgroups_at_all() -> None:
    with pytest.raises(NotSupported, match="no cgroup file system"):
        detect("22 28 0:20 / /proc rw - proc proc rw\n", "")


def test_a_limit_without_its_controller_is_refused(tmp_path: Path) -> None:
    hierarchy = detect(v1_line(tmp_path, "cpu"), "")

    with pytest.raises(
        NotSupported, match='pids_limit was asked for, but this host has no cgroup controller "pids"'
    ):
        hierarchy.settings(Resources(pids_limit=5))
    assert hierarchy.settings(Resources()) == ()


def test_a_host_that_limits_no_disks_takes_all_other_limits(tmp_path: Path) -> None:
    hierarchy = detect(v1_line(tmp_path / "pids", "pids"), "2:pids:/\n")

    assert hierarchy.settings(Resources(pids_limit=5)) == (Setting("pids", "pids.max", "5"),)
    for asked in (Resources(blkio_weight=10), Resources(device_read_bps=(DeviceLimit("8:0", 1),))):
        with pytest.raises(NotSupported, match=r"neither the cgroup controller blkio \(v1\) nor io"):
            hierarchy.settings(asked)


def test_swap_needs_a_kernel_that_accounts_it(tmp_path: Path) -> None:
    hierarchy = detect(v1_line(tmp_path, "memory"), "")

    with pytest.raises(NotSupported, match="does not account swap"):
        hierarchy.settings(Resources(memory=1 << 20, memory_swap=1 << 21))
    assert len(hierarchy.settings(Resources(memory=1 << 20, memory_swap=-1))) == 1

    (tmp_path / "memory.memsw.limit_in_bytes").touch()
    again = detect(v1_line(tmp_path, "memory"), "")
    assert len(again.settings(Resources(memory=1 << 20, memory_swap=1 << 21))) == 2


def test_cpus_that_the_host_lacks_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cpuset.effective_cpus").write_text("0-1\n")
    hierarchy = detect(v1_line(tmp_path, "cpuset"), "")

    with pytest.raises(InvalidSpec, match='cpuset_cpus is "0-7", expected some of "0-1"'):
        hierarchy.settings(Resources(cpuset_cpus="0-7"))


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/a",
        "a/",
        "a//b",
        "..",
        "a/../b",
        "./a",
        "tasks",
        "a/cgroup.procs",
        "memory.max",
        "x\ny",
        "n" * 256,
    ],
)
def test_a_path_that_could_leave_the_tree_or_clash_is_refused(path: str) -> None:
    with pytest.raises(InvalidSpec, match="cgroup path"):
        check_path(path)


@pytest.mark.parametrize("path", ["mooring", "mooring/abc.def", "memory", "system.slice/a", "...", "web-1/x"])
def test_ordinary_paths(path: str) -> None:
    assert check_path(path) == path
