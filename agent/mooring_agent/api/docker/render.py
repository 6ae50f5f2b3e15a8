# SPDX-License-Identifier: Apache-2.0
"""A container in Docker's words: the entry of `docker ps` and what both it and `docker inspect` show."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from time import time
from typing import TYPE_CHECKING, Any

from . import convert_health
from .convert_mounts import RELABEL
from .durations import in_words
from .inspect_security import mode

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.resources import NetworkAttachment, PortMapping, VolumeMount
    from ...network.records import Endpoint

HOST_NETWORKS = ("host", "none")


def network_id(name: str) -> str:
    """Docker identifies networks by 64 hexadecimal digits; ours are one with their names."""
    return hashlib.sha256(f"network {name}".encode()).hexdigest()


def endpoint_id(container: Container, network: str) -> str:
    """Docker's id of a container's place on a network."""
    return hashlib.sha256(f"endpoint {container.id} {network}".encode()).hexdigest()


def has_label(labels: Mapping[str, str], wanted: str) -> bool:
    """Whether a filter `label=KEY` or `label=KEY=VALUE` fits."""
    key, mark, value = wanted.partition("=")
    return key in labels and (not mark or labels[key] == value)


def status_text(container: Container, now: float | None = None) -> str:
    """Such as "Up 3 minutes" or "Exited (0) 2 hours ago"."""
    moment = time() if now is None else now
    status = container.status
    if status in ("running", "paused"):
        since = in_words(moment - (container.started_at or moment))
        return f"Up {since}{' (Paused)' if status == 'paused' else convert_health.suffix(container)}"
    ago = in_words(moment - (container.finished_at or moment))
    if status == "restarting":
        return f"Restarting ({container.exit_code or 0}) {ago} ago"
    if status == "created":
        return "Created"
    if status == "dead":
        return "Dead"
    return f"Exited ({container.exit_code or 0}) {ago} ago"


def summary(container: Container, volumes: Mapping[str, str], exposed: tuple[str, ...]) -> dict[str, Any]:
    """One entry of `GET /containers/json`. `volumes` maps volume names to their directories."""
    entry: dict[str, Any] = {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.spec.image,
        "ImageID": container.image_id,
        "Command": " ".join(container.argv),
        "Created": int(container.created_at),
        "Ports": _port_list(container, exposed),
        "Labels": dict(container.spec.labels),
        "State": container.status,
        "Status": status_text(container),
        "HostConfig": {"NetworkMode": network_mode(container)},
        "NetworkSettings": {"Networks": networks(container)},
        "Mounts": mounts(container, volumes),
    }
    return entry


def network_mode(container: Container) -> str:
    """Its first network; another container's is shown by that one's id."""
    return mode(container, "network", container.spec.networks[0].name)


def _port_list(container: Container, exposed: tuple[str, ...]) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = [
        {"IP": address, "PrivatePort": port.container, "PublicPort": port.host, "Type": port.protocol}
        for port in container.ports
        for address in _host_addresses(container, port)
    ]
    published = {f"{port.container}/{port.protocol}" for port in container.ports}
    for port in exposed:
        if port not in published:
            number, _, protocol = port.partition("/")
            listed.append({"PrivatePort": int(number), "Type": protocol or "tcp"})
    return listed


def port_map(container: Container, exposed: tuple[str, ...]) -> dict[str, list[dict[str, str]] | None]:
    """NetworkSettings.Ports: what is really bound now."""
    found: dict[str, list[dict[str, str]] | None] = dict.fromkeys(exposed)
    for port in container.ports if container.running else ():
        key = f"{port.container}/{port.protocol}"
        found[key] = (found.get(key) or []) + [
            {"HostIp": address, "HostPort": port.asked} for address in _host_addresses(container, port)
        ]
    return found


def _host_addresses(container: Container, port: PortMapping) -> tuple[str, ...]:
    """The addresses of the host that lead to a published port, as Docker writes them: those of each family
    that the container has."""
    if port.host_ip:
        return (port.host_ip,)
    versions = {":" in address for endpoint in container.endpoints for address in endpoint.addresses}
    return ("::",) if versions == {True} else ("0.0.0.0", "::") if True in versions else ("0.0.0.0",)


def networks(container: Container) -> dict[str, dict[str, Any]]:
    """Endpoint settings by network."""
    endpoints = {endpoint.network: endpoint for endpoint in container.endpoints}
    return {
        attachment.name: _endpoint(container, attachment, endpoints.get(attachment.name))
        for attachment in container.spec.networks
        if not attachment.name.startswith("container:")
    }


def _endpoint(
    container: Container, attachment: NetworkAttachment, endpoint: Endpoint | None
) -> dict[str, Any]:
    network, aliases = attachment.name, attachment.aliases
    here = endpoint if container.running else None
    joined = container.running and network in HOST_NETWORKS
    wanted = {
        "IPv4Address": attachment.ipv4_address,
        "IPv6Address": attachment.ipv6_address,
        "LinkLocalIPs": list(attachment.link_local),
    }
    options = dict(attachment.driver_opts)
    sysctls = ",".join(f"{name}={value}" for name, value in attachment.sysctls.items())
    if sysctls:
        options["com.docker.network.endpoint.sysctls"] = sysctls
    return {
        "IPAMConfig": {name: address for name, address in wanted.items() if address} or None,
        "Links": [f"{target}:{alias}" for alias, target in attachment.links.items()] or None,
        "Aliases": list(aliases) or None,
        "MacAddress": here.mac if here else attachment.mac_address or "",
        "GwPriority": int(attachment.default_route),
        "DriverOpts": options or None,
        "NetworkID": network_id(network),
        "EndpointID": endpoint_id(container, network) if here or joined else "",
        "Gateway": (here and here.gateway) or "",
        "IPAddress": (here and here.ipv4) or "",
        "IPPrefixLen": here.prefix_length if here else 0,
        "IPv6Gateway": (here and here.gateway6) or "",
        "GlobalIPv6Address": (here and here.ipv6) or "",
        "GlobalIPv6PrefixLen": here.prefix_length6 if here else 0,
        "DNSNames": [container.name, *aliases, container.id[:12]] if network not in HOST_NETWORKS else None,
    }


def bind_mode(volume: VolumeMount) -> str:
    """What stands behind the last colon of a bind."""
    modes = ["ro"] if volume.read_only else []
    modes += [flag for flag, kind in RELABEL.items() if kind == volume.relabel]
    if volume.nocopy:
        modes.append("nocopy")
    if "propagation" in volume.given_fields:
        modes.append(volume.propagation)
    return ",".join(modes)


def mounts(container: Container, volumes: Mapping[str, str]) -> list[dict[str, Any]]:
    """The mount points: binds, volumes, tmpfs and images."""
    shown = []
    for volume in container.spec.volumes:
        point: dict[str, Any] = {"Type": volume.type}
        if volume.type == "volume" and volume.source is not None:
            point["Name"] = volume.source
            point["Source"] = volumes.get(volume.source, "")
        else:
            point["Source"] = volume.source or ""
        if volume.type == "image":
            point["Name"] = point["Source"]
        point["Destination"] = volume.target
        if volume.type == "volume":
            point["Driver"] = "local"
        point["Mode"] = bind_mode(volume)
        point["RW"] = not (volume.read_only or volume.type == "image")
        point["Propagation"] = volume.propagation if volume.type == "bind" else ""
        shown.append(point)
    return shown
