# SPDX-License-Identifier: Apache-2.0
"""From an OCI runtime-spec config to what a launcher executes. Pure: nothing is touched.

The standard file systems, devices, masked and read-only paths are recognised, because a launcher has them
ready; a config that asks for others gets a launcher without them, and the plan names each one.
"""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec, NotSupported
from .capabilities import CAPABILITIES
from .mounts import Bind, BindRoot, Filesystem, MountOperation, Overlay
from .plan import Capabilities, LaunchPlan, Process
from .standard import MASKED_PATHS, READ_ONLY_PATHS

# runtime-spec namespace types and the short names of clone(2)'s flags.
NAMESPACE_TYPES = {
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "uts": "uts",
    "ipc": "ipc",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
# The annotation that carries a user by name; the runtime-spec has only numbers for Linux.
USER_ANNOTATION = "org.mooring.user"
# Further groups of the process, by name or number, with commas between.
GROUPS_ANNOTATION = "org.mooring.groups"
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
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
_BIND_OPTIONS = ("ro", "nosuid", "nodev", "noexec")
_TMPFS_FLAGS = {"ro": 0x1, "nosuid": 0x2, "nodev": 0x4, "noexec": 0x8}


def compile_launch(
    config: Mapping[str, Any],
    *,
    id: str,
    group: str,
    root: Overlay | BindRoot,
    group_settings: tuple[tuple[int, str, str], ...] = (),
    netlink: tuple[bytes, ...] = (),
    seccomp: str | None = None,
) -> LaunchPlan:
    """The launch plan for `config`.

    Raises InvalidSpec or NotSupported naming the part that cannot be done.
    """
    linux = config["linux"]
    if tuple(config["mounts"][: len(STANDARD_MOUNTS)]) != STANDARD_MOUNTS:
        raise NotSupported(
            "config.mounts differs from the standard file systems: expected them first and in order"
        )
    if tuple(linux["maskedPaths"]) != MASKED_PATHS or tuple(linux["readonlyPaths"]) != READ_ONLY_PATHS:
        raise NotSupported("config.linux.maskedPaths and readonlyPaths differ from the standard ones")
    return LaunchPlan(
        id=id,
        group=group,
        root=root,
        process=compile_process(config["process"], config.get("annotations", {}), seccomp),
        hostname=config.get("hostname", ""),
        group_settings=group_settings,
        join=joined_namespaces(config),
        netlink=tuple(message.hex() for message in netlink),
        sysctls=tuple((name.replace(".", "/"), value) for name, value in linux.get("sysctl", {}).items()),
        mounts=tuple(compile_mount(mount) for mount in config["mounts"][len(STANDARD_MOUNTS) :]),
        read_only_root=config["root"].get("readonly", False),
    )


def is_standard(config: Mapping[str, Any]) -> bool:
    """Whether a launcher that has the standard file systems ready will do; see `Shape.standard`."""
    linux = config["linux"]
    kinds = {one["type"] for one in linux["namespaces"]}
    return (
        tuple(config["mounts"][: len(STANDARD_MOUNTS)]) == STANDARD_MOUNTS
        and tuple(linux["maskedPaths"]) == MASKED_PATHS
        and tuple(linux["readonlyPaths"]) == READ_ONLY_PATHS
        and "user" not in kinds
        and "cgroup" in kinds
    )


def new_namespaces(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The namespaces that `config` wants new, under their short names, in a fixed order."""
    wanted = {one["type"] for one in config["linux"]["namespaces"] if not one.get("path")}
    return tuple(short for kind, short in NAMESPACE_TYPES.items() if kind in wanted)


def joined_namespaces(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(short name, path) of the namespaces that `config` joins."""
    return tuple(
        (NAMESPACE_TYPES[one["type"]], one["path"])
        for one in config["linux"]["namespaces"]
        if one.get("path")
    )


def compile_process(
    process: Mapping[str, Any], annotations: Mapping[str, str], seccomp: str | None
) -> Process:
    """The process part of a config, runtime-spec config.md `process`."""
    user = process["user"]
    console = process.get("consoleSize")
    return Process(
        args=tuple(process["args"]),
        env=tuple(process.get("env", ())),
        cwd=process["cwd"],
        user=annotations.get(USER_ANNOTATION) or f"{user['uid']}:{user['gid']}",
        additional_gids=tuple(user.get("additionalGids", ())),
        additional_groups=tuple(annotations[GROUPS_ANNOTATION].split(","))
        if GROUPS_ANNOTATION in annotations
        else (),
        umask=user.get("umask"),
        terminal=process.get("terminal", False),
        console_size=(console["height"], console["width"]) if console else (0, 0),
        capabilities=_capabilities(process.get("capabilities", {})),
        rlimits=tuple(
            (_rlimit(limit["type"]), limit["soft"], limit["hard"]) for limit in process.get("rlimits", ())
        ),
        no_new_privileges=process.get("noNewPrivileges", False),
        seccomp=seccomp,
        oom_score_adj=process.get("oomScoreAdj"),
    )


def compile_mount(mount: Mapping[str, Any]) -> MountOperation:
    """One entry of config `mounts` beyond the standard ones: a bind or a tmpfs."""
    options: list[str] = mount.get("options", [])
    if "bind" in options or "rbind" in options:
        return Bind(
            source=mount["source"],
            target=mount["destination"],
            options=tuple(option for option in options if option in _BIND_OPTIONS),
            recursive="rbind" in options,
        )
    if mount["type"] == "tmpfs":
        flags = 0
        data = []
        for option in options:
            if option in _TMPFS_FLAGS:
                flags |= _TMPFS_FLAGS[option]
            else:
                data.append(option)
        return Filesystem("tmpfs", mount["source"], mount["destination"], flags, ",".join(data))
    raise NotSupported(
        f"mount of type {mount['type']!r} on {mount['destination']} is not supported: expected a "
        "bind or tmpfs"
    )


def _capabilities(sets: Mapping[str, list[str]]) -> Capabilities:
    masks = {}
    for name in _SETS:
        mask = 0
        for capability in sets.get(name, ()):
            try:
                mask |= 1 << CAPABILITIES[capability]
            except KeyError:
                raise InvalidSpec(
                    f"config.process.capabilities.{name} has {capability!r}: expected names such as CAP_CHOWN"
                ) from None
        masks[name] = mask
    return Capabilities(**masks)


def _rlimit(name: str) -> int:
    number = getattr(resource, name, None)
    if not name.startswith("RLIMIT_") or not isinstance(number, int):
        raise InvalidSpec(f"config.process.rlimits has type {name!r}: expected a name such as RLIMIT_NOFILE")
    return number
