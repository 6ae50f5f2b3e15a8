# SPDX-License-Identifier: Apache-2.0
"""From an OCI runtime-spec config to a launch plan."""

from __future__ import annotations

import copy
import resource
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.linux import syscalls
from mooring_agent.runtime import compile, mounts
from mooring_agent.runtime.compile import STANDARD_MOUNTS, compile_launch, is_standard
from mooring_agent.runtime.plan import LaunchPlan
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

ROOT = mounts.Overlay(("/layers/1",), "/upper", "/work")
CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "hostname": "inner",
    "domainname": "example",
    "root": {"path": "rootfs", "readonly": True},
    "process": {
        "args": ["sh", "-c", "true"],
        "env": ["PATH=/bin", "A=b=c"],
        "cwd": "/srv",
        "terminal": True,
        "consoleSize": {"height": 24, "width": 80},
        "user": {"uid": 5, "gid": 6, "additionalGids": [7], "umask": 0o27},
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"], "effective": ["CAP_CHOWN"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}],
        "noNewPrivileges": True,
        "oomScoreAdj": 100,
    },
    "mounts": [
        *STANDARD_MOUNTS,
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "rro"]},
        {
            "destination": "/tmp",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "size=1m", "mode=1777"],
        },
    ],
    "linux": {
        "namespaces": [
            {"type": "pid"},
            {"type": "mount"},
            {"type": "network", "path": "/run/netns/x"},
            {"type": "uts"},
            {"type": "cgroup"},
        ],
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READ_ONLY_PATHS),
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "rootfsPropagation": "rslave",
    },
}
# The least that the runtime-spec asks of a config.
BARE: dict[str, Any] = {"ociVersion": "1.0.0", "root": {"path": "rootfs"}}


def compiled(config: dict[str, Any]) -> LaunchPlan:
    return compile_launch(
        config,
        id="abc",
        group="abc",
        root=ROOT,
        group_settings=((0, "pids.max", "5"),),
        netlink=(b"\x01\x02",),
        seccomp="/filters/1",
        bundle="/bundle",
    )


def changed(part: str, **values: Any) -> dict[str, Any]:
    """The config with another `part`: "" for its top, else the object of that name."""
    return {**CONFIG, **values} if not part else {**CONFIG, part: {**CONFIG[part], **values}}


def test_everything_of_a_config_is_in_the_plan() -> None:
    plan = compiled(CONFIG)
    assert (plan.id, plan.group, plan.root) == ("abc", "abc", ROOT)
    assert (plan.hostname, plan.domainname) == ("inner", "example")
    assert plan.read_only_root
    assert plan.group_settings == ((0, "pids.max", "5"),)
    assert plan.netlink == ("0102",)
    assert plan.join == (("net", "/run/netns/x"),)
    assert plan.sysctls == (("net/ipv4/ip_forward", "1"),)
    assert plan.propagation == syscalls.MS_SLAVE | syscalls.MS_REC
    assert plan.mounts == (
        mounts.Bind("/srv/data", "/data", tree_set=syscalls.MOUNT_ATTR_RDONLY),
        mounts.Filesystem("tmpfs", "tmpfs", "/tmp", syscalls.MS_NOSUID, "size=1m,mode=1777"),
        mounts.Directory("/srv"),
    )
    process = plan.process
    assert (process.args, process.env, process.cwd) == (("sh", "-c", "true"), ("PATH=/bin", "A=b=c"), "/srv")
    assert (process.user, process.additional_gids, process.umask) == ("5:6", (7,), 0o27)
    assert (process.terminal, process.no_new_privileges, process.oom_score_adj) == (True, True, 100)
    assert (process.capabilities.bounding, process.capabilities.effective) == (0b100001, 0b1)
    assert process.capabilities.permitted == process.capabilities.inheritable == 0
    assert process.exact_capabilities
    assert process.console_size == (24, 80)
    assert process.rlimits == ((resource.RLIMIT_NOFILE, 100, 200),)
    assert process.seccomp == "/filters/1"


def test_the_least_config_has_the_default_devices_and_no_process() -> None:
    plan = compiled(BARE)
    assert plan.process.args == ()
    made = {one.target for one in plan.mounts if isinstance(one, mounts.Node)}
    assert made == {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}
    assert mounts.Link("/dev/ptmx", "pts/ptmx", replace=True) in plan.mounts
    assert len(plan.mounts) == len(made) + 6


