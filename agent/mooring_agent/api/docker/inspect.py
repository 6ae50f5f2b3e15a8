# SPDX-License-Identifier: Apache-2.0
"""`GET /containers/{id}/json`: everything about one container, in every field that clients read.

Pure: what is asked of the engine comes in as `Surroundings`. Follows `ContainerInspectResponse` and
`HostConfig` of the Docker Engine API 1.47.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...engine.resources.limits import CPU_LIST
from ..timestamps import NEVER, rfc3339_seconds
from . import convert_health, convert_logs
from .convert import RUNTIMES
from .convert_limits import shown_devices
from .convert_networks import DEFAULT_NETWORK
from .inspect_security import confinement, tmpfs
from .render import bind_mode, mounts, network_id, network_mode, networks, port_map

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...images.image import Image

_NANO = 1_000_000_000


@dataclass(frozen=True)
class Surroundings:
    """What the rendering needs beside the container: its image if still there, paths, storage driver."""

    image: Image | None
    volumes: Mapping[str, str]
    log_directory: str
    etc_directory: str
    driver: str
    exec_ids: tuple[str, ...] = ()

    @property
    def image_config(self) -> Mapping[str, Any]:
        """The image's defaults."""
        return self.image.config if self.image is not None else {}


def exposed_ports(container: Container, image_config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the image and its user expose, and what is published."""
    ports = {
        *(image_config.get("ExposedPorts") or ()),
        *(_with_protocol(port) for port in container.extra.get("ExposedPorts", ())),
        *(f"{port.container}/{port.protocol}" for port in container.spec.ports),
    }
    return tuple(sorted(ports, key=lambda port: (int(port.partition("/")[0]), port)))


def _with_protocol(port: str) -> str:
    return port if "/" in port else f"{port}/tcp"


def inspect(container: Container, around: Surroundings) -> dict[str, Any]:
    """The whole document."""
    return {
        "Id": container.id,
        "Created": rfc3339_seconds(container.created_at),
        "Path": container.argv[0] if container.argv else "",
        "Args": list(container.argv[1:]),
        "State": _state(container),
        "Image": container.image_id,
        "ResolvConfPath": f"{around.etc_directory}/resolv.conf",
        "HostnamePath": f"{around.etc_directory}/hostname",
        "HostsPath": f"{around.etc_directory}/hosts",
        "LogPath": around.log_directory,
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": around.driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": container.spec.apparmor or "",
        "ExecIDs": list(around.exec_ids) or None,
        "HostConfig": _host_config(container),
        "GraphDriver": {"Data": None, "Name": around.driver},
        "Mounts": mounts(container, around.volumes),
        "Config": _config(container, around.image_config),
        "NetworkSettings": _network_settings(container, exposed_ports(container, around.image_config)),
    }


def _state(container: Container) -> dict[str, Any]:
    status = container.status
    health = convert_health.health(container)
    alive = status in ("running", "paused", "restarting")
    return {
        "Status": status,
        "Running": alive,
        "Paused": status == "paused",
        "Restarting": status == "restarting",
        "OOMKilled": container.oom_killed,
        "Dead": status == "dead",
        "Pid": container.pid or 0,
        "ExitCode": 0 if container.exit_code is None or container.running else container.exit_code,
        "Error": container.error,
        "StartedAt": rfc3339_seconds(container.started_at),
        "FinishedAt": rfc3339_seconds(container.finished_at) if container.finished_at else NEVER,
        **({} if health is None else {"Health": health}),
    }


def _config(container: Container, image_config: Mapping[str, Any]) -> dict[str, Any]:
    spec, extra = container.spec, container.extra
    exposed = exposed_ports(container, image_config)
    anonymous: dict[str, Any] = {target: {} for target in extra.get("Volumes", ())}
    config: dict[str, Any] = {
        "Hostname": container.hostname,
        "Domainname": spec.domainname or "",
        "User": _user(container, image_config),
        "AttachStdin": bool(extra.get("AttachStdin")),
        "AttachStdout": bool(extra.get("AttachStdout")),
        "AttachStderr": bool(extra.get("AttachStderr")),
        "Tty": spec.tty,
        "OpenStdin": spec.interactive,
        "StdinOnce": bool(extra.get("StdinOnce")),
        "Env": [*container.env, *spec.env_unset],
        "Cmd": _first(spec.command, _inherited_command(container, image_config)),
        "Image": spec.image,
        "Volumes": anonymous or None,
        "WorkingDir": container.workdir,
        "Entrypoint": _first(spec.entrypoint, image_config.get("Entrypoint")),
        "OnBuild": None,
        "Labels": {**(image_config.get("Labels") or {}), **spec.labels},
        "StopSignal": container.stop_signal,
    }
    if check := convert_health.config(container):
        config["Healthcheck"] = check
    if exposed:
        config["ExposedPorts"] = {port: {} for port in exposed}
    if "stop_timeout" in spec.given_fields:
        config["StopTimeout"] = spec.stop_timeout
    return config


def _user(container: Container, image_config: Mapping[str, Any]) -> str:
    """Who was asked for, by the container or by its image; nobody is root."""
    if container.spec.user is not None or "User" in image_config:
        return container.spec.user or image_config["User"] or ""
    return "" if container.user == "0" else container.user


def _inherited_command(container: Container, image_config: Mapping[str, Any]) -> list[str] | None:
    """The image's command holds unless another entrypoint was given."""
    return None if container.spec.entrypoint is not None else image_config.get("Cmd")


def _first(given: tuple[str, ...] | None, inherited: list[str] | None) -> list[str] | None:
    if given is not None:
        return list(given) or None
    return list(inherited) if inherited else None


def _host_config(container: Container) -> dict[str, Any]:
    spec, extra = container.spec, container.extra
    quota = extra.get("CpuQuota", 0)
    return {
        "Binds": _binds(container),
        "Mounts": _mounts(container),
        "ContainerIDFile": extra.get("ContainerIDFile", ""),
        "LogConfig": convert_logs.shown(spec.log, extra.get("LogConfig")),
        "NetworkMode": network_mode(container),
        "PortBindings": _port_bindings(container),
        "RestartPolicy": {"Name": spec.restart.name, "MaximumRetryCount": spec.restart.max_retries},
        "AutoRemove": container.auto_remove,
        "VolumeDriver": extra.get("VolumeDriver", ""),
        "Annotations": dict(spec.annotations),
        "VolumesFrom": extra.get("VolumesFrom"),
        "ConsoleSize": extra.get("ConsoleSize", [0, 0]),
        "CapAdd": list(spec.cap_add) or None,
        "CapDrop": list(spec.cap_drop) or None,
        "Dns": list(spec.dns),
        "DnsOptions": list(spec.dns_options),
        "DnsSearch": list(spec.dns_search),
        "ExtraHosts": [f"{name}:{address}" for name, address in spec.extra_hosts.items()] or None,
        "Cgroup": "",
        "Links": _links(container),
        "PublishAllPorts": bool(extra.get("PublishAllPorts")),
        "ReadonlyRootfs": spec.read_only,
        "Tmpfs": _tmpfs(container),
        "Runtime": extra.get("Runtime", RUNTIMES[0]),
        "Isolation": extra.get("Isolation", ""),
        "CpuShares": spec.cpu_shares or 0,
        "Memory": spec.memory or 0,
        "NanoCpus": 0 if quota or not spec.cpus else round(spec.cpus * _NANO),
        "CgroupParent": spec.cgroup or "",
        "BlkioWeight": spec.blkio_weight or 0,
        "BlkioWeightDevice": shown_devices(spec.blkio_weight_device, "Weight"),
        "BlkioDeviceReadBps": shown_devices(spec.device_read_bps, "Rate"),
        "BlkioDeviceWriteBps": shown_devices(spec.device_write_bps, "Rate"),
        "BlkioDeviceReadIOps": shown_devices(spec.device_read_iops, "Rate"),
        "BlkioDeviceWriteIOps": shown_devices(spec.device_write_iops, "Rate"),
        "CpuPeriod": extra.get("CpuPeriod", 0),
        "CpuQuota": quota,
        "CpuRealtimePeriod": spec.cpu_rt_period or 0,
        "CpuRealtimeRuntime": spec.cpu_rt_runtime or 0,
        "CpusetCpus": _as_given(extra.get("CpusetCpus"), spec.cpuset_cpus),
        "CpusetMems": _as_given(extra.get("CpusetMems"), spec.cpuset_mems),
        "DeviceRequests": None,
        "MemoryReservation": spec.memory_reservation or 0,
        "MemorySwap": spec.memory_swap or 0,
        "MemorySwappiness": spec.memory_swappiness,
        "OomKillDisable": spec.oom_kill_disable,
        "PidsLimit": spec.pids_limit,
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
        **confinement(container),
    }


def _as_given(given: str | None, cpus: str | None) -> str:
    """A list of CPUs as its user wrote it, as long as that means what holds."""
    if given is None or CPU_LIST.parse(given, "") != cpus:
        return cpus or ""
    return given


def _binds(container: Container) -> list[str] | None:
    binds = [
        f"{volume.source}:{volume.target}{':' if (mode := bind_mode(volume)) else ''}{mode}"
        for volume in container.spec.volumes
        if volume.type in ("bind", "volume")
        and volume.subpath is None
        and volume.target not in container.extra.get("Volumes", ())
    ]
    return binds or None


def _mounts(container: Container) -> list[dict[str, Any]] | None:
    """What cannot be said as a bind."""
    mounts = []
    for volume in container.spec.volumes:
        options: dict[str, Any]
        if volume.type == "image":
            options = {"ImageOptions": {"Subpath": volume.subpath} if volume.subpath else {}}
        elif volume.subpath is not None:
            options = {"VolumeOptions": {"NoCopy": volume.nocopy, "Subpath": volume.subpath}}
        else:
            continue
        mounts.append(
            {
                "Type": volume.type,
                "Source": volume.source,
                "Target": volume.target,
                "ReadOnly": volume.read_only,
                **options,
            }
        )
    return mounts or None


def _links(container: Container) -> list[str] | None:
    """Those on the network that every container is on; others are shown with their networks."""
    links = [
        f"/{target}:/{container.name}/{alias}"
        for network in container.spec.networks
        if network.name == DEFAULT_NETWORK
        for alias, target in network.links.items()
    ]
    return links or None


def _tmpfs(container: Container) -> dict[str, str]:
    given = container.extra.get("Tmpfs", {})
    return {
        volume.target: given.get(volume.target, tmpfs(volume))
        for volume in container.spec.volumes
        if volume.type == "tmpfs"
    }


def _port_bindings(container: Container) -> dict[str, list[dict[str, str]]]:
    """What was asked for: a port that was left to us stays open."""
    wanted: dict[str, list[dict[str, str]]] = {}
    for port in container.spec.ports:
        wanted.setdefault(f"{port.container}/{port.protocol}", []).append(
            {"HostIp": port.host_ip, "HostPort": port.asked}
        )
    return wanted


def _network_settings(container: Container, exposed: tuple[str, ...]) -> dict[str, Any]:
    attached = networks(container)
    first = attached.get("bridge", {}) if container.running else {}
    return {
        "Bridge": "",
        "SandboxID": network_id(f"sandbox {container.id}") if container.running else "",
        "SandboxKey": f"/proc/{container.pid}/ns/net" if container.running and container.pid else "",
        "Ports": port_map(container, exposed),
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.get("EndpointID", ""),
        "Gateway": first.get("Gateway", ""),
        "GlobalIPv6Address": first.get("GlobalIPv6Address", ""),
        "GlobalIPv6PrefixLen": first.get("GlobalIPv6PrefixLen", 0),
        "IPAddress": first.get("IPAddress", ""),
        "IPPrefixLen": first.get("IPPrefixLen", 0),
        "IPv6Gateway": first.get("IPv6Gateway", ""),
        "MacAddress": first.get("MacAddress", ""),
        "Networks": attached,
    }
