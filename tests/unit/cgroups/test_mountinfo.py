# SPDX-License-Identifier: Apache-2.0
"""Where cgroup file systems are mounted: the parsers of mountinfo and of /proc/PID/cgroup."""

from __future__ import annotations

import string

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.mountinfo import (
    CgroupMount,
    parse_membership,
    parse_mountinfo,
    unescape,
    within_mount,
)

DOCKER_HOST = """\
22 28 0:20 / /proc rw,nosuid,nodev,noexec,relatime shared:12 - proc proc rw
31 22 0:28 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
32 31 0:29 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw,nsdelegate
33 31 0:30 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:13 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,nosuid shared:14 master:3 - cgroup cgroup rw,memory
"""


def test_a_host_with_both_versions() -> None:
    assert parse_mountinfo(DOCKER_HOST) == (
        CgroupMount(2, "/sys/fs/cgroup/unified"),
        CgroupMount(1, "/sys/fs/cgroup/systemd", name="systemd"),
        CgroupMount(1, "/sys/fs/cgroup/cpu,cpuacct", controllers=("cpu", "cpuacct")),
        CgroupMount(1, "/sys/fs/cgroup/memory", controllers=("memory",)),
    )


def test_a_container_sees_its_own_group_as_the_root_of_the_mount() -> None:
    line = "700 690 0:31 /docker/abc /sys/fs/cgroup/memory ro,nosuid master:14 - cgroup cgroup rw,memory"

    (mount,) = parse_mountinfo(line)

    assert mount.root == "/docker/abc"
    assert within_mount("/docker/abc/inner", mount.root) == "inner"


def test_malformed_lines_are_passed_over() -> None:
    assert parse_mountinfo("\n1 2 3\n31 23 0:28 / /x rw - cgroup2\ngarbage - - - - - - - -\n") == ()


def test_membership() -> None:
    text = "4:memory:/system.slice/a:b\n3:cpu,cpuacct:/x\n1:name=systemd:/init.scope\n0::/user.slice\n"

    assert parse_membership(text) == {
        "memory": "/system.slice/a:b",
        "cpu": "/x",
        "cpuacct": "/x",
        "name=systemd": "/init.scope",
        "": "/user.slice",
    }


def test_a_group_relative_to_a_mount() -> None:
    assert within_mount("/", "/") == ""
    assert within_mount("/a/b", "/") == "a/b"
    assert within_mount("/a/b", "/a") == "b"
    assert within_mount("/other", "/a") is None
    assert within_mount("/ab", "/a") is None
    # The mount shows a group above our cgroup namespace's root: where we are below it cannot be told.
    assert within_mount("/x", "/../..") is None


def _escape(path: str) -> str:
    return "".join(f"\\{ord(letter):03o}" if letter in " \t\n\\" else letter for letter in path)


_paths = st.lists(st.text(string.ascii_letters + " \t\n\\-_.é", min_size=1), min_size=0, max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)
_controllers = st.lists(st.sampled_from(("cpu", "cpuacct", "memory", "pids", "rdma", "misc")), unique=True)


@given(
    _paths,
    _paths,
    _controllers,
    st.sampled_from(("", "systemd", "elogind")),
    st.lists(st.sampled_from(("shared:3", "master:4", "propagate_from:5", "unbindable")), unique=True),
    st.lists(st.sampled_from(("xattr", "clone_children", "release_agent=/x", "seclabel")), unique=True),
)
def test_any_line_is_read_back(
    mount_point: str, root: str, controllers: list[str], name: str, optional: list[str], options: list[str]
) -> None:
    named = [f"name={name}"] if name else []
    fields = ["36", "35", "98:0", _escape(root), _escape(mount_point), "rw,noatime", *optional, "-"]
    line = " ".join([*fields, "cgroup", "cgroup", ",".join(["rw", *options, *controllers, *named])])

    assert parse_mountinfo(f"{line}\n") == (CgroupMount(1, mount_point, root, tuple(controllers), name),)


@given(st.text())
def test_no_text_breaks_the_parsers(text: str) -> None:
    parse_mountinfo(text)
    parse_membership(text)


@given(_paths)
def test_escapes_are_put_back(path: str) -> None:
    assert unescape(_escape(path)) == path
