# SPDX-License-Identifier: Apache-2.0
"""What opens or closes a container goes from Docker's words to ours, and comes back from inspect the same."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from mooring_agent.api.docker.convert import convert
from mooring_agent.api.docker.inspect_security import confinement
from mooring_agent.api.docker.render import bind_mode
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec
from mooring_agent.runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

PROFILE = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}


def converted(**host: Any) -> ContainerSpec:
    return ContainerSpec.parse(convert({"Image": "web:1", "HostConfig": host}).spec)


def shown(spec: ContainerSpec, **joins: str) -> dict[str, Any]:
    return confinement(SimpleNamespace(spec=spec, joins=tuple(joins.items())))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "host",
    [
        {"Privileged": True},
        {"Init": True},
        {"PidMode": "host"},
        {"IpcMode": "shareable"},
        {"UTSMode": "host"},
        {"CgroupnsMode": "host"},
        {"UsernsMode": "host"},
        {"UsernsMode": "auto"},
        {"UsernsMode": "100000:65536"},
        {"ShmSize": 1 << 20},
        {"OomScoreAdj": -500},
        {"GroupAdd": ["7", "audio"]},
        {"Sysctls": {"net.ipv4.ip_forward": "1"}},
        {"Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/f", "CgroupPermissions": "rw"}]},
        {"DeviceCgroupRules": ["c 10:200 rwm"]},
        {"Ulimits": [{"Name": "nofile", "Soft": 5, "Hard": 10}, {"Name": "nproc", "Soft": -1, "Hard": -1}]},
        {"SecurityOpt": ["no-new-privileges", "seccomp=unconfined", "apparmor=web", "label=type:web_t"]},
        {"SecurityOpt": [f"seccomp={json.dumps(PROFILE)}"]},
        {"MaskedPaths": [], "ReadonlyPaths": []},
        {"MaskedPaths": ["/proc/keys"]},
    ],
)
def test_inspect_shows_what_was_asked_for(host: dict[str, Any]) -> None:
    document = shown(converted(**host))
    assert {key: document[key] for key in host} == host


def test_a_container_that_asks_for_nothing_has_no_option_of_these() -> None:
    nothing = {
        "MaskedPaths": None,
        "ReadonlyPaths": None,
        "PidMode": "",
        "IpcMode": "",
        "Init": None,
        "SecurityOpt": None,
    }
    spec = converted(**nothing)
    assert spec.given == {"image": "web:1"}
    assert shown(spec)["MaskedPaths"] == list(MASKED_PATHS)
    assert shown(spec)["ReadonlyPaths"] == list(READ_ONLY_PATHS)
    assert shown(spec)["IpcMode"] == "private"


def test_nothing_of_a_privileged_container_is_hidden() -> None:
    assert shown(converted(Privileged=True))["MaskedPaths"] is None


def test_another_container_is_shown_by_its_id() -> None:
    spec = converted(PidMode="container:web1", IpcMode="container:web2")
    assert spec.given == {"image": "web:1", "pid": "container:web1", "ipc": "container:web2"}
    document = shown(spec, pid="a" * 64, ipc="b" * 64)
    assert (document["PidMode"], document["IpcMode"]) == (f"container:{'a' * 64}", f"container:{'b' * 64}")


@pytest.mark.parametrize(
    ("option", "fields"),
    [
        ("no-new-privileges:true", {"no_new_privileges": True}),
        ("seccomp:unconfined", {"seccomp": "unconfined"}),
        ("seccomp=builtin", {"seccomp": "default"}),
        ("systempaths=unconfined", {"masked_paths": [], "readonly_paths": []}),
        ("unmask=ALL", {"masked_paths": [], "readonly_paths": []}),
        ("mask=/sys/kernel:/proc/x", {"masked_paths": sorted([*MASKED_PATHS, "/sys/kernel", "/proc/x"])}),
        (
            "unmask=/proc/acpi",
            {"masked_paths": sorted(MASKED_PATHS[1:]), "readonly_paths": sorted(READ_ONLY_PATHS)},
        ),
    ],
)
def test_security_options(option: str, fields: dict[str, Any]) -> None:
    assert converted(SecurityOpt=[option]).given == {"image": "web:1", **fields}


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ({"SecurityOpt": ["seccomp=/etc/profile.json"]}, "the JSON of a profile"),
        ({"SecurityOpt": ["no-new-privileges=perhaps"]}, "true or false"),
        ({"SecurityOpt": ["systempaths=all"]}, "expected unconfined"),
        ({"Devices": [{"PathInContainer": "/dev/x"}]}, "PathOnHost is missing"),
        ({"Ulimits": [{"Soft": 1}]}, "Ulimits[0].Name is missing"),
        ({"PidMode": "private:x"}, "or container:NAME"),
        ({"Sysctls": {"vm.swappiness": "1"}}, "set on the host"),
    ],
)
def test_what_is_malformed_is_refused_by_name(host: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        converted(**host)
    assert words in caught.value.message


def test_a_bind_keeps_its_propagation() -> None:
    (volume,) = converted(Binds=["/a:/b:ro,rslave"]).volumes
    assert (volume.read_only, volume.propagation, bind_mode(volume)) == (True, "rslave", "ro,rslave")
    options = {"Propagation": "shared", "NonRecursive": True}
    mount = {"Type": "bind", "Source": "/a", "Target": "/b", "BindOptions": options}
    (volume,) = converted(Mounts=[mount]).volumes
    assert (volume.propagation, volume.recursive, bind_mode(volume)) == ("shared", False, "shared")


def test_a_tmpfs_keeps_its_options() -> None:
    spec = converted(Tmpfs={"/run": "rw,noexec,size=64k,mode=755,uid=7"})
    (volume,) = spec.volumes
    assert (volume.size, volume.options) == (65536, ("mode=755", "uid=7"))
    mount = {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"Mode": 0o1750, "Options": [["exec"]]}}
    (volume,) = converted(Mounts=[mount]).volumes
    assert volume.options == ("exec", "mode=1750")
