# SPDX-License-Identifier: Apache-2.0
"""From the body of `POST /containers/create` to a container's spec. Pure: asks nothing of the host.

Follows `ContainerCreate` of the Docker Engine API 1.47. Every key has a rule (see `rules`), so nothing that a
client asks for is ever dropped without a word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidSpec
from . import convert_health, convert_limits, convert_logs, convert_mounts, convert_networks, convert_security
from .rules import (
    NEVER,
    Draft,
    Rules,
    apply,
    boolean,
    both,
    integer,
    kept,
    mapping,
    only,
    pairs,
    refused,
    takes,
    text,
    texts,
    unsupported,
)

RUNTIMES = ("mooring", "runc", "io.containerd.runc.v2")
"""Names of the one runtime; the latter are what clients call the default one of dockerd."""


@dataclass(frozen=True)
class Conversion:
    """A body in our words. `anonymous` are targets that want a new volume without a name, `links` other
    containers with the names that they are to have for this one, on a network that both are on,
    `volume_specs` what volumes are made with it that are not there yet.
    """

    spec: dict[str, Any]
    extra: dict[str, Any]
    auto_remove: bool
    anonymous: tuple[str, ...]
    links: tuple[tuple[str, str], ...] = ()
    volume_specs: Mapping[str, dict[str, Any]] = field(default_factory=dict)


def convert(body: Mapping[str, Any]) -> Conversion:
    """Translate a whole body. Raises InvalidSpec for what is malformed, NotSupported for the rest."""
    draft = Draft()
    apply(_TOP, body, draft)
    if networks := convert_networks.settled(draft):
        draft.spec["networks"] = networks
    if draft.no_network:
        draft.spec["networks"] = ["none"]
    if draft.ports:
        draft.spec["ports"] = draft.ports
    volumes, anonymous = convert_mounts.settled(draft)
    if draft.volume_driver:
        if draft.volume_driver != "local" and (
            anonymous or any(each["type"] == "volume" for each in volumes)
        ):
            raise unsupported("HostConfig.VolumeDriver", draft.volume_driver, "use local")
        draft.extra["VolumeDriver"] = draft.volume_driver
    if volumes:
        draft.spec["volumes"] = volumes
    if "image" not in draft.spec:
        raise InvalidSpec("option Image is missing: name the image to make the container from")
    if draft.auto_remove and draft.spec.get("restart", "no") != "no":
        raise InvalidSpec("option AutoRemove cannot be combined with a restart policy; leave one of them out")
    return Conversion(
        draft.spec, draft.extra, draft.auto_remove, anonymous, tuple(draft.links), draft.volume_specs
    )


def convert_update(body: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the body of `POST /containers/{id}/update`, whose limits of 0 mean "as before"."""
    draft = Draft()
    apply(_UPDATE, body, draft, "")
    return draft.spec


# -- single options


def _command(option: str, *, reset: bool) -> Any:
    """A command is a list, or a string that is its only word (Go's strslice)."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        words = [value] if isinstance(value, str) and value else value
        words = texts(None if words == "" else words, where)
        if words is None:
            return
        # `docker run --entrypoint ""` sends [""], which takes the image's entrypoint away.
        draft.spec[option] = [] if reset and words == [""] else words

    return rule


def _env(draft: Draft, value: Any, where: str) -> None:
    variables: dict[str, str] = {}
    absent: set[str] = set()
    for item in texts(value, where) or []:
        name, mark, content = item.partition("=")
        if not name:
            raise refused(where, item, "NAME=VALUE, or NAME for a variable of the image that is to go")
        if mark:
            variables[name] = content
            absent.discard(name)
        else:
            variables.pop(name, None)
            absent.add(name)
    if variables:
        draft.spec["env"] = variables
    if absent:
        draft.spec["env_unset"] = sorted(absent)


def _stop_timeout(draft: Draft, value: Any, where: str) -> None:
    if value is not None:
        draft.spec["stop_timeout"] = integer(value, where) or 0


def _no_network(draft: Draft, value: Any, where: str) -> None:
    draft.no_network = bool(boolean(value, where))


def _restart_update(draft: Draft, value: Any, where: str) -> None:
    """A policy without a name is no wish; "no" is one."""
    _restart(draft, value, where)
    if (mapping(value, where) or {}).get("Name") == "no":
        draft.spec["restart"] = "no"


def _console(value: Any, where: str) -> list[int] | None:
    """[height, width] of the client's terminal."""
    if value is None or value in ([], [0, 0]):
        return None
    if isinstance(value, list) and len(value) == 2 and all(_fits(size) for size in value):
        return value
    raise refused(where, value, "[height, width] in characters")


def _fits(size: object) -> bool:
    return isinstance(size, int) and not isinstance(size, bool) and 0 <= size <= 65535


def _restart(draft: Draft, value: Any, where: str) -> None:
    policy = mapping(value, where) or {}
    name = text(policy.get("Name"), f"{where}.Name") or "no"
    retries = integer(policy.get("MaximumRetryCount"), f"{where}.MaximumRetryCount")
    for key in policy:
        if key not in ("Name", "MaximumRetryCount"):
            raise refused(where, value, "an object with Name and MaximumRetryCount")
    if name != "no" or retries:
        draft.spec["restart"] = f"{name}:{retries}" if retries else name


def _auto_remove(draft: Draft, value: Any, where: str) -> None:
    draft.auto_remove = bool(boolean(value, where))


def _volume_driver(draft: Draft, value: Any, where: str) -> None:
    """Who makes the volumes that are not there yet; it asks for nothing where there are none."""
    draft.volume_driver = text(value, where) or ""


