# SPDX-License-Identifier: Apache-2.0
"""`update`: new limits for a container that lives."""

from __future__ import annotations

import json
import sys
from typing import Any

from ..errors import Conflict, InvalidSpec, NotFound
from . import groups
from .options import Parsed
from .runtime import Runtime
from .states import Directory, status_of

# Option → where `linux.resources` has it.
_NUMBERS = {
    "memory": ("memory", "limit"),
    "memory_reservation": ("memory", "reservation"),
    "memory_swap": ("memory", "swap"),
    "cpu_period": ("cpu", "period"),
    "cpu_quota": ("cpu", "quota"),
    "cpu_burst": ("cpu", "burst"),
    "cpu_share": ("cpu", "shares"),
    "cpu_rt_period": ("cpu", "realtimePeriod"),
    "cpu_rt_runtime": ("cpu", "realtimeRuntime"),
    "cpu_idle": ("cpu", "idle"),
    "blkio_weight": ("blockIO", "weight"),
    "pids_limit": ("pids", "limit"),
}
_TEXTS = {"cpuset_cpus": ("cpu", "cpus"), "cpuset_mems": ("cpu", "mems")}


def update(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    directory = Directory(runtime.root, options.words[0])
    with directory.locked():
        state = directory.load()
        status = status_of(directory, state)
        if status == "stopped":
            raise Conflict(f"container {state.id} is stopped: expected a living one")
        if not state.groups:
            raise Conflict(f"container {state.id} was created without control groups: it has no limits")
        resources = _read(options.resources) if options.resources else {}
        for options_of, convert in ((_NUMBERS, _number), (_TEXTS, _text)):
            for name, (part, key) in options_of.items():
                value = getattr(options, name)
                if value is not None:
                    resources.setdefault(part, {})[key] = convert(name, value)
        groups.apply(state.groups, resources)
        groups.restrict_devices(state.groups, groups.device_rules(resources.get("devices") or ()))
    return 0


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidSpec(f"--{name.replace('_', '-')} is {text!r}, expected an integer") from None


def _text(name: str, text: str) -> str:
    return text


def _read(path: str) -> dict[str, Any]:
    try:
        if path == "-":
            resources = json.load(sys.stdin)
        else:
            with open(path, encoding="utf-8") as file:
                resources = json.load(file)
    except FileNotFoundError:
        raise NotFound(f"resources {path} do not exist") from None
    except ValueError as error:
        raise InvalidSpec(f"resources {path} are no JSON: {error}") from None
    if not isinstance(resources, dict):
        raise InvalidSpec(f"resources {path} are not a JSON object")
    return resources
