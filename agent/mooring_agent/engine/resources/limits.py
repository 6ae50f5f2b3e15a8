# SPDX-License-Identifier: Apache-2.0
"""The limits that containers and cgroups have in common."""

from __future__ import annotations

from collections.abc import Mapping

from mooring_agent.cgroups.resources import RT_PERIOD_US
from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.options import (
    MIB,
    Integer,
    Number,
    Size,
    Text,
    Type,
    quoted,
    refusal,
    show_size,
    text_of,
)
from mooring_agent.errors import InvalidSpec

# Docker's least limit (daemon/daemon_unix.go, linuxMinMemory): below it a process rarely survives its start.
LEAST_MEMORY = 6 * MIB

MEMORY = Size(LEAST_MEMORY)
MEMORY_SWAP = Size(LEAST_MEMORY, unlimited=True)
CPUS = Number(0.01, "a number of CPUs")
# MIN_SHARES and MAX_SHARES in the kernel's kernel/sched/sched.h
CPU_SHARES = Integer(2, 262_144, unset=(0,), what="a weight")
CPU_LIST = Text('a list of numbers and ranges such as "0-3,8"', names.cpu_list)
# PID_MAX_LIMIT of 64-bit kernels, include/linux/threads.h
PIDS = Integer(1, 4_194_304, unset=(0, -1), what="a number of processes and threads")
SWAPPINESS = Integer(0, 100, what="a percentage")
# The kernel counts in microseconds; sched_group_set_rt_period() takes up to 2^31 of them.
REAL_TIME = Integer(1, 2**31 - 1, unset=(0,), what="a number of microseconds")
WEIGHT = Integer(10, 1000, unset=(0,), what="a weight")


class DeviceLimits(Type[Mapping[str, int]]):
    """What holds for single disks, by the paths of their nodes on the host: a mapping, or "PATH:LIMIT"s."""

    def __init__(self, limit: Type[int]) -> None:
        self.limit = limit

    def parse(self, value: object, where: str) -> Mapping[str, int] | None:
        """See `Type.parse`."""
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif isinstance(value, list | tuple):
            pairs = [self._split(item, where) for item in value]
        else:
            raise refusal(where, value, 'a mapping of disks to limits, or a list of "/dev/DISK:LIMIT"')
        limits: dict[str, int] = {}
        for path, given in pairs:
            device = names.absolute_path(text_of(path, where, "the path of a disk"), f"a disk in {where}")
            limit = self.limit.parse(given, f"{where}.{device}")
            if device in limits:
                raise InvalidSpec(f"{where} names {device} twice, expected each once; remove one of them")
            if limit is not None:
                limits[device] = limit
        return dict(sorted(limits.items()))

    def _split(self, item: object, where: str) -> tuple[str, object]:
        path, mark, limit = item.rpartition(":") if isinstance(item, str) else ("", "", "")
        if not mark:
            raise refusal(f"an item of {where}", item, '"/dev/DISK:LIMIT"')
        return path, limit

    def dump(self, value: Mapping[str, int]) -> dict[str, int]:
        """See `Type.dump`."""
        return dict(value)

    def show(self, value: Mapping[str, int]) -> str:
        """See `Type.show`."""
        return "[" + ", ".join(f"{path}:{self.limit.show(limit)}" for path, limit in value.items()) + "]"


DEVICE_WEIGHTS = DeviceLimits(WEIGHT)
DEVICE_BYTES = DeviceLimits(Size())
DEVICE_OPERATIONS = DeviceLimits(Integer(1, 2**32 - 1, unset=(0,), what="a number of operations a second"))


def check_real_time(period: int | None, runtime: int | None, prefix: str) -> None:
    """Hold that no time is longer than its period, a second where none is given; raises InvalidSpec."""
    if runtime is not None and runtime > (period or RT_PERIOD_US):
        raise InvalidSpec(
            f"{prefix}cpu_rt_runtime is {runtime} µs, expected at most cpu_rt_period, "
            f"{period or RT_PERIOD_US} µs"
        )


def check_memory(memory: int | None, reservation: int | None, swap: int | None, prefix: str) -> None:
    """Hold the order of the three sizes; raises InvalidSpec, its sentence begun with `prefix`."""
    if memory is not None and reservation is not None and reservation > memory:
        raise InvalidSpec(
            f"{prefix}memory_reservation is {show_size(reservation)}, "
            f"expected at most memory, {show_size(memory)}"
        )
    if swap is None or swap == -1:
        return
    if memory is None:
        raise InvalidSpec(
            f"{prefix}memory_swap is {quoted(show_size(swap))} without memory, expected both: "
            "it is the limit of memory and swap together"
        )
    if swap < memory:
        raise InvalidSpec(
            f"{prefix}memory_swap is {show_size(swap)}, expected at least memory, {show_size(memory)}: "
            "it is the limit of memory and swap together"
        )
