# SPDX-License-Identifier: Apache-2.0
"""What an image says about its containers, as ours and as the OCI image-spec's (config.md)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mooring_agent.errors import InvalidSpec

_PORT = re.compile(r"(\d{1,5})(?:/(tcp|udp|sctp))?")
_ENV_NAME = re.compile(r"[^=\0]+")
_SIGNAL = re.compile(r"(?:SIG)?[A-Z][A-Z0-9+-]*|\d{1,2}")


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """Defaults of an image's containers; None means that the image says nothing.

    `env` is `NAME=value` each, `exposed_ports` `80/tcp` each, `user` `name|uid[:group|gid]`, `volumes` are
    absolute directories, `on_build` instructions for whoever builds on the image; `healthcheck` is in the
    words of an image's configuration (Test, Interval in nanoseconds, …).
    """

    cmd: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    workdir: str | None = None
    user: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    exposed_ports: tuple[str, ...] = ()
    stop_signal: str | None = None
    volumes: tuple[str, ...] = ()
    on_build: tuple[str, ...] = ()
    healthcheck: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> ImageConfig:
        """Read the `config` of a normalised image spec."""

        def strings(key: str) -> tuple[str, ...] | None:
            return tuple(spec[key]) if key in spec else None

        return cls(
            cmd=strings("cmd"),
            entrypoint=strings("entrypoint"),
            env=tuple(f"{name}={value}" for name, value in spec["env"].items()) if "env" in spec else None,
            workdir=spec.get("workdir"),
            user=spec.get("user"),
            labels=dict(spec.get("labels", {})),
            exposed_ports=strings("exposed_ports") or (),
            stop_signal=spec.get("stop_signal"),
        )

    @classmethod
    def from_oci(cls, config: Mapping[str, Any]) -> ImageConfig:
        """Read the `config` object of an OCI image configuration; unset, null and empty are alike there."""
        return cls(
            cmd=tuple(config.get("Cmd") or ()) or None,
            entrypoint=tuple(config.get("Entrypoint") or ()) or None,
            env=tuple(config.get("Env") or ()) or None,
            workdir=config.get("WorkingDir") or None,
            user=config.get("User") or None,
            labels=dict(config.get("Labels") or {}),
            exposed_ports=tuple(sorted(config.get("ExposedPorts") or ())),
            stop_signal=config.get("StopSignal") or None,
            volumes=tuple(sorted(config.get("Volumes") or ())),
            on_build=tuple(config.get("OnBuild") or ()),
            healthcheck=dict(config.get("Healthcheck") or {}),
        )

    def to_oci(self) -> dict[str, Any]:
        """Return the `config` object of an OCI image configuration; what is not set is left out."""
        found: dict[str, Any] = {
            "Cmd": list(self.cmd or ()),
            "Entrypoint": list(self.entrypoint or ()),
            "Env": list(self.env or ()),
            "WorkingDir": self.workdir,
            "User": self.user,
            "Labels": dict(self.labels),
            "ExposedPorts": {port: {} for port in sorted(self.exposed_ports)},
            "StopSignal": self.stop_signal,
            "Volumes": {volume: {} for volume in sorted(self.volumes)},
            "OnBuild": list(self.on_build),
            "Healthcheck": dict(self.healthcheck),
        }
        return {key: value for key, value in found.items() if value}

    def over(self, base: ImageConfig) -> ImageConfig:
        """Return this config laid over `base`: labels, ports and variables are merged, the rest replaces."""
        return ImageConfig(
            cmd=self.cmd if self.cmd is not None else base.cmd,
            entrypoint=self.entrypoint if self.entrypoint is not None else base.entrypoint,
            env=merge_env(base.env or (), self.env or ()) or None,
            workdir=self.workdir or base.workdir,
            user=self.user or base.user,
            labels={**base.labels, **self.labels},
            exposed_ports=tuple(sorted({*base.exposed_ports, *self.exposed_ports})),
            stop_signal=self.stop_signal or base.stop_signal,
            volumes=tuple(sorted({*base.volumes, *self.volumes})),
            on_build=(*base.on_build, *self.on_build),
            healthcheck=self.healthcheck or base.healthcheck,
        )


def merge_env(base: Iterable[str], over: Iterable[str]) -> tuple[str, ...]:
    """Merge two lists of `NAME=value`: what is set again keeps its place and gets the new value."""
    merged = {item.partition("=")[0]: item for item in base}
    merged.update({item.partition("=")[0]: item for item in over})
    return tuple(merged.values())


def check_port(value: str) -> str:
    """Return `80` or `80/udp` in full, or raise InvalidSpec."""
    match = _PORT.fullmatch(value)
    if match is None or not 1 <= int(match[1]) <= 65535:
        raise InvalidSpec(
            f"exposed port {value!r} is not valid: expected 1 to 65535, with /tcp, /udp or /sctp"
        )
    return f"{int(match[1])}/{match[2] or 'tcp'}"


def check_env_name(name: str) -> str:
    """Return the name of an environment variable, or raise InvalidSpec."""
    if not _ENV_NAME.fullmatch(name):
        raise InvalidSpec(
            f"environment variable name {name!r} is not valid: expected no = in it, and at least a character"
        )
    return name


def check_signal(value: str) -> str:
    """Return a signal's name or number, or raise InvalidSpec."""
    if not _SIGNAL.fullmatch(value):
        raise InvalidSpec(f"stop signal {value!r} is not valid: expected a name like SIGTERM or a number")
    return value


def check_workdir(value: str) -> str:
    """Return an absolute directory, or raise InvalidSpec."""
    if not value.startswith("/") or "\0" in value:
        raise InvalidSpec(f"working directory {value!r} is not valid: expected an absolute path")
    return value
