# SPDX-License-Identifier: Apache-2.0
"""What sets a container apart from the standard one, in words of the runtime-spec.

A container that asks for none of it (`is_plain`) gets none of this work: its config is what `oci` makes, and
a launcher waits for it.
"""

from __future__ import annotations

import functools
import os
import re
import resource
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cgroups.devices import DeviceRule, parse_rule
from ..errors import InvalidSpec, NotSupported
from ..runtime.capabilities import CAPABILITIES, resolve
from ..runtime.compile import GROUPS_ANNOTATION, STANDARD_MOUNTS
from ..runtime.standard import MASKED_PATHS, READ_ONLY_PATHS
from .resources import ContainerSpec
from .resources.devices import DeviceMapping
from .resources.mounts import VolumeMount
from .resources.namespaces import IdRange, other_container
from .resources.security import DEFAULT, UNCONFINED

INIT_PATH = "/sbin/docker-init"
"""Where a container finds the init that it asked for: docker's place."""

_SPECIAL = frozenset(
    {
        "apparmor", "cgroupns", "device_cgroup_rules", "devices", "domainname", "group_add", "init", "ipc",
        "masked_paths", "oom_score_adj", "pid", "privileged", "readonly_paths", "seccomp", "selinux",
        "shm_size", "sysctls", "time_offsets", "ulimits", "userns", "uts",
    }
)  # fmt: skip
# Of the host's /dev what a container has itself, or what is no device of it.
_OWN_DEVICES = frozenset(
    {"console", "core", "fd", "full", "log", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr"}
    | {"stdin", "stdout", "tty", "urandom", "zero"}
)
# "overlayfs: support idmapped layers", kernel 5.19.
_IDMAPPED_OVERLAY = (5, 19)
_SELINUX = "/sys/fs/selinux/enforce"
_SELINUX_DEFAULT = {"user": "system_u", "role": "system_r", "type": "container_t", "level": "s0"}


@dataclass(frozen=True)
class DeviceNode:
    """A device node as it is to be in a container."""

    path: str
    kind: str
    major: int
    minor: int
    mode: int
    uid: int
    gid: int


@dataclass(frozen=True)
class Surroundings:
    """What of the host, and of other containers, a start has found for a container.

    `joined` are (runtime-spec namespace type, path) of namespaces that are another container's, `id_maps` the
    maps of users and groups of its own user namespace, `init` the program on the host. `memory_of` is the
    path of the mount namespace whose /dev/shm it shares, `files_of` the id of the container whose files below
    /etc it has.
    """

    joined: tuple[tuple[str, str], ...] = ()
    id_maps: tuple[tuple[IdRange, ...], tuple[IdRange, ...]] | None = None
    devices: tuple[DeviceNode, ...] = ()
    init: str = ""
    memory_of: str = ""
    files_of: str = ""


PLAIN = Surroundings()
"""Of a container that asks for nothing special."""


def is_plain(spec: ContainerSpec) -> bool:
    """Whether the standard config and a launcher that waits will do."""
    return spec.given_fields.isdisjoint(_SPECIAL) and other_container(spec.networks[0].name) is None


def capabilities_of(spec: ContainerSpec) -> tuple[str, ...]:
    """The capabilities of a container's processes. "All" are those that there are for this agent to give."""
    if spec.privileged:
        return _given(resolve(("ALL",), spec.cap_drop))
    if not spec.cap_add:
        return resolve((), spec.cap_drop)
    wanted = resolve(spec.cap_add, spec.cap_drop)
    return _given(wanted) if "ALL" in spec.cap_add else wanted


def check_capabilities(name: str, spec: ContainerSpec) -> None:
    """Raise InvalidSpec for a capability that is none, NotSupported for one that is not there to be given."""
    resolve(spec.cap_add, spec.cap_drop)
    for word in spec.cap_add:
        full = f"CAP_{word}"
        if word != "ALL" and full not in _available():
            raise NotSupported(
                f"container {name} is to have the capability {word}, which this agent does not have itself: "
                "the kernel or whoever started it keeps it back; take it out of cap_add"
            )


def check_limits(name: str, spec: ContainerSpec) -> None:
    """Raise NotSupported for a limit above the one that holds for this agent, where that cannot be raised."""
    if "CAP_SYS_RESOURCE" in _available():
        return
    for word, limit in spec.ulimits.items():
        number = getattr(resource, f"RLIMIT_{word.upper()}", None)
        bound = -1 if number is None else resource.getrlimit(number)[1]
        if bound != -1 and (limit.hard == -1 or limit.hard > bound):
            raise NotSupported(
                f"container {name} is to have the limit {word}={limit}, but this agent can give at most "
                f"{bound}: lower it, or start the agent with a higher limit"
            )


def check_users(name: str, spec: ContainerSpec) -> None:
    """Raise NotSupported where the kernel cannot map the users of a container and show it its layers."""
    if spec.userns.mode == "host":
        return
    image = next((volume for volume in spec.volumes if volume.type == "image"), None)
    if image is not None:
        raise NotSupported(
            f"container {name} is to have users of its own, and {image.source} mounted at {image.target}: "
            "the kernel cannot show the files of an image with other owners there; copy them into the image, "
            "or leave userns out"
        )
    release = tuple(int(part) for part in re.findall(r"[0-9]+", os.uname().release)[:2])
    if release < _IDMAPPED_OVERLAY:
        raise NotSupported(
            f"container {name} is to have users of its own, which needs Linux 5.19 for its layers; this is "
            f"{os.uname().release}: use a newer kernel, or leave userns out"
        )
    limit = Path("/proc/sys/user/max_user_namespaces")
    if not limit.exists() or int(limit.read_text(encoding="ascii")) == 0:
        raise NotSupported(
            f"container {name} is to have users of its own, but this host allows no user namespaces: set "
            "user.max_user_namespaces with sysctl(8), or leave userns out"
        )


def all_capabilities() -> tuple[str, ...]:
    """Those of a privileged process."""
    return _given(tuple(CAPABILITIES))


def seccomp_profile(spec: ContainerSpec) -> Mapping[str, Any] | str:
    """ "default", "unconfined" or the profile of a container; a privileged one has only what it asks for."""
    return UNCONFINED if spec.privileged and spec.seccomp == DEFAULT else spec.seccomp


def check_modules(name: str, spec: ContainerSpec) -> None:
    """Raise NotSupported for a label of a security module that this host does not run."""
    if spec.apparmor not in (None, UNCONFINED) and not _apparmor():
        raise NotSupported(
            f"container {name} is to have the AppArmor profile {spec.apparmor}, but this host runs without "
            "AppArmor; boot it with apparmor=1 security=apparmor, or leave apparmor out"
        )
    if selinux_label(spec) and not os.path.exists(_SELINUX):
        raise NotSupported(
            f"container {name} is to have the SELinux label {selinux_label(spec)}, but this host runs "
            "without SELinux; boot it with selinux=1 security=selinux, or leave selinux out"
        )


def check_relabelling(name: str, volume: VolumeMount) -> None:
    """Raise NotSupported where files have SELinux labels, which would have to change."""
    if os.path.exists(_SELINUX):
        raise NotSupported(
            f"container {name} is to have the files of {volume.source} relabelled for {volume.target}, "
            "which this agent does not do: label them with chcon, and leave relabel (the mode z or Z) out"
        )


def selinux_label(spec: ContainerSpec) -> str:
    """The label of a container's processes, "" where none is asked for."""
    if not spec.selinux or "disable" in spec.selinux:
        return ""
    parts = {**_SELINUX_DEFAULT, **dict(option.split(":", 1) for option in spec.selinux)}
    return ":".join(parts[field] for field in _SELINUX_DEFAULT)


def devices_of(name: str, spec: ContainerSpec) -> tuple[DeviceNode, ...]:
    """The nodes that a container gets beyond the standard ones. Raises InvalidSpec where there is none."""
    nodes: dict[str, DeviceNode] = {}
    if spec.privileged:
        nodes = {node.path: node for node in _below("/dev", "/dev")}
    for device in spec.devices:
        found = tuple(_mapped(device))
        if not found:
            raise InvalidSpec(
                f"container {name} is to have the device {device.host}, which is no device of this host: "
                "name one, or a directory with some"
            )
        nodes.update({node.path: node for node in found})
    return tuple(nodes.values())


def device_rules(spec: ContainerSpec, nodes: Iterable[DeviceNode]) -> tuple[DeviceRule, ...]:
    """What the white list has beyond the standard rules."""
    if spec.privileged:
        return (DeviceRule("a", None, None),)
    access = {device.container: device.access for device in spec.devices}
    return (
        *(DeviceRule(node.kind, node.major, node.minor, _access(node.path, access)) for node in nodes),
        *(parse_rule(rule) for rule in spec.device_cgroup_rules),
    )


def _access(path: str, access: Mapping[str, str]) -> str:
    """That of the device, or of the directory which it came with."""
    while path not in access:
        path = os.path.dirname(path)
    return access[path]


def adjust(config: dict[str, Any], spec: ContainerSpec, around: Surroundings) -> None:
    """Make the config of a standard container that of this one."""
    linux, process = config["linux"], config["process"]
    linux["namespaces"] = _namespaces(spec, linux["namespaces"], around)
    config["mounts"][: len(STANDARD_MOUNTS)] = _standard_mounts(spec)
    masked = () if spec.privileged else MASKED_PATHS
    read_only = () if spec.privileged else READ_ONLY_PATHS
    linux["maskedPaths"] = list(masked if spec.masked_paths is None else spec.masked_paths)
    linux["readonlyPaths"] = list(read_only if spec.readonly_paths is None else spec.readonly_paths)
    linux["sysctl"] = {**_default_sysctls(linux["sysctl"], spec), **spec.sysctls}
    if spec.domainname is not None:
        config["domainname"] = spec.domainname
    if spec.uts != "private":
        config["hostname"] = ""
    if spec.time_offsets:
        linux["timeOffsets"] = {
            clock: {"secs": seconds, "nanosecs": 0} for clock, seconds in spec.time_offsets.items()
        }
    adjust_process(process, config["annotations"], spec)
    if not isinstance(spec.seccomp, str):
        linux["seccomp"] = dict(spec.seccomp)
    if around.init:
        process["args"] = [INIT_PATH, "--", *process["args"]]
        config["mounts"].append(
            {"destination": INIT_PATH, "type": "bind", "source": around.init, "options": ["bind", "ro"]}
        )
    if around.devices:
        linux["devices"] = [_device(node) for node in around.devices]
    if around.id_maps is not None:
        _map_ids(config, spec, *around.id_maps)


def adjust_process(
    process: dict[str, Any], annotations: dict[str, str], spec: ContainerSpec, *, privileged: bool = False
) -> None:
    """Make a standard process that of a container, its first one or an exec, which may be `privileged`."""
    process["oomScoreAdj"] = spec.oom_score_adj
    process["rlimits"] = _rlimits(process["rlimits"], spec)
    if spec.group_add:
        annotations[GROUPS_ANNOTATION] = ",".join(spec.group_add)
    if privileged:
        return
    if spec.apparmor not in (None, UNCONFINED):
        process["apparmorProfile"] = spec.apparmor
    if label := selinux_label(spec):
        process["selinuxLabel"] = label


def _map_ids(
    config: dict[str, Any], spec: ContainerSpec, users: tuple[IdRange, ...], groups: tuple[IdRange, ...]
) -> None:
    """Map the ids of the container, and those of what is mounted into it and is its own.

    A directory of the host is not, unless the user says so: its files keep the owners that they have.
    """
    config["linux"]["uidMappings"], config["linux"]["gidMappings"] = _mappings(users), _mappings(groups)
    hosts = {volume.target for volume in spec.volumes if volume.type == "bind" and not volume.idmap}
    hosts |= {INIT_PATH, *(mount["destination"] for mount in STANDARD_MOUNTS)}
    for mount in config["mounts"]:
        if mount["type"] == "bind" and mount["destination"] not in hosts:
            mount["options"] = [*mount["options"], "idmap"]
            mount["uidMappings"], mount["gidMappings"] = _mappings(users), _mappings(groups)


def _mappings(ids: Iterable[IdRange]) -> list[dict[str, int]]:
    """A map of ids as the runtime-spec writes it."""
    return [{"containerID": one.container, "hostID": one.host, "size": one.size} for one in ids]


def _namespaces(
    spec: ContainerSpec, standard: list[dict[str, str]], around: Surroundings
) -> list[dict[str, str]]:
    joined = dict(around.joined)
    hosts = {
        kind
        for kind, mode in (
            ("pid", spec.pid),
            ("ipc", spec.ipc),
            ("uts", spec.uts),
            ("cgroup", spec.cgroupns),
        )
        if mode == "host"
    }
    kept = [one["type"] for one in standard if one["type"] not in hosts]
    own = ["user"] if around.id_maps is not None else []
    if spec.time_offsets:
        own.append("time")
    return [{"type": kind, **({"path": joined[kind]} if kind in joined else {})} for kind in (*own, *kept)]


def _standard_mounts(spec: ContainerSpec) -> list[dict[str, Any]]:
    mounts = []
    for mount in STANDARD_MOUNTS:
        target = mount["destination"]
        if spec.privileged and target in ("/sys", "/sys/fs/cgroup"):
            mount = {**mount, "options": [option for option in mount["options"] if option != "ro"]}
        elif target in ("/dev/shm", "/dev/mqueue") and spec.ipc == "host":
            if not os.path.ismount(target):
                continue
            mount = _bind(target, target)
        elif target == "/dev/shm" and (spec.ipc == "none" or other_container(spec.ipc) is not None):
            continue  # the one of another container is not the host's to name: see `borrowed`
        elif target == "/dev/shm" and "shm_size" in spec.given_fields:
            options = [option for option in mount["options"] if not option.startswith("size=")]
            mount = {**mount, "options": [*options, f"size={spec.shm_size}"]}
        mounts.append(mount)
    return mounts


def _bind(source: str, target: str) -> dict[str, Any]:
    options = ["bind", "nosuid", "noexec", "nodev"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _default_sysctls(standard: dict[str, str], spec: ContainerSpec) -> dict[str, str]:
    """What is set in a network of its own is not set in another container's."""
    return {} if other_container(spec.networks[0].name) is not None else standard


def _rlimits(standard: list[dict[str, Any]], spec: ContainerSpec) -> list[dict[str, Any]]:
    limits = {limit["type"]: limit for limit in standard}
    for name, limit in spec.ulimits.items():
        kind = f"RLIMIT_{name.upper()}"
        limits[kind] = {"type": kind, "soft": _rlimit(limit.soft), "hard": _rlimit(limit.hard)}
    return list(limits.values())


def _rlimit(value: int) -> int:
    """RLIM_INFINITY is the largest number of 64 bits, asm-generic/resource.h."""
    return (1 << 64) - 1 if value == -1 else value


def _device(node: DeviceNode) -> dict[str, Any]:
    return {
        "path": node.path,
        "type": node.kind,
        "major": node.major,
        "minor": node.minor,
        "fileMode": node.mode,
        "uid": node.uid,
        "gid": node.gid,
    }


def _mapped(device: DeviceMapping) -> Iterable[DeviceNode]:
    if os.path.isdir(device.host):
        return _below(device.host, device.container)
    node = _node(device.host, device.container)
    return () if node is None else (node,)


def _below(directory: str, target: str) -> Iterable[DeviceNode]:
    try:
        entries = sorted(os.listdir(directory))
    except OSError as error:
        raise InvalidSpec(f"the devices below {directory} cannot be listed: {error.strerror}") from None
    for entry in entries:
        if directory == "/dev" and entry in _OWN_DEVICES:
            continue
        path, inside = f"{directory}/{entry}", f"{target}/{entry}"
        if os.path.isdir(path) and not os.path.islink(path):
            yield from _below(path, inside)
        elif not os.path.islink(path) and (node := _node(path, inside)) is not None:
            yield node


def _node(source: str, path: str) -> DeviceNode | None:
    try:
        found = os.stat(source)
    except OSError:
        return None
    kinds = {stat.S_IFCHR: "c", stat.S_IFBLK: "b"}
    kind = kinds.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    return DeviceNode(
        path,
        kind,
        os.major(found.st_rdev),
        os.minor(found.st_rdev),
        stat.S_IMODE(found.st_mode),
        found.st_uid,
        found.st_gid,
    )


def _given(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in names if name in _available())


@functools.cache
def _available() -> frozenset[str]:
    """The capabilities of this process, proc(5) "CapPrm": what it has not it cannot give."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    line = next(line for line in status.splitlines() if line.startswith("CapPrm:"))
    mask = int(line.split()[1], 16)
    return frozenset(name for name, number in CAPABILITIES.items() if mask >> number & 1)


def _apparmor() -> bool:
    try:
        return Path("/sys/module/apparmor/parameters/enabled").read_text(encoding="ascii").startswith("Y")
    except OSError:
        return False
