# SPDX-License-Identifier: Apache-2.0
"""The limits of a container to be created or updated, from Docker's words to ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...engine.resources.options import Size
from ...errors import InvalidSpec
from .rules import Draft, Rule, integer, objects, pairs, refused, text, unsupported

_NANO = 1_000_000_000
_DEFAULT_CPU_PERIOD = 100_000  # microseconds, Documentation/scheduler/sched-bwc.rst


def cpus(draft: Draft, value: Any, where: str) -> None:
    """NanoCpus: CPUs in billionths."""
    nanos = integer(value, where)
    if nanos is not None:
        if "cpus" in draft.spec:
            raise InvalidSpec("options NanoCpus and CpuQuota say the same thing; give one of them")
        draft.spec["cpus"] = nanos / _NANO


def quota(draft: Draft, value: Any, where: str) -> None:
    """CpuQuota: microseconds in each period."""
    quota = integer(value, where)
    if quota is not None and quota > 0:
        if "cpus" in draft.spec:
            raise InvalidSpec("options NanoCpus and CpuQuota say the same thing; give one of them")
        draft.extra["CpuQuota"] = quota
        draft.spec["cpus"] = quota / draft.extra.get("CpuPeriod", _DEFAULT_CPU_PERIOD)


def period(draft: Draft, value: Any, where: str) -> None:
    """CpuPeriod: microseconds in which the quota holds."""
    period = integer(value, where)
    if period is not None:
        if period < 0:
            raise refused(where, value, "a number of microseconds")
        draft.extra["CpuPeriod"] = period
        if "CpuQuota" in draft.extra:
            draft.spec["cpus"] = draft.extra["CpuQuota"] / period


def storage(draft: Draft, value: Any, where: str) -> None:
    """StorageOpt: the size of the container's own layer, as docker's units have it."""
    for name, given in (pairs(value, where) or {}).items():
        if name != "size":
            raise unsupported(f"{where}.{name}", given, "size is all that a layer can be given")
        draft.spec["storage_size"] = Size().parse(given, f"option {where}.size")


def pids(draft: Draft, value: Any, where: str) -> None:
    """PidsLimit, which none and -1 leave open."""
    limit = integer(value, where)
    if limit is not None and limit > 0:
        draft.spec["pids_limit"] = limit


def pids_update(draft: Draft, value: Any, where: str) -> None:
    """PidsLimit of an update, where they lift it."""
    limit = integer(value, where)
    if limit is not None:
        draft.spec["pids_limit"] = limit if limit > 0 else None


def swappiness(draft: Draft, value: Any, where: str) -> None:
    """MemorySwappiness, where 0 asks for something and -1 for nothing."""
    if value is None or value == -1:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise refused(where, value, "a whole number from 0 to 100, or -1")
    draft.spec["memory_swappiness"] = value


def devices(option: str, limit: str) -> Rule:
    """A list of disks, each an object of Path and `limit`."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        limits: dict[str, int] = {}
        for number, entry in enumerate(objects(value, where) or []):
            here = f"{where}[{number}]"
            path = text(entry.get("Path"), f"{here}.Path")
            if path is None or entry.keys() - {"Path", limit}:
                raise refused(here, entry, f"an object with Path and {limit}")
            if path in limits:
                raise InvalidSpec(f"option {where} names {path} twice; name it once")
            limits[path] = integer(entry.get(limit), f"{here}.{limit}") or 0
        if limits:
            draft.spec[option] = limits

    return rule


def shown_devices(limits: Mapping[str, int], limit: str) -> list[dict[str, Any]] | None:
    """Such a list as inspect shows it."""
    return [{"Path": path, limit: value} for path, value in limits.items()] or None
