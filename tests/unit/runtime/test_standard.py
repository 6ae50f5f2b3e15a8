# SPDX-License-Identifier: Apache-2.0
"""What a launcher prepares ahead, against what a config says of it."""

from __future__ import annotations

from mooring_agent.linux import syscalls
from mooring_agent.runtime.compile import STANDARD_MOUNTS
from mooring_agent.runtime.mounts import Filesystem, Mask, Node, ReadOnly, Seal
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS, TREES, standard_mounts

FLAGS = {
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "ro": syscalls.MS_RDONLY,
    "strictatime": syscalls.MS_STRICTATIME,
}
SHM = 64 << 20
OURS = standard_mounts(SHM, ("cpu,cpuacct", "memory"))


def filesystems(hierarchies: tuple[str, ...] = ()) -> dict[str, Filesystem]:
    return {one.target: one for one in standard_mounts(SHM, hierarchies) if isinstance(one, Filesystem)}


def test_what_is_prepared_is_what_the_config_says() -> None:
    """A user who reads the config in `inspect` must find what is in the container."""
    prepared = filesystems()
    for said in STANDARD_MOUNTS:
        if said["destination"] == "/sys/fs/cgroup":
            continue
        ours = prepared[said["destination"]]
        assert ours.fstype == said["type"]
        flags = 0
        for option in said["options"]:
            flags |= FLAGS.get(option, 0)
        assert ours.flags == flags, said["destination"]
        data = {option for option in said["options"] if option not in FLAGS}
        assert _in_bytes(set(ours.data.split(",")) - {""}) == _in_bytes(data), said["destination"]


def test_all_of_it_is_in_the_trees_that_are_moved() -> None:
    for operation in OURS:
        targets = operation.paths if isinstance(operation, (Mask, ReadOnly)) else (operation.target,)  # type: ignore[attr-defined]
        for target in targets:
            assert target.split("/")[1] in TREES, operation.describe()


def test_a_file_system_comes_before_what_is_in_it() -> None:
    made: list[str] = []
    for operation in OURS:
        if isinstance(operation, Filesystem):
            made.append(operation.target)
        elif isinstance(operation, Node):
            assert "/dev" in made
    for index, target in enumerate(made):
        assert not any(later != target and target.startswith(f"{later}/") for later in made[index + 1 :])
    assert isinstance(OURS[-2], Mask)
    assert isinstance(OURS[-1], ReadOnly)


def test_the_devices_are_those_of_the_runtime_spec() -> None:
    nodes = {node.target: (node.major, node.minor, node.mode) for node in OURS if isinstance(node, Node)}
    assert nodes == {
        "/dev/null": (1, 3, 0o666),
        "/dev/zero": (1, 5, 0o666),
        "/dev/full": (1, 7, 0o666),
        "/dev/random": (1, 8, 0o666),
        "/dev/urandom": (1, 9, 0o666),
        "/dev/tty": (5, 0, 0o666),
    }


def test_control_groups_are_shown_read_only() -> None:
    v2 = filesystems(("",))["/sys/fs/cgroup"]
    assert (v2.fstype, v2.flags & syscalls.MS_RDONLY) == ("cgroup2", syscalls.MS_RDONLY)
    v1 = filesystems(("cpu,cpuacct", "memory"))
    assert v1["/sys/fs/cgroup"].fstype == "tmpfs"
    for name in ("cpu,cpuacct", "memory"):
        group = v1[f"/sys/fs/cgroup/{name}"]
        assert (group.data, group.flags & syscalls.MS_RDONLY) == (name, syscalls.MS_RDONLY)
    assert Seal("/sys/fs/cgroup") in OURS
    assert "/sys/fs/cgroup" not in filesystems()


def test_the_paths_of_the_security_baseline_are_covered() -> None:
    for path in ("/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"):
        assert path in MASKED_PATHS
    for path in ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus", "/proc/fs"):
        assert path in READ_ONLY_PATHS


def _in_bytes(options: set[str]) -> set[str]:
    return {option.replace("65536k", str(65536 << 10)) for option in options}
