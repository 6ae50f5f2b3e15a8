# SPDX-License-Identifier: Apache-2.0
"""From an OCI runtime-spec config to a launch plan."""

from __future__ import annotations

import copy
import resource
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.runtime import compile, mounts
from mooring_agent.runtime.compile import STANDARD_MOUNTS, compile_launch, compile_mount, compile_process
from mooring_agent.runtime.plan import LaunchPlan
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

ROOT = mounts.Overlay(("/layers/1",), "/upper", "/work")
CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "hostname": "inner",
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
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=1m"]},
    ],
    "linux": {
        "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network", "path": "/run/netns/x"}],
        "maskedPaths": list(MASKED_PATHS),
        "readonlyPaths": list(READ_ONLY_PATHS),
        "sysctl": {"net.ipv4.ip_forward": "1"},
    },
}


def compiled(config: dict[str, Any]) -> LaunchPlan:
    return compile_launch(
        config,
        id="abc",
        group="abc",
        root=ROOT,
        group_settings=((0, "pids.max", "5"),),
        netlink=(b"\x01\x02",),
        seccomp="/filters/1",
    )


def test_everything_of_a_config_is_in_the_plan() -> None:
    plan = compiled(CONFIG)
    assert (plan.id, plan.group, plan.root, plan.hostname) == ("abc", "abc", ROOT, "inner")
    assert plan.read_only_root
    assert plan.group_settings == ((0, "pids.max", "5"),)
    assert plan.netlink == ("0102",)
    assert plan.join == (("net", "/run/netns/x"),)
    assert plan.sysctls == (("net/ipv4/ip_forward", "1"),)
    assert plan.mounts == (
        mounts.Bind("/srv/data", "/data", ("ro",), recursive=True),
        mounts.Filesystem("tmpfs", "tmpfs", "/tmp", 0x2, "size=1m"),
    )
    process = plan.process
    assert (process.args, process.env, process.cwd) == (("sh", "-c", "true"), ("PATH=/bin", "A=b=c"), "/srv")
    assert (process.user, process.additional_gids, process.umask) == ("5:6", (7,), 0o27)
    assert (process.terminal, process.no_new_privileges, process.oom_score_adj) == (True, True, 100)
    assert (process.capabilities.bounding, process.capabilities.effective) == (0b100001, 0b1)
    assert process.capabilities.permitted == process.capabilities.inheritable == 0
    assert process.console_size == (24, 80)
    assert process.rlimits == ((resource.RLIMIT_NOFILE, 100, 200),)
    assert process.seccomp == "/filters/1"


def test_a_compiled_plan_survives_the_wire() -> None:
    plan = compiled(CONFIG)
    assert LaunchPlan.decode(plan.encode()) == plan


def test_compiling_changes_nothing_of_the_config() -> None:
    config = copy.deepcopy(CONFIG)
    compiled(config)
    assert config == CONFIG


def test_a_user_by_name_comes_as_an_annotation() -> None:
    process = compile_process(CONFIG["process"], {compile.USER_ANNOTATION: "web:staff"}, None)
    assert process.user == "web:staff"


def test_namespaces_are_new_or_joined_in_a_fixed_order() -> None:
    assert compile.new_namespaces(CONFIG) == ("mnt", "pid")
    assert compile.joined_namespaces(CONFIG) == (("net", "/run/netns/x"),)
    every = {"linux": {"namespaces": [{"type": kind} for kind in reversed(compile.NAMESPACE_TYPES)]}}
    assert compile.new_namespaces(every) == ("mnt", "pid", "net", "uts", "ipc", "cgroup")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["bind"], mounts.Bind("/s", "/d", (), recursive=False)),
        (["rbind", "ro"], mounts.Bind("/s", "/d", ("ro",), recursive=True)),
        (
            ["nosuid", "bind", "nodev", "noexec"],
            mounts.Bind("/s", "/d", ("nosuid", "nodev", "noexec"), False),
        ),
    ],
)
def test_binds(options: list[str], expected: mounts.Bind) -> None:
    assert (
        compile_mount({"type": "bind", "source": "/s", "destination": "/d", "options": options}) == expected
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mounts": []}, ["config.mounts", "standard"]),
        ({"mounts": [*reversed(STANDARD_MOUNTS)]}, ["config.mounts", "order"]),
        ({"linux": {**CONFIG["linux"], "maskedPaths": []}}, ["maskedPaths"]),
        ({"linux": {**CONFIG["linux"], "readonlyPaths": ["/proc"]}}, ["readonlyPaths"]),
        (
            {"mounts": [*STANDARD_MOUNTS, {"destination": "/n", "type": "nfs", "source": "h:/x"}]},
            ["'nfs'", "/n", "bind or tmpfs"],
        ),
    ],
)
def test_what_cannot_be_done_is_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(NotSupported) as refused:
        compiled({**CONFIG, **change})
    for word in words:
        assert word in refused.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"capabilities": {"effective": ["CAP_FLY"]}}, ["effective", "CAP_FLY", "CAP_CHOWN"]),
        ({"capabilities": {"bounding": ["chown"]}}, ["bounding", "chown"]),
        ({"rlimits": [{"type": "RLIMIT_FLY", "soft": 1, "hard": 1}]}, ["RLIMIT_FLY", "RLIMIT_NOFILE"]),
        ({"rlimits": [{"type": "getrlimit", "soft": 1, "hard": 1}]}, ["getrlimit"]),
        ({"rlimits": [{"type": "RLIM_INFINITY", "soft": 1, "hard": 1}]}, ["RLIM_INFINITY"]),
    ],
)
def test_what_is_not_known_is_named(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        compile_process({**CONFIG["process"], **change}, {}, None)
    for word in words:
        assert word in refused.value.message
