# SPDX-License-Identifier: Apache-2.0
"""The options of `mooring run` that open or close a container, as HostConfig of the Docker Engine API."""

from __future__ import annotations

import argparse
import os
from typing import Any

from ..engine.resources.devices import DeviceMapping, Devices
from ..engine.resources.options import Size
from ..engine.resources.ulimits import Ulimits
from ..errors import InvalidSpec


def confinement(arguments: argparse.Namespace) -> dict[str, Any]:
    """These options; what was not given asks for nothing."""
    options = [_security_option(option) for option in arguments.security_opt]
    if arguments.no_new_privileges:
        options.append("no-new-privileges")
    return {
        "CgroupnsMode": arguments.cgroupns,
        "DeviceCgroupRules": arguments.device_cgroup_rule,
        "Devices": [_device(one) for one in Devices().parse(arguments.device, "--device") or ()],
        "GroupAdd": arguments.group_add,
        "Init": arguments.init,
        "IpcMode": arguments.ipc,
        "OomScoreAdj": arguments.oom_score_adj,
        "PidMode": arguments.pid,
        "Privileged": arguments.privileged,
        "SecurityOpt": options,
        "ShmSize": Size().parse(arguments.shm_size, "--shm-size") if arguments.shm_size else None,
        "StorageOpt": _storage(arguments.storage_opt),
        "Sysctls": dict(_pair(item, "--sysctl") for item in arguments.sysctl),
        "UTSMode": arguments.uts,
        "Ulimits": [
            {"Name": name, "Soft": limit.soft, "Hard": limit.hard}
            for name, limit in (Ulimits().parse(arguments.ulimit, "--ulimit") or {}).items()
        ],
        "UsernsMode": arguments.userns,
    }


def _security_option(option: str) -> str:
    """The agent takes a seccomp profile as its JSON; here it is a file of whoever runs the command."""
    name, mark, value = option.partition("=")
    if name != "seccomp" or not mark or value in ("default", "builtin", "unconfined") or value[:1] == "{":
        return option
    try:
        with open(value, encoding="utf-8") as file:
            return f"{name}={file.read()}"
    except OSError as error:
        raise InvalidSpec(
            f"--security-opt {option} cannot be read: {os.strerror(error.errno or 0)}; name the file of a "
            "profile in Docker's format"
        ) from None


def _device(device: DeviceMapping) -> dict[str, str]:
    return {
        "PathOnHost": device.host,
        "PathInContainer": device.container,
        "CgroupPermissions": device.access,
    }


def _pair(item: str, option: str) -> tuple[str, str]:
    name, mark, value = item.partition("=")
    if not mark:
        raise InvalidSpec(f"{option} {item} has no value: expected NAME=VALUE")
    return name, value


def _storage(given: str) -> dict[str, str]:
    """SIZE, or docker's words for it: size=SIZE."""
    return {"size": given.removeprefix("size=")} if given else {}
