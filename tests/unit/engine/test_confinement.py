# SPDX-License-Identifier: Apache-2.0
"""What a spec asks for, in words of the runtime-spec; a plain container asks for nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.engine.confinement import (
    DeviceNode,
    Surroundings,
    capabilities_of,
    device_rules,
    devices_of,
    is_plain,
)
from mooring_agent.engine.container import Container
from mooring_agent.engine.initprogram import init_program, is_static
from mooring_agent.engine.joining import donors_first
from mooring_agent.engine.launching import root_is_shared
from mooring_agent.engine.oci import runtime_config
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.engine.resources.namespaces import IdRange
from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.runtime.compile import STANDARD_MOUNTS, compile_launch, is_standard
from mooring_agent.runtime.mounts import BindRoot

IDS = (IdRange(0, 100_000, 65536),)
FUSE = DeviceNode("/dev/fuse", "c", 10, 229, 0o666, 0, 0)


def container(name: str = "a" * 64, joins: tuple[tuple[str, str], ...] = (), **spec: Any) -> Container:
    return Container(
        id=name,
        name="web1",
        spec=ContainerSpec.parse({"image": "busybox", **spec}),
        image_id="sha256:0",
        created_at=0.0,
        managed=True,
        argv=("sleep", "1"),
        env=(),
        workdir="/",
        user="0",
        stop_signal="TERM",
        joins=joins,
    )


def config(around: Surroundings | None = None, **spec: Any) -> dict[str, Any]:
    made = runtime_config(container(**spec), "/etc-of", {"/v": "/volumes/v"}, around or Surroundings())
    # Whatever is made must mean something to the runtime.
    compile_launch(made, id="a", group="a", root=BindRoot("/"))
    return made


def kinds(made: dict[str, Any]) -> set[str]:
    return {one["type"] for one in made["linux"]["namespaces"]}


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"cap_add": ["NET_ADMIN"], "read_only": True, "no_new_privileges": True},
        {"volumes": [{"type": "tmpfs", "target": "/t", "options": ["exec"]}, "v1:/v"]},
        {"networks": ["none"]},
    ],
)
def test_a_plain_container_has_the_standard_config(spec: dict[str, Any]) -> None:
    assert is_plain(container(**spec).spec)
    assert is_standard(config(**spec))


@pytest.mark.parametrize(
    "spec",
    [
        {"init": True},
        {"seccomp": "unconfined"},
        {"seccomp": {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]}},
        {"ulimits": {"nofile": 5}},
        {"sysctls": {"net.ipv4.ip_forward": 1}},
        {"group_add": ["7"]},
        {"devices": ["/dev/fuse"]},
        {"uts": "host"},
        {"pid": "host"},
        {"userns": "host"},
        {"init": False, "privileged": False},
    ],
)
def test_what_changes_no_file_system_is_started_by_a_launcher_with_the_standard_ones(
    spec: dict[str, Any],
) -> None:
    assert is_standard(config(Surroundings(init="/usr/bin/tini-static", devices=(FUSE,)), **spec))


@pytest.mark.parametrize(
    "spec",
    [{"privileged": True}, {"shm_size": "1m"}, {"ipc": "host"}, {"masked_paths": []}, {"cgroupns": "host"}],
)
def test_other_file_systems_need_a_launcher_without(spec: dict[str, Any]) -> None:
    assert not is_standard(config(**spec))


def test_a_privileged_container() -> None:
    made = config(Surroundings(devices=(FUSE,)), privileged=True)
    assert made["linux"]["maskedPaths"] == made["linux"]["readonlyPaths"] == []
    assert not any("ro" in mount["options"] for mount in made["mounts"])
    assert [device["path"] for device in made["linux"]["devices"]] == ["/dev/fuse"]
    assert set(made["process"]["capabilities"]["bounding"]) > set(capabilities_of(container().spec))
    assert str(device_rules(container(privileged=True).spec, ())[0]) == "a *:* rwm"


def test_what_is_asked_for_beside_privileges_holds() -> None:
    made = config(privileged=True, masked_paths=["/proc/keys"], cap_drop=["CHOWN"])
    assert made["linux"]["maskedPaths"] == ["/proc/keys"]
    assert "CAP_CHOWN" not in made["process"]["capabilities"]["bounding"]


def test_namespaces_of_others_are_joined_and_the_host_s_left_alone() -> None:
    joined = (("network", "/proc/1/fd/5"), ("pid", "/proc/1/fd/6"))
    made = config(Surroundings(joined=joined), networks=["container:web2"], pid="container:web2", uts="host")
    paths = {one["type"]: one.get("path") for one in made["linux"]["namespaces"]}
    assert paths == {
        "mount": None,
        "pid": "/proc/1/fd/6",
        "network": "/proc/1/fd/5",
        "ipc": None,
        "cgroup": None,
    }
    # The other container's network is as that one wants it.
    assert made["linux"]["sysctl"] == {}
    assert made["hostname"] == ""


def test_mapped_users() -> None:
    bind = {"type": "bind", "source": "/srv", "target": "/srv"}
    own = {"type": "bind", "source": "/own", "target": "/own", "idmap": True}
    made = config(Surroundings(id_maps=(IDS, IDS)), userns="auto", volumes=[bind, own, "v1:/v"])
    assert kinds(made) == {"user", "mount", "pid", "network", "uts", "ipc", "cgroup"}
    mapping = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    assert made["linux"]["uidMappings"] == made["linux"]["gidMappings"] == mapping
    mapped = {mount["destination"] for mount in made["mounts"] if mount.get("uidMappings") == mapping}
    assert mapped == {"/own", "/v", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


def test_an_init_comes_first() -> None:
    made = config(Surroundings(init="/usr/bin/tini-static"), init=True)
    assert made["process"]["args"] == ["/sbin/docker-init", "--", "sleep", "1"]
    assert made["mounts"][-1]["source"] == "/usr/bin/tini-static"
    assert "ro" in made["mounts"][-1]["options"]


def test_shared_memory() -> None:
    def shm(**spec: Any) -> dict[str, Any] | None:
        mounts = config(**spec)["mounts"]
        return next((mount for mount in mounts if mount["destination"] == "/dev/shm"), None)

    assert shm() == STANDARD_MOUNTS[-1]
    sized = shm(shm_size="1m")
    assert sized is not None
    assert "size=1048576" in sized["options"]
    assert shm(ipc="none") is None
    assert shm(ipc="container:web2") is None


def test_limits_and_labels_of_the_process() -> None:
    process = config(
        ulimits={"nofile": "5:10", "core": -1}, oom_score_adj=7, apparmor="web", selinux=["type:web_t"]
    )["process"]
    limits = {limit["type"]: (limit["soft"], limit["hard"]) for limit in process["rlimits"]}
    assert limits == {"RLIMIT_NOFILE": (5, 10), "RLIMIT_CORE": (2**64 - 1, 2**64 - 1)}
    assert process["oomScoreAdj"] == 7
    assert process["apparmorProfile"] == "web"
    assert process["selinuxLabel"] == "system_u:system_r:web_t:s0"


def test_the_white_list_has_the_access_that_a_device_was_given() -> None:
    spec = container(devices=["/dev/fuse:/dev/f:rw", "/dev/snd"], device_cgroup_rules=["b 8:* r"]).spec
    nodes = (
        DeviceNode("/dev/f", "c", 10, 229, 0o666, 0, 0),
        DeviceNode("/dev/snd/a", "c", 116, 2, 0o666, 0, 0),
    )
    assert [str(rule) for rule in device_rules(spec, nodes)] == ["c 10:229 rw", "c 116:2 rwm", "b 8:* r"]


def test_those_that_are_joined_start_first() -> None:
    donor = container("d" * 64)
    guest = container("g" * 64, joins=(("pid", "d" * 64), ("network", "x" * 64)))
    second = container("s" * 64, joins=(("ipc", "g" * 64),))
    order = list(donors_first([second, guest, donor]))
    assert order == [(donor,), (guest,), (second,)]
    one = container("1" * 64, joins=(("pid", "2" * 64),))
    two = container("2" * 64, joins=(("pid", "1" * 64),))
    assert list(donors_first([one, two])) == [(one, two)]


def test_a_host_without_an_init_names_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match="install the package tini"):
        init_program()
    dynamic = tmp_path / "tini"
    shutil.copy("/usr/bin/env", dynamic)
    with pytest.raises(MissingProgram):
        init_program()


def test_a_program_that_needs_libraries_is_no_init(tmp_path: Path) -> None:
    assert not is_static("/usr/bin/env")
    assert not is_static(str(tmp_path / "absent"))
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert not is_static(str(script))


@pytest.mark.parametrize(
    ("line", "shared"),
    [
        ("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw", False),
        ("22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw", True),
        ("22 1 8:1 / / rw,relatime master:3 shared:1 - ext4 /dev/sda1 rw", True),
        ("23 22 0:5 / /proc rw shared:7 - proc proc rw", False),
    ],
)
def test_whether_the_host_s_mounts_reach_those_who_wait(line: str, shared: bool) -> None:
    assert root_is_shared(f"{line}\n") == shared


def test_devices_that_cannot_be_listed_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(path: object) -> list[str]:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", refuse)
    spec = container(devices=[str(tmp_path)]).spec
    with pytest.raises(InvalidSpec, match=f"below {tmp_path} cannot be listed: Permission denied"):
        devices_of("web", spec)