def _cgroup(draft: Draft, value: Any, where: str) -> None:
    parent = text(value, where)
    if parent is not None:
        draft.spec["cgroup"] = parent


def _host_config(draft: Draft, value: Any, where: str) -> None:
    apply(_HOST, mapping(value, where) or {}, draft, f"{where}.")


_RESOURCES: Rules = {
    "BlkioDeviceReadBps": convert_limits.devices("device_read_bps", "Rate"),
    "BlkioDeviceReadIOps": convert_limits.devices("device_read_iops", "Rate"),
    "BlkioDeviceWriteBps": convert_limits.devices("device_write_bps", "Rate"),
    "BlkioDeviceWriteIOps": convert_limits.devices("device_write_iops", "Rate"),
    "BlkioWeight": takes("blkio_weight", integer),
    "BlkioWeightDevice": convert_limits.devices("blkio_weight_device", "Weight"),
    "CpuPeriod": convert_limits.period,
    "CpuQuota": convert_limits.quota,
    "CpuRealtimePeriod": takes("cpu_rt_period", integer),
    "CpuRealtimeRuntime": takes("cpu_rt_runtime", integer),
    "CpuShares": takes("cpu_shares", integer),
    "CpusetCpus": both(takes("cpuset_cpus", text), kept(text)),
    "CpusetMems": both(takes("cpuset_mems", text), kept(text)),
    "DeviceCgroupRules": takes("device_cgroup_rules", texts),
    "DeviceRequests": NEVER,
    "Devices": convert_security.devices,
    "KernelMemory": NEVER,
    "KernelMemoryTCP": NEVER,
    "Memory": takes("memory", integer),
    "MemoryReservation": takes("memory_reservation", integer),
    "MemorySwap": takes("memory_swap", integer),
    "MemorySwappiness": convert_limits.swappiness,
    "NanoCpus": convert_limits.cpus,
    "OomKillDisable": takes("oom_kill_disable", boolean),
    "PidsLimit": convert_limits.pids,
    "Ulimits": convert_security.ulimits,
}

_HOST: Rules = {
    **_RESOURCES,
    "Annotations": takes("annotations", pairs),
    "AutoRemove": _auto_remove,
    "Binds": convert_mounts.binds,
    "CapAdd": takes("cap_add", texts),
    "CapDrop": takes("cap_drop", texts),
    "CgroupParent": _cgroup,
    "CgroupnsMode": convert_security.mode("cgroupns", "private"),
    "ConsoleSize": kept(_console),
    "ContainerIDFile": kept(text),
    "Dns": takes("dns", texts),
    "DnsOptions": takes("dns_options", texts),
    "DnsSearch": takes("dns_search", texts),
    "ExtraHosts": takes("extra_hosts", texts),
    "GroupAdd": takes("group_add", texts),
    "Init": takes("init", boolean),
    "IpcMode": convert_security.mode("ipc", "private"),
    "Isolation": both(only("default"), kept(text)),
    "Links": convert_networks.host_links,
    "LogConfig": convert_logs.log,
    "MaskedPaths": convert_security.paths("masked_paths"),
    "Mounts": convert_mounts.mounts,
    "NetworkMode": convert_networks.mode,
    "OomScoreAdj": takes("oom_score_adj", integer),
    "PidMode": convert_security.mode("pid", "private"),
    "PortBindings": convert_networks.port_bindings,
    "Privileged": takes("privileged", boolean),
    "PublishAllPorts": kept(boolean),
    "ReadonlyPaths": convert_security.paths("readonly_paths"),
    "ReadonlyRootfs": takes("read_only", boolean),
    "RestartPolicy": _restart,
    "Runtime": both(only(*RUNTIMES), kept(text)),
    "SecurityOpt": convert_security.security_options,
    "ShmSize": takes("shm_size", integer),
    "StorageOpt": both(convert_limits.storage, kept(pairs)),
    "Sysctls": takes("sysctls", pairs),
    "Tmpfs": both(convert_mounts.tmpfs, kept(pairs)),
    "UTSMode": convert_security.mode("uts", "private"),
    "UsernsMode": convert_security.mode("userns"),
    "VolumeDriver": _volume_driver,
    "VolumesFrom": kept(texts),
}

_TOP: Rules = {
    "AttachStderr": kept(boolean),
    "AttachStdin": kept(boolean),
    "AttachStdout": kept(boolean),
    "Cmd": _command("command", reset=False),
    "Domainname": takes("domainname", text),
    "Entrypoint": _command("entrypoint", reset=True),
    "Env": _env,
    "ExposedPorts": convert_networks.exposed_ports,
    "Healthcheck": convert_health.healthcheck,
    "HostConfig": _host_config,
    "Hostname": takes("hostname", text),
    "Image": takes("image", text),
    "Labels": takes("labels", pairs),
    "MacAddress": convert_networks.mac_address,
    "NetworkDisabled": _no_network,
    "NetworkingConfig": convert_networks.networking,
    "OpenStdin": takes("interactive", boolean),
    "Runtime": both(only(*RUNTIMES), kept(text)),  # docker-py says it twice
    "StdinOnce": kept(boolean),
    "StopSignal": takes("stop_signal", text),
    "StopTimeout": _stop_timeout,
    "Tty": takes("tty", boolean),
    "User": takes("user", text),
    "Volumes": convert_mounts.anonymous,
    "WorkingDir": takes("workdir", text),
}

_UPDATE: Rules = {**_RESOURCES, "PidsLimit": convert_limits.pids_update, "RestartPolicy": _restart_update}
