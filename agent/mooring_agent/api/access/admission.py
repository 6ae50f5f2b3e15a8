# SPDX-License-Identifier: Apache-2.0
"""What a container, network or volume may ask for that is made for an owner of names.

An owner may do what they like to containers of theirs, so such a container must be no way to the host, nor to
what is others'. Everything that is not known to be harmless is refused: each list here says what is let in.
Pure, but for the question whose a name is.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ...runtime.capabilities import DEFAULT, normalise
from ..docker.convert import Conversion
from ..docker.rules import asks, canonical, shown
from .ownership import Owner

Mine = Callable[[str], str]
"""Whose a container or network is that is referred to: its name if it is the owner's, else NotFound."""

# ip_unprivileged_port_start of ip-sysctl.rst: lower ones are those of the host's own services.
_LOWEST_PORT = 1024
_SHARED_NETWORKS = ("bridge", "none")
_WHOLE_ID = re.compile(r"[0-9a-f]{64}")

# Of a container's spec: what concerns the container alone, whatever is said.
HARMLESS = frozenset(
    {
        *("image", "command", "entrypoint", "env", "env_unset", "workdir", "user", "labels"),
        *("hostname", "domainname", "dns_search", "dns_options", "extra_hosts", "tty", "interactive"),
        *("memory", "memory_reservation", "memory_swap", "cpus", "cpu_shares", "cpuset_cpus", "cpuset_mems"),
        *("memory_swappiness", "blkio_weight"),
        *("pids_limit", "shm_size", "restart", "healthcheck", "stop_signal", "stop_timeout"),
        *("storage_size", "cap_drop", "no_new_privileges", "read_only", "init", "group_add"),
    }
)
# Of what is kept for `docker inspect`; PublishAllPorts takes ports that are free.
_EXTRA = frozenset(
    {
        *("AttachStderr", "AttachStdin", "AttachStdout", "StdinOnce", "ConsoleSize", "ContainerIDFile"),
        *("CpuPeriod", "CpuQuota", "CpusetCpus", "CpusetMems", "ExposedPorts", "PublishAllPorts"),
        *("Isolation", "LogConfig", "Runtime", "StorageOpt", "Tmpfs", "VolumeDriver", "VolumesFrom"),
    }
)
_CONVERSION = frozenset({"spec", "extra", "auto_remove", "anonymous", "links", "volume_specs"})
_MOUNTS = {
    "volume": frozenset({"type", "source", "target", "read_only", "nocopy"}),
    "tmpfs": frozenset({"type", "target", "read_only", "size", "options"}),
    "image": frozenset({"type", "source", "target", "read_only", "subpath"}),
}
_ATTACHMENT = frozenset(
    {"name", "aliases", "links", "ipv4_address", "ipv6_address", "mac_address", "default_route"}
)
_PORT = frozenset({"container", "protocol", "host", "host_ip"})
_LOG = frozenset({"driver", "max_size", "max_files", "options"})
_LOG_DRIVERS = ("json-file", "local", "none")
_NETWORK = frozenset({"internal", "labels", "ipv4", "ipv6"})
_VOLUME = frozenset({"Name", "Driver", "Labels"})
_VOLUME_SPEC = frozenset({"labels"})
_EXEC = frozenset(
    {
        *("AttachStdin", "AttachStdout", "AttachStderr", "DetachKeys", "Tty", "ConsoleSize", "Detach"),
        *("Cmd", "Env", "WorkingDir", "User", "Container"),
    }
)


def admit(asked: Conversion, owner: Owner, container: Mine, network: Mine) -> None:
    """Raise Forbidden for what a container must not ask for, NotFound for others' containers and networks."""
    for part in dataclasses.fields(asked):
        if part.name not in _CONVERSION and asks(getattr(asked, part.name)):
            raise owner.refuses(part.name, getattr(asked, part.name))
    _only(asked.extra, _EXTRA, owner)
    for reference in asked.extra.get("VolumesFrom", ()):
        _own(reference.partition(":")[0], container, owner)
    for target, _ in asked.links:
        _own(target, container, owner)
    for volume, spec in asked.volume_specs.items():
        _named(volume, "a volume", owner)
        _only(spec, _VOLUME_SPEC, owner, "volumes: ")
    for key, value in asked.spec.items():
        if key in HARMLESS:
            continue
        if key == "volumes":
            for mount in value:
                _mount(mount, owner)
        elif key == "networks":
            for attachment in value:
                admit_attachment(attachment, owner, container, network)
        elif key in CHECKED:
            CHECKED[key](key, value, owner, container)
        else:
            raise owner.refuses(key, value)


def admit_changes(changes: Mapping[str, Any], owner: Owner) -> None:
    """Raise Forbidden for what a container must not become by an update."""
    _only(changes, HARMLESS, owner)


