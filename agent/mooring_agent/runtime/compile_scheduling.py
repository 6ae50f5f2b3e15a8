# SPDX-License-Identifier: Apache-2.0
"""How a process is scheduled, and where its memory comes from, as numbers of the kernel. Pure.

runtime-spec 1.2, config.md Linux Process, and 1.3, config-linux.md Memory policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec

# include/uapi/linux/sched.h
_POLICIES = {
    "SCHED_OTHER": 0,
    "SCHED_FIFO": 1,
    "SCHED_RR": 2,
    "SCHED_BATCH": 3,
    "SCHED_ISO": 4,
    "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}
_SCHEDULER_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 0x01,
    "SCHED_FLAG_RECLAIM": 0x02,
    "SCHED_FLAG_DL_OVERRUN": 0x04,
    "SCHED_FLAG_KEEP_POLICY": 0x08,
    "SCHED_FLAG_KEEP_PARAMS": 0x10,
    "SCHED_FLAG_UTIL_CLAMP_MIN": 0x20,
    "SCHED_FLAG_UTIL_CLAMP_MAX": 0x40,
}
# kernel/sched/deadline.c, __checkparam_dl: what the kernel can count with.
_SHORTEST, _LONGEST = 1 << 10, 1 << 63
# include/uapi/linux/ioprio.h
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_IO_CLASS_SHIFT = 13
# include/uapi/linux/mempolicy.h
_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
_WITHOUT_NODES = ("MPOL_DEFAULT", "MPOL_LOCAL")
_MODE_FLAGS = {
    "MPOL_F_STATIC_NODES": 1 << 15,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_NUMA_BALANCING": 1 << 13,
}
_NODES = 1024  # the highest CONFIG_NODES_SHIFT is 10
_CPUS = 8192  # the highest CONFIG_NR_CPUS
# include/uapi/linux/personality.h
_DOMAINS = {"LINUX": 0x0000, "LINUX32": 0x0008}


def compile_scheduler(scheduler: Any) -> tuple[int, ...]:
    """`process.scheduler` as (policy, flags, nice, priority, runtime, deadline, period), sched_setattr(2)."""
    if not scheduler:
        return ()
    where = "config.process.scheduler"
    _check_object(scheduler, where)
    policy = _one_of(_POLICIES, scheduler.get("policy"), f"{where}.policy")
    flags = 0
    for flag in _names(scheduler, "flags", where):
        flags |= _one_of(_SCHEDULER_FLAGS, flag, f"{where}.flags")
    nice = _integer(scheduler, "nice", where, -20, 19)
    priority = _integer(scheduler, "priority", where, 0, 99)
    times = tuple(
        _integer(scheduler, name, where, 0, (1 << 64) - 1) for name in ("runtime", "deadline", "period")
    )
    if scheduler["policy"] == "SCHED_DEADLINE":
        _check_deadline(scheduler, *times)
    return (policy, flags, nice, priority, *times)


def _check_deadline(scheduler: Mapping[str, Any], runtime: int, deadline: int, period: int) -> None:
    """What the kernel would refuse with a bare EINVAL, sched(7)."""
    subject = "config.process.scheduler: sched_setattr: `SCHED_DEADLINE`"
    for name in ("runtime", "deadline"):
        if scheduler.get(name) is None:
            raise InvalidSpec(f"{subject} requires `{name}`, in nanoseconds")
    if runtime == 0:
        raise InvalidSpec(f"{subject} runtime must be greater than 0")
    if not _SHORTEST <= runtime <= _LONGEST:
        raise InvalidSpec(
            f"{subject} runtime {runtime} must be between {_SHORTEST} and {_LONGEST} nanoseconds"
        )
    if runtime > deadline:
        raise InvalidSpec(f"{subject} runtime {runtime} must be <= the deadline {deadline}")
    if period and deadline > period:
        raise InvalidSpec(f"{subject} deadline {deadline} must be <= the period {period}")


def compile_io_priority(priority: Any) -> int | None:
    """`process.ioPriority` as ioprio_set(2) takes it."""
    if not priority:
        return None
    where = "config.process.ioPriority"
    _check_object(priority, where)
    chosen = _one_of(_IO_CLASSES, priority.get("class"), f"{where}.class")
    return chosen << _IO_CLASS_SHIFT | _integer(priority, "priority", where, 0, 7)


def compile_personality(personality: Any) -> int | None:
    """`linux.personality` as personality(2) takes it."""
    if not personality:
        return None
    _check_object(personality, "config.linux.personality")
    if personality.get("flags"):
        raise InvalidSpec("config.linux.personality.flags: expected none, as the runtime-spec knows none")
    return _one_of(_DOMAINS, personality.get("domain"), "config.linux.personality.domain")


def compile_memory_policy(policy: Any) -> tuple[int, str]:
    """`linux.memoryPolicy` as (mode with its flags, mask of the nodes in hexadecimal digits), as for
    set_mempolicy(2); (-1, "") where there is none.
    """
    if policy is None:
        return -1, ""
    where = "config.linux.memoryPolicy"
    _check_object(policy, where)
    name = policy.get("mode")
    mode = _one_of(_MODES, name, f"{where}.mode")
    flags = {_one_of(_MODE_FLAGS, flag, f"{where}.flags") for flag in _names(policy, "flags", where)}
    if {_MODE_FLAGS["MPOL_F_STATIC_NODES"], _MODE_FLAGS["MPOL_F_RELATIVE_NODES"]} <= flags:
        raise InvalidSpec(f"{where}.flags has static and relative nodes: expected one of them")
    nodes = number_list(policy.get("nodes") or "", f"{where}.nodes", _NODES)
    if nodes and name in _WITHOUT_NODES:
        raise InvalidSpec(f"{where}.nodes is there with {name}: expected none")
    if not nodes and name not in (*_WITHOUT_NODES, "MPOL_PREFERRED"):
        raise InvalidSpec(f"{where}.nodes is missing: {name} expects at least one node, such as 0-1")
    if flags and not nodes:
        raise InvalidSpec(f"{where}.flags are about nodes: expected some in {where}.nodes")
    return mode | sum(flags), f"{sum(1 << node for node in nodes):x}" if nodes else ""


def compile_affinity(affinity: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """`process.execCPUAffinity` as the CPUs before and after the process joins its control groups."""
    if not affinity:
        return (), ()
    where = "config.process.execCPUAffinity"
    _check_object(affinity, where)
    before, after = (
        number_list(affinity.get(name) or "", f"{where}.{name}", _CPUS) for name in ("initial", "final")
    )
    return before, after


def number_list(text: Any, where: str, bound: int) -> tuple[int, ...]:
    """The numbers of a list such as "0-3,7". Raises InvalidSpec that names `where`."""
    if not isinstance(text, str):
        raise InvalidSpec(f"{where} is {text!r}: expected a text such as 0-3,7")
    found: set[int] = set()
    for part in text.split(",") if text.strip() else ():
        first, dash, last = part.strip().partition("-")
        if not all(one.isdecimal() and len(one) <= 9 for one in (first, last if dash else first)):
            raise InvalidSpec(f"{where} is {text!r}: expected a list such as 0-3,7")
        low, high = int(first), int(last if dash else first)
        if low > high or high >= bound:
            raise InvalidSpec(f"{where} is {text!r}: expected rising numbers below {bound}")
        found.update(range(low, high + 1))
    return tuple(sorted(found))


def _check_object(value: Any, where: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidSpec(f"{where} is {value!r}: expected an object")


def _names(entry: Mapping[str, Any], key: str, where: str) -> list[Any]:
    value = entry.get(key) or []
    if not isinstance(value, list):
        raise InvalidSpec(f"{where}.{key} is {value!r}: expected a list of names")
    return value


def _one_of(known: Mapping[str, int], name: Any, where: str) -> int:
    if not isinstance(name, str) or name not in known:
        raise InvalidSpec(f"{where} is {name!r}: expected one of {', '.join(known)}")
    return known[name]


def _integer(entry: Mapping[str, Any], key: str, where: str, low: int, high: int) -> int:
    value = entry.get(key)
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise InvalidSpec(f"{where}.{key} is {value!r}: expected a number from {low} to {high}")
    return value
