# SPDX-License-Identifier: Apache-2.0
"""`HostConfig.LogConfig`: a log driver and its options, in Docker's words and in ours. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.resources.logdrivers import FORWARDED, LOG_DRIVERS, LogOptions
from ...errors import InvalidSpec
from .rules import Draft, mapping, pairs, refused, text, unsupported

_KIB = 1024
_SIZES = {"": 1, "b": 1, "k": _KIB, "m": _KIB**2, "g": _KIB**3}
# Those of dockerd that this agent has not; any other name is none at all.
_DRIVERS_OF_DOCKER = ("awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "logentries", "splunk")
# What is kept here of what is sent elsewhere has a name of its own.
_SIZE, _FILES, _COMPRESS = "max-size", "max-file", "compress"
_CACHE = "cache-"


def log(draft: Draft, value: Any, where: str) -> None:
    """The rule of LogConfig."""
    config = mapping(value, where) or {}
    for key in config:
        if key not in ("Type", "Config"):
            raise refused(where, value, "an object with Type and Config")
    driver = text(config.get("Type"), f"{where}.Type") or "json-file"
    if driver in _DRIVERS_OF_DOCKER:
        raise unsupported(f"{where}.Type", driver, f"use {', '.join(LOG_DRIVERS[:-1])} or {LOG_DRIVERS[-1]}")
    if driver not in LOG_DRIVERS:
        # Wording of dockerd's logger: clients compare it.
        raise InvalidSpec(f"logger: no log driver named '{driver}' is registered")
    options = pairs(config.get("Config"), f"{where}.Config") or {}
    if spec := _spec(driver, options, f"{where}.Config"):
        draft.spec["log"] = spec
    if options:
        draft.extra["LogConfig"] = {"Type": driver, "Config": options}


def shown(log: LogOptions, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """A container's LogConfig: as it was `given`, as long as that means what holds."""
    if given is not None:
        spec = _spec(given["Type"], given["Config"], "LogConfig.Config")
        if LogOptions.parse(spec) == log:
            return dict(given)
    before = _CACHE if log.driver in FORWARDED else ""
    config = dict(log.options)
    for option, name, value in (
        (_SIZE, "max_size", log.max_size),
        (_FILES, "max_files", log.max_files),
    ):
        if name in log.given_fields:
            config[before + option] = str(value)
    return {"Type": log.driver, "Config": config}


def _spec(driver: str, options: Mapping[str, str], where: str) -> dict[str, Any]:
    """The same as the option `log` of our spec, which is empty if nothing is asked for."""
    spec: dict[str, Any] = {} if driver == "json-file" else {"driver": driver}
    before = _CACHE if driver in FORWARDED else ""
    own: dict[str, str] = {}
    for key, value in options.items():
        if key == before + _SIZE:
            spec["max_size"] = _size(value, f"{where}.{key}")
        elif key == before + _FILES:
            spec["max_files"] = value
        elif key == before + _COMPRESS:
            if value.lower() not in ("false", "0", "f"):
                raise unsupported(f"{where}.{key}", value, "leave it out: files of logs are not compressed")
        else:
            own[key] = value
    if own:
        spec["options"] = own
    return spec


def _size(value: str, where: str) -> int:
    """A size as go-units' RAMInBytes reads it."""
    number = value.strip().lower().removesuffix("b").removesuffix("i")
    unit = number[-1:] if number[-1:] in "kmg" else ""
    try:
        size = int(float(number.removesuffix(unit)) * _SIZES[unit])
    except (ValueError, OverflowError):
        raise refused(where, value, 'a size such as "10m"') from None
    if size <= 0:
        raise refused(where, value, 'a size such as "10m"')
    return size
