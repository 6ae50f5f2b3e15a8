# SPDX-License-Identifier: Apache-2.0
"""The part of HostConfig that opens or closes a container: the inverse of `convert_security`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ...runtime.standard import MASKED_PATHS, READ_ONLY_PATHS

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.resources import ContainerSpec, VolumeMount

_JOINED = "container:"


def confinement(container: Container) -> dict[str, Any]:
    """These fields of HostConfig. A null is what a client has not asked for."""
    spec = container.spec
    fields: dict[str, Any] = {
        "CgroupnsMode": mode(container, "cgroup", spec.cgroupns),
        "GroupAdd": list(spec.group_add) or None,
        "IpcMode": mode(container, "ipc", spec.ipc),
        "OomScoreAdj": spec.oom_score_adj,
        "PidMode": "" if spec.pid == "private" else mode(container, "pid", spec.pid),
        "Privileged": spec.privileged,
        "SecurityOpt": _security_options(spec) or None,
        "UTSMode": _uts_mode(container),
        "UsernsMode": _user_mode(container),
        "ShmSize": spec.shm_size,
        "Devices": [
            {
                "PathOnHost": device.host,
                "PathInContainer": device.container,
                "CgroupPermissions": device.access,
            }
            for device in spec.devices
        ],
        "DeviceCgroupRules": list(spec.device_cgroup_rules) or None,
        "Ulimits": [
            {"Name": name, "Soft": limit.soft, "Hard": limit.hard} for name, limit in spec.ulimits.items()
        ]
        or None,
        "MaskedPaths": _paths(spec.masked_paths, MASKED_PATHS, spec),
        "ReadonlyPaths": _paths(spec.readonly_paths, READ_ONLY_PATHS, spec),
    }
    if spec.storage_size is not None:
        fields["StorageOpt"] = container.extra.get("StorageOpt") or {"size": str(spec.storage_size)}
    if spec.sysctls:
        fields["Sysctls"] = dict(spec.sysctls)
    if "init" in spec.given_fields:
        fields["Init"] = spec.init
    return fields


def mode(container: Container, kind: str, given: str) -> str:
    """A namespace's mode; another container is shown by its id."""
    joined = dict(container.joins).get(kind)
    return f"{_JOINED}{joined}" if joined is not None else given


def tmpfs(volume: VolumeMount) -> str:
    """The options of a tmpfs as they were given."""
    size = [] if volume.size is None else [f"size={volume.size}"]
    return ",".join([*(["ro"] if volume.read_only else []), *volume.options, *size])


def _paths(given: tuple[str, ...] | None, standard: tuple[str, ...], spec: ContainerSpec) -> list[str] | None:
    if given is not None:
        return list(given)
    return None if spec.privileged else list(standard)


def _security_options(spec: ContainerSpec) -> list[str]:
    options = ["no-new-privileges"] if spec.no_new_privileges else []
    if "seccomp" in spec.given_fields:
        profile = spec.seccomp if isinstance(spec.seccomp, str) else json.dumps(spec.seccomp)
        options.append(f"seccomp={'builtin' if profile == 'default' else profile}")
    if spec.apparmor is not None:
        options.append(f"apparmor={spec.apparmor}")
    return [*options, *(f"label={option}" for option in spec.selinux)]


def _uts_mode(container: Container) -> str:
    """Empty where the host name is its own."""
    if container.spec.networks[0].name == "host":
        return "host"
    return "" if container.spec.uts == "private" else mode(container, "uts", container.spec.uts)


def _user_mode(container: Container) -> str:
    """ "host" and "auto" are words of others too; for maps there is none but ours."""
    spec = container.spec
    if "userns" not in spec.given_fields:
        return ""
    users = spec.userns
    if users.mode == "mapped" and len(users.uid_map) == 1 and users.gid_map == users.uid_map:
        return f"{users.uid_map[0].host}:{users.uid_map[0].size}"
    return mode(container, "user", str(users))