@pytest.mark.parametrize("config", [CONFIG, BARE])
def test_a_compiled_plan_survives_the_wire(config: dict[str, Any]) -> None:
    plan = compiled(config)
    assert LaunchPlan.decode(plan.encode()) == plan


def test_compiling_changes_nothing_of_the_config() -> None:
    config = copy.deepcopy(CONFIG)
    compiled(config)
    assert config == CONFIG


def test_namespaces_are_new_or_joined_in_a_fixed_order() -> None:
    assert compile.new_namespaces(CONFIG) == ("mnt", "pid", "uts", "cgroup")
    assert compile.joined_namespaces(CONFIG) == (("net", "/run/netns/x"),)
    every = {"linux": {"namespaces": [{"type": kind} for kind in reversed(compile.NAMESPACE_TYPES)]}}
    assert compile.new_namespaces(every) == ("mnt", "pid", "net", "uts", "ipc", "cgroup", "user", "time")


@pytest.mark.parametrize(
    "config",
    [
        changed("", mounts=[*reversed(STANDARD_MOUNTS)]),
        changed("", mounts=[]),
        changed("linux", maskedPaths=[]),
        changed("linux", readonlyPaths=["/proc/sys"]),
        changed("linux", namespaces=[*CONFIG["linux"]["namespaces"], {"type": "user"}]),
        changed("linux", namespaces=[{"type": "uts"}, {"type": "network"}]),
        BARE,
    ],
)
def test_what_is_not_standard_names_every_file_system_itself(config: dict[str, Any]) -> None:
    assert is_standard(CONFIG)
    assert not is_standard(config)
    plan = compiled(config)
    targets = [getattr(operation, "target", "") for operation in plan.mounts]
    for mount in config.get("mounts", []):
        assert mount["destination"] in targets
    masked = [one.paths for one in plan.mounts if isinstance(one, mounts.Mask)]
    assert masked == ([tuple(paths)] if (paths := config.get("linux", {}).get("maskedPaths")) else [])


def test_a_device_of_the_config_comes_in_place_of_a_default_one() -> None:
    device = {"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3, "gid": 4}
    plan = compiled({**BARE, "linux": {"devices": [device]}})
    found = [one for one in plan.mounts if isinstance(one, mounts.Node) and one.target == "/dev/null"]
    assert found == [mounts.Node("/dev/null", 1, 3, 0o600, uid=3, gid=4)]


def test_devices_join_the_standard_ones() -> None:
    fuse = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}
    plan = compiled({**changed("linux", devices=[fuse]), "root": {"path": "rootfs"}})
    assert plan.mounts[-1] == mounts.Node("/dev/fuse", 10, 229)
    assert len(plan.mounts) == 3


def test_nothing_is_added_to_a_bind_of_devices() -> None:
    bind = {"destination": "/dev/", "type": "bind", "source": "/dev", "options": ["rbind"]}
    assert compiled({**BARE, "mounts": [bind]}).mounts == (mounts.Bind("/dev", "/dev"),)


def test_a_user_namespace_owns_its_devices() -> None:
    ids = [{"containerID": 0, "hostID": 100_000, "size": 10}]
    linux = {"namespaces": [{"type": "user"}], "uidMappings": ids, "gidMappings": ids}
    device = {"path": "/dev/x", "type": "b", "major": 1, "minor": 5, "uid": 3}
    plan = compiled({**BARE, "linux": {**linux, "devices": [device]}})
    nodes = [one for one in plan.mounts if isinstance(one, mounts.Node)]
    assert {(one.uid, one.gid) for one in nodes[:-1]} == {(100_000, 100_000)}
    assert (nodes[-1].uid, nodes[-1].gid, nodes[-1].kind) == (100_003, 100_000, "b")


def test_time_offsets() -> None:
    linux = {"namespaces": [{"type": "time"}], "timeOffsets": {"boottime": {"secs": -5, "nanosecs": 7}}}
    assert compile.time_offsets({"linux": linux}) == (("boottime", -5, 7),)


