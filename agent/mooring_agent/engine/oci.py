# SPDX-License-Identifier: Apache-2.0
"""A container as an OCI runtime-spec config (1.2): whatever the engine decides about a process is visible
here.
"""

from __future__ import annotations

import resource
from collections.abc import Iterable, Mapping
from typing import Any

from ..images.image import Image
from ..runtime.compile import STANDARD_MOUNTS, USER_ANNOTATION
from ..runtime.standard import MASKED_PATHS, READ_ONLY_PATHS
from .confinement import PLAIN, Surroundings, adjust, capabilities_of, is_plain
from .container import Container
from .resources import ContainerSpec, VolumeMount

RUNTIME_SPEC = "1.2.0"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What docker gives its containers; the host's own hard limit bounds it.
_DESCRIPTORS = 1 << 20
_NEW_NAMESPACES = ("mount", "pid", "network", "uts", "ipc", "cgroup")


def runtime_config(
    container: Container,
    etc_directory: str,
    volume_paths: Mapping[str, str],
    around: Surroundings = PLAIN,
) -> dict[str, Any]:
    """The config of `container`.

    `etc_directory` has its hosts, hostname and resolv.conf; `volume_paths` maps the target of each named
    volume and each image to its directory; `around` is what a container that is no plain one needs besides.
    """
    spec = container.spec
    capabilities = list(capabilities_of(spec))
    networking = spec.networks[0].name
    namespaces = [
        kind for kind in _NEW_NAMESPACES if not (kind in ("network", "uts") and networking == "host")
    ]
    config: dict[str, Any] = {
        "ociVersion": RUNTIME_SPEC,
        "hostname": "" if networking == "host" else container.hostname,
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "process": process_config(
            argv=container.argv,
            env=container.env,
            workdir=container.workdir,
            terminal=spec.tty,
            capabilities=capabilities,
            no_new_privileges=spec.no_new_privileges,
        ),
        "mounts": [
            *STANDARD_MOUNTS,
            *_etc_mounts(container, etc_directory),
            *_volumes(container, volume_paths),
        ],
        "annotations": {**spec.annotations, USER_ANNOTATION: container.user},
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
            "cgroupsPath": f"/{container.group}",
            "sysctl": {} if networking == "host" else {"net.ipv4.ip_unprivileged_port_start": "0"},
        },
    }
    if not is_plain(spec):
        adjust(config, spec, around)
    return config


def process_config(
    *,
    argv: tuple[str, ...],
    env: tuple[str, ...],
    workdir: str,
    terminal: bool,
    capabilities: list[str],
    no_new_privileges: bool,
    rows: int | None = None,
    columns: int | None = None,
) -> dict[str, Any]:
    """The `process` of a config. The user is resolved in the container: see `USER_ANNOTATION`."""
    hard = min(_DESCRIPTORS, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    return {
        "args": list(argv),
        "env": list(env),
        "cwd": workdir,
        "terminal": terminal,
        **({"consoleSize": {"height": rows, "width": columns}} if terminal and rows and columns else {}),
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": no_new_privileges,
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": hard, "hard": hard}],
        "oomScoreAdj": 0,
    }


def merged_argv(
    entrypoint: tuple[str, ...] | None, command: tuple[str, ...] | None, image: Mapping[str, Any]
) -> tuple[str, ...]:
    """What is executed: an entrypoint of one's own drops the image's command, as `docker run --entrypoint`
    does.
    """
    if entrypoint is None:
        entrypoint = tuple(image.get("Entrypoint") or ())
        if command is None:
            command = tuple(image.get("Cmd") or ())
    return (*entrypoint, *(command or ()))


def merged_environment(spec: ContainerSpec, image: Image, hostname: str) -> tuple[str, ...]:
    """The image's environment with the container's over it, and what every process expects to find."""
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if spec.tty:
        merged["TERM"] = "xterm"
    merged.update(environment(image.config.get("Env") or ()))
    merged.update(spec.env)
    for name in spec.env_unset:
        merged.pop(name, None)
    return tuple(f"{name}={value}" for name, value in merged.items())


def environment(entries: Iterable[str]) -> dict[str, str]:
    """ "NAME=value" strings as a mapping; what has no "=" says nothing."""
    return {name: value for name, mark, value in (entry.partition("=") for entry in entries) if mark}


def _etc_mounts(container: Container, directory: str) -> list[dict[str, Any]]:
    if container.spec.networks[0].name == "none":
        names: tuple[str, ...] = ("hosts", "hostname")
    else:
        names = ("hosts", "hostname", "resolv.conf")
    taken = {volume.target for volume in container.spec.volumes}
    return [
        {"destination": f"/etc/{name}", "type": "bind", "source": f"{directory}/{name}", "options": ["bind"]}
        for name in names
        if f"/etc/{name}" not in taken
    ]


def _volumes(container: Container, volume_paths: Mapping[str, str]) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = []
    for volume in sorted(container.spec.volumes, key=lambda one: one.target.count("/")):
        options = [] if not volume.read_only else ["ro"] if volume.type == "tmpfs" else ["rro"]
        if volume.type == "tmpfs":
            options += _tmpfs_options(volume)
            mounts.append(
                {"destination": volume.target, "type": "tmpfs", "source": "tmpfs", "options": options}
            )
            continue
        if volume.type == "bind":
            source = volume.source or ""
            options = ["rbind" if volume.recursive else "bind", volume.propagation, *options]
        else:
            source = volume_paths[volume.target]
            options = ["rbind", *(["rro"] if volume.type == "image" else options)]
        mounts.append({"destination": volume.target, "type": "bind", "source": source, "options": options})
    return mounts


def _tmpfs_options(volume: VolumeMount) -> list[str]:
    """What is locked unless an option of its own opens it, and open to all users unless it has a mode."""
    if not volume.options:
        options = ["nosuid", "nodev", "noexec", "mode=1777"]
    else:
        locked = [lock for lock in ("nosuid", "nodev", "noexec") if lock[2:] not in volume.options]
        mode = [] if any(option.startswith("mode=") for option in volume.options) else ["mode=1777"]
        options = list(dict.fromkeys([*locked, *mode, *volume.options]))
    return [*options, f"size={volume.size}"] if volume.size else options
