# SPDX-License-Identifier: Apache-2.0
"""From an OCI runtime-spec config (1.2) to what a launcher executes. Pure: nothing is touched.

The standard file systems, devices, masked and read-only paths are recognised, because a launcher has them
ready; a config that asks for others gets a launcher without them, and the plan names each one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec
from .compile_devices import compile_devices, default_devices
from .compile_mounts import compile_mount, compile_mounts, compile_paths
from .compile_namespaces import (
    NAMESPACE_TYPES,
    Namespaces,
    compile_namespaces,
    id_maps,
    joined_namespaces,
    new_namespaces,
    time_offsets,
)
from .compile_process import GROUPS_ANNOTATION, USER_ANNOTATION, compile_process
from .compile_system import check_unsupported, compile_propagation, compile_sysctls, host_name
from .mounts import BindRoot, Directory, MountOperation, Overlay
from .plan import LaunchPlan, Process
from .standard import MASKED_PATHS, READ_ONLY_PATHS

__all__ = (
    "GROUPS_ANNOTATION",
    "NAMESPACE_TYPES",
    "STANDARD_MOUNTS",
    "USER_ANNOTATION",
    "compile_launch",
    "compile_mount",
    "compile_process",
    "id_maps",
    "is_standard",
    "joined_namespaces",
    "new_namespaces",
    "time_offsets",
)

STANDARD_MOUNTS: tuple[dict[str, Any], ...] = (
    {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
    {
        "destination": "/dev",
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
    },
    {
        "destination": "/dev/pts",
        "type": "devpts",
        "source": "devpts",
        "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
    },
    {
        "destination": "/sys",
        "type": "sysfs",
        "source": "sysfs",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
    {
        "destination": "/sys/fs/cgroup",
        "type": "cgroup",
        "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "ro"],
    },
    {
        "destination": "/dev/mqueue",
        "type": "mqueue",
        "source": "mqueue",
        "options": ["nosuid", "noexec", "nodev"],
    },
    {
        "destination": "/dev/shm",
        "type": "tmpfs",
        "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"],
    },
)


def compile_launch(
    config: Mapping[str, Any],
    *,
    id: str,
    group: str,
    root: Overlay | BindRoot,
    group_settings: tuple[tuple[int, str, str], ...] = (),
    netlink: tuple[bytes, ...] = (),
    seccomp: str | None = None,
    bundle: str = "",
    prepared: bool = True,
) -> LaunchPlan:
    """The launch plan for `config`, for a launcher whose shape is standard just if `is_standard(config)`;
    without `prepared` for one whose shape never is.

    `seccomp` is the file of the compiled `linux.seccomp`; `bundle` is the directory that relative sources of
    binds begin at. A config without a process makes a plan that can be created and not be started. Raises
    InvalidSpec or NotSupported naming the part that cannot be done.
    """
    linux = _object(config, "linux")
    check_unsupported(linux)
    namespaces = compile_namespaces(config)
    annotations = _object(config, "annotations")
    process = config.get("process")
    return LaunchPlan(
        id=id,
        group=group,
        root=root,
        process=Process(args=(), env=())
        if process is None
        else compile_process(process, annotations, seccomp, linux),
        hostname=host_name(config, "hostname", namespaces),
        domainname=host_name(config, "domainname", namespaces),
        group_settings=group_settings,
        join=namespaces.joined,
        netlink=tuple(message.hex() for message in netlink),
        sysctls=compile_sysctls(config, namespaces),
        mounts=(
            *_operations(config, linux, namespaces, bundle, prepared and is_standard(config)),
            *_working_directory(config),
        ),
        read_only_root=bool(_object(config, "root").get("readonly", False)),
        propagation=compile_propagation(linux),
    )


def is_standard(config: Mapping[str, Any]) -> bool:
    """Whether a launcher that has the standard file systems ready will do; see `Shape.standard`."""
    linux = config.get("linux") or {}
    kinds = {one.get("type") for one in linux.get("namespaces") or ()}
    return (
        _begins_with(config.get("mounts"), STANDARD_MOUNTS)
        and _begins_with(linux.get("maskedPaths"), MASKED_PATHS, whole=True)
        and _begins_with(linux.get("readonlyPaths"), READ_ONLY_PATHS, whole=True)
        and "user" not in kinds
        and "cgroup" in kinds
    )


def _begins_with(value: Any, expected: tuple[Any, ...], *, whole: bool = False) -> bool:
    if not isinstance(value, list) or (whole and len(value) != len(expected)):
        return False
    return tuple(value[: len(expected)]) == expected


def _operations(
    config: Mapping[str, Any],
    linux: Mapping[str, Any],
    namespaces: Namespaces,
    bundle: str,
    has_standard: bool,
) -> tuple[MountOperation, ...]:
    mounts = config.get("mounts") or []
    if not isinstance(mounts, list) or not all(isinstance(mount, dict) for mount in mounts):
        raise InvalidSpec("config.mounts: expected a list of objects")
    label = linux.get("mountLabel") or ""
    if has_standard:
        rest = mounts[len(STANDARD_MOUNTS) :]
        more = compile_devices(linux, namespaces) if linux.get("devices") else ()
        return compile_mounts(rest, namespaces, bundle, label, more, len(STANDARD_MOUNTS))
    devices = compile_devices(linux, namespaces)
    defaults: tuple[MountOperation, ...] = ()
    if not any(_is_bind_of_devices(mount) for mount in mounts):
        defaults = default_devices(namespaces, frozenset(device.target for device in devices))
    return (
        *compile_mounts(mounts, namespaces, bundle, label, (*defaults, *devices)),
        *compile_paths(linux),
    )


def _working_directory(config: Mapping[str, Any]) -> tuple[MountOperation, ...]:
    """It is made where it is missing; on a root that will be read-only that has to be done before."""
    path = (config.get("process") or {}).get("cwd") or "/"
    if path == "/" or not _object(config, "root").get("readonly", False):
        return ()
    return (Directory(path),)


def _is_bind_of_devices(mount: Mapping[str, Any]) -> bool:
    """Whether a mount brings the devices of another /dev, to which none must be added."""
    options = mount.get("options") or ()
    is_bind = mount.get("type") == "bind" or "bind" in options or "rbind" in options
    return is_bind and str(mount.get("destination")).strip("/") == "dev"


def _object(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidSpec(f"config.{name} is {value!r}: expected an object")
    return value