NAMESPACES = CONFIG["linux"]["namespaces"]
IDS = [{"containerID": 0, "hostID": 1, "size": 1}]


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (changed("", mounts={"a": 1}), ["config.mounts"]),
        (changed("", mounts=["x"]), ["config.mounts"]),
        (changed("", linux="x"), ["config.linux"]),
        (changed("", hostname="x" * 65), ["config.hostname", "64"]),
        (changed("", hostname=5), ["config.hostname"]),
        (changed("linux", namespaces=[{"type": "mount"}]), ["config.hostname", "uts"]),
        (changed("linux", namespaces=[*NAMESPACES, {"type": "uts"}]), ["namespaces", "uts", "twice"]),
        (changed("linux", namespaces=[{"type": "moon"}]), ["namespaces", "moon"]),
        (changed("linux", namespaces=[*NAMESPACES, {"type": "ipc", "path": "x"}]), ["ipc", "absolute"]),
        (changed("linux", uidMappings=IDS, gidMappings=IDS), ["uidMappings", "user"]),
        (
            changed("linux", namespaces=[*NAMESPACES, {"type": "user"}], uidMappings=IDS),
            ["gidMappings", "both"],
        ),
        (
            changed("linux", namespaces=[*NAMESPACES, {"type": "user"}], uidMappings=[{}], gidMappings=IDS),
            ["config.linux.uidMappings", "containerID"],
        ),
        (changed("linux", sysctl={"kernel.panic": "1"}), ["sysctl.kernel.panic", "host"]),
        (changed("linux", sysctl={"kernel.shmmax": "1"}), ["sysctl.kernel.shmmax", "ipc"]),
        (changed("linux", sysctl={"fs.mqueue.msg_max": "1"}), ["fs.mqueue.msg_max", "ipc"]),
        (changed("linux", sysctl={"net.ipv4.ip_forward": 1}), ["net.ipv4.ip_forward", "text"]),
        (changed("linux", sysctl={"net/../kernel/panic": "1"}), ["net/../kernel/panic"]),
        (changed("linux", sysctl={"kernel.domainname": "other"}), ["kernel.domainname", "'example'"]),
        (changed("linux", sysctl="x"), ["config.linux.sysctl"]),
        (changed("linux", rootfsPropagation="sideways"), ["rootfsPropagation", "sideways", "rslave"]),
        (changed("linux", maskedPaths=["proc"]), ["maskedPaths", "'proc'"]),
        (changed("linux", readonlyPaths=[1]), ["readonlyPaths"]),
        (changed("linux", devices={"a": 1}), ["config.linux.devices"]),
        (changed("linux", devices=[{"path": "/dev/x", "type": "x"}]), ["devices[0].type", "/dev/x"]),
        (changed("linux", devices=[{"path": "/", "type": "c"}]), ["devices[0].path"]),
        (changed("linux", devices=[{"path": "/dev/x", "type": "c", "major": 1}]), ["devices[0].minor"]),
        (changed("linux", devices=[{"path": "/x", "type": "p", "uid": -1}]), ["devices[0].uid"]),
        (changed("", mounts=[*STANDARD_MOUNTS, {"type": "tmpfs"}]), ["config.mounts[7]", "destination"]),
    ],
)
def test_what_is_wrong_is_named(config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        compiled(config)
    for word in words:
        assert word in refused.value.message


def test_what_this_runtime_lacks_is_named() -> None:
    with pytest.raises(NotSupported, match="intelRdt"):
        compiled(changed("linux", intelRdt={"closID": "x"}))


@pytest.mark.parametrize(
    ("offsets", "word"),
    [
        ({"realtime": {"secs": 1}}, "realtime"),
        ({"boottime": {"nanosecs": 10**9}}, "nanosecs"),
        ({"boottime": 5}, "boottime"),
    ],
)
def test_wrong_time_offsets_are_named(offsets: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidSpec, match=word):
        compile.time_offsets({"linux": {"namespaces": [{"type": "time"}], "timeOffsets": offsets}})


def test_time_offsets_need_a_namespace() -> None:
    with pytest.raises(InvalidSpec, match="time"):
        compile.time_offsets({"linux": {"timeOffsets": {"boottime": {"secs": 1}}}})


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.5/forwarding", "net/ipv4/conf/eth0.5/forwarding"),
        ("net.ipv4.conf.eth0/5.forwarding", "net/ipv4/conf/eth0.5/forwarding"),
    ],
)
def test_kernel_parameters_are_files(name: str, file: str) -> None:
    assert compiled(changed("linux", sysctl={name: "1"})).sysctls == ((file, "1"),)
