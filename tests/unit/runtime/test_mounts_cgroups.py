# SPDX-License-Identifier: Apache-2.0
"""Which hierarchies a host has, and where in them a container's own groups are."""

from __future__ import annotations

import pytest

from mooring_agent.runtime.mounts_cgroups import Hierarchy, _below, parse_hierarchies

HYBRID = """\
20 1 0:19 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
21 20 0:20 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
22 20 0:21 /above /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory,clone_children
23 20 0:22 / /sys/fs/cgroup/systemd rw - cgroup systemd rw,xattr,release_agent=/lib/x,name=systemd
24 20 0:23 / /sys/fs/cgroup/uni\\040fied rw - cgroup2 cgroup2 rw,nsdelegate
25 20 0:20 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct
26 20 0:24 / /tmp rw - tmpfs tmpfs rw
"""


def test_each_hierarchy_is_found_once_with_what_mounts_it_again() -> None:
    assert parse_hierarchies(HYBRID) == (
        Hierarchy("/sys/fs/cgroup/cpu,cpuacct", "/", "cpu,cpuacct"),
        Hierarchy("/sys/fs/cgroup/memory", "/above", "memory"),
        Hierarchy("/sys/fs/cgroup/systemd", "/", "none,name=systemd"),
        Hierarchy("/sys/fs/cgroup/uni fied", "/", ""),
    )
    assert parse_hierarchies("") == ()


@pytest.mark.parametrize(
    ("hierarchy", "groups", "below"),
    [
        (Hierarchy("/x", "/", "cpu,cpuacct"), {"cpuacct,cpu": "/mine"}, "mine"),
        (Hierarchy("/x", "/above", "memory"), {"memory": "/above/mine/deep"}, "mine/deep"),
        (Hierarchy("/x", "/above", "memory"), {"memory": "/beside"}, None),
        (Hierarchy("/x", "/", "memory"), {"memory": "/"}, ""),
        (Hierarchy("/x", "/", ""), {"": "/mine"}, "mine"),
        (Hierarchy("/x", "/", "pids"), {"memory": "/mine"}, None),
    ],
)
def test_the_own_group_is_found_below_the_mount(
    hierarchy: Hierarchy, groups: dict[str, str], below: str | None
) -> None:
    assert _below(hierarchy, groups) == below
