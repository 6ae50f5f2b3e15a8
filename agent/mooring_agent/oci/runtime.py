# SPDX-License-Identifier: Apache-2.0
"""What all commands share: where the states are, the manager of control groups, where complaints go."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass

from ..errors import InvalidSpec, NotFound, NotSupported
from .options import Parsed

_DEFAULT_ROOT = "/run/mooring-oci"
MANAGERS = ("cgroupfs", "disabled")
_LEVELS = ("error", "warning", "info", "debug")


@dataclass(frozen=True)
class Runtime:
    """The global options."""

    root: str = _DEFAULT_ROOT
    log: str = ""
    log_format: str = "text"
    log_level: str = "warning"
    manager: str = "cgroupfs"
    criu: str = "criu"

    @classmethod
    def from_options(cls, options: Parsed) -> Runtime:
        """Raises InvalidSpec or NotSupported naming the option."""
        if options.log_format not in ("text", "json"):
            raise InvalidSpec(f"--log-format is {options.log_format!r}, expected text or json")
        level = "debug" if options.debug else options.log_level
        if level not in _LEVELS:
            raise InvalidSpec(f"--log-level is {level!r}, expected one of {', '.join(_LEVELS)}")
        if options.rootless not in ("auto", "false"):
            raise NotSupported(
                f"--rootless is {options.rootless!r}, but this runtime runs as root: expected auto or false"
            )
        manager = "systemd" if options.systemd_cgroup else options.cgroup_manager
        if manager not in (*MANAGERS, "systemd"):
            raise InvalidSpec(f"--cgroup-manager is {manager!r}, expected cgroupfs, systemd or disabled")
        if options.log:
            _append(options.log, "")
        return cls(
            root=os.path.abspath(options.root) if options.root else default_root(),
            log=options.log or "",
            log_format=options.log_format,
            log_level=level,
            manager=manager,
            criu=options.criu,
        )

    def check_host(self) -> None:
        """Raise NotSupported for the systemd manager, and for a user who is not root."""
        if os.geteuid() != 0:
            raise NotSupported("containers are made as root only: run this as root, or in a user namespace")
        if self.manager != "systemd":
            return
        there = os.path.isdir("/run/systemd/system")
        raise NotSupported(
            "the systemd cgroup manager was asked for, but "
            + ("this runtime does not speak to systemd" if there else "systemd does not run on this host")
            + "; use --cgroup-manager cgroupfs"
        )

    def complain(self, message: str, level: str = "error") -> None:
        """Say it on stderr and, where one was named, in the log; nothing that is below --log-level."""
        if _LEVELS.index(level) > _LEVELS.index(self.log_level):
            return
        sys.stderr.write(f"mooring-oci: {message}\n")
        sys.stderr.flush()
        if not self.log:
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self.log_format == "json":
            import json

            line = json.dumps({"msg": message, "level": level, "time": moment})
        else:
            line = f'time="{moment}" level={level} msg="{message}"'
        try:
            _append(self.log, f"{line}\n")
        except NotFound as error:
            sys.stderr.write(f"mooring-oci: {error.message}\n")

    def debug(self, message: str) -> None:
        """Say what is done, where that was asked for."""
        self.complain(message, "debug")


def _append(path: str, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NotFound(f"--log {path} cannot be written: {error.strerror}") from None
    os.write(descriptor, text.encode())
    os.close(descriptor)


def default_root() -> str:
    """Where states are without --root."""
    if os.geteuid() == 0:
        return _DEFAULT_ROOT
    return os.path.join(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}", "mooring-oci")