def admit_attachment(asked: Any, owner: Owner, container: Mine, network: Mine) -> None:
    """Raise Forbidden or NotFound for what a container must not ask for on a network."""
    attachment: Mapping[str, Any] = {"name": asked} if isinstance(asked, str) else asked
    name = attachment["name"]
    if name in _SHARED_NETWORKS:
        _only(attachment, frozenset({"name"}), owner, f"networks[{name}].")
        return
    if name.startswith("container:"):
        _only(attachment, frozenset({"name"}), owner, f"networks[{name}].")
        _own(name.removeprefix("container:"), container, owner)
        return
    if name == "host":
        raise owner.refuses("networks", name)
    _own(name, network, owner)
    _only(attachment, _ATTACHMENT, owner, f"networks[{name}].")
    for target in attachment.get("links", {}).values():
        _own(target, container, owner)


def admit_exec(body: Mapping[str, Any], owner: Owner) -> None:
    """Raise Forbidden for what a command in a container must not ask for: privileges, foremost."""
    _only_asked(canonical(body, (*_EXEC, "Privileged")), _EXEC, owner)


def admit_volume(body: Mapping[str, Any], owner: Owner) -> None:
    """Raise Forbidden for a volume that has another's name, or is something else than a directory."""
    asked = canonical(body, _VOLUME)
    _only_asked(asked, _VOLUME, owner)
    _named(asked.get("Name"), "a volume", owner)


def admit_network(name: str, spec: Mapping[str, Any], owner: Owner) -> None:
    """Raise Forbidden for a network with another's name, addresses of its own choice or a device."""
    _named(name, "a network", owner)
    _only(spec, _NETWORK, owner)


def _only(asked: Mapping[str, Any], known: Iterable[str], owner: Owner, prefix: str = "") -> None:
    for key, value in asked.items():
        if key not in known:
            raise owner.refuses(prefix + key, value)


def _only_asked(body: Mapping[str, Any], known: Iterable[str], owner: Owner) -> None:
    """The same for a body, in which clients send what asks for nothing too."""
    _only({key: value for key, value in body.items() if asks(value)}, known, owner)


def _own(reference: str, mine: Mine, owner: Owner) -> None:
    """Raise NotFound for what is not theirs, and Forbidden for the beginning of an id: references are looked
    up again at every start, and only a name of theirs or a whole id cannot lead elsewhere then.
    """
    found = mine(reference)
    if reference.removeprefix("/") != found and not _WHOLE_ID.fullmatch(reference):
        raise owner.refuses("a part of an id", reference, f"say {found}, or the whole id")


def _named(name: Any, what: str, owner: Owner) -> None:
    if not isinstance(name, str) or not owner.owns(name):
        raise owner.needs_name(what, name)


def _mount(mount: Mapping[str, Any], owner: Owner) -> None:
    kind = mount.get("type")
    if kind not in _MOUNTS:
        raise owner.refuses(f"volumes: {kind}", mount.get("source"))
    _only(mount, _MOUNTS[kind], owner, "volumes: ")
    if kind == "volume":
        _named(mount.get("source"), "a volume", owner)


def _joined(*plain: str) -> Callable[[str, Any, Owner, Mine], None]:
    """A namespace of its own, of one of these kinds, or that of another container of the owner's."""

    def check(key: str, value: Any, owner: Owner, container: Mine) -> None:
        if isinstance(value, str) and value.startswith("container:"):
            _own(value.removeprefix("container:"), container, owner)
        elif value not in plain:
            raise owner.refuses(key, value)

    return check


def _ports(key: str, value: Any, owner: Owner, container: Mine) -> None:
    for port in value:
        _only(port, _PORT, owner, "ports: ")
        if 0 < (port.get("host") or 0) < _LOWEST_PORT:
            raise owner.refuses("ports: host", port["host"], f"take one from {_LOWEST_PORT} on, or none")


def _capabilities(key: str, value: Any, owner: Owner, container: Mine) -> None:
    for name in value:
        if normalise(name, key) not in DEFAULT:
            raise owner.refuses(key, name)


def _log(key: str, value: Any, owner: Owner, container: Mine) -> None:
    _only(value, _LOG, owner, "log: ")
    if value.get("driver", _LOG_DRIVERS[0]) not in _LOG_DRIVERS:
        raise owner.refuses("log: driver", value["driver"])


def _seccomp(key: str, value: Any, owner: Owner, container: Mine) -> None:
    if value != "default":
        raise owner.refuses(key, shown(value))


def _oom_score(key: str, value: Any, owner: Owner, container: Mine) -> None:
    if value < 0:
        raise owner.refuses(key, value)


CHECKED: Mapping[str, Callable[[str, Any, Owner, Mine], None]] = {
    "cap_add": _capabilities,
    "ipc": _joined("private", "shareable", "none"),
    "log": _log,
    "oom_score_adj": _oom_score,
    "pid": _joined("private"),
    "ports": _ports,
    "seccomp": _seccomp,
    "uts": _joined("private"),
}
