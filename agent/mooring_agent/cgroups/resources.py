# SPDX-License-Identifier: Apache-2.0
"""What a group may use and what it used, in the one set of units that both versions of cgroups are translated
to.

Bytes for memory, CPUs (a float) for the quota, Docker's shares (2 to 262144, default 1024) for the CPU's
weight, nanoseconds for CPU time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ..errors import InvalidSpec
from .cpulist import parse_cpulist

UNLIMITED = -1

CPU_PERIOD_US = 100_000
"""Length of the period in which a quota holds; the kernel's own default
(Documentation/scheduler/sched-bwc.rst)."""

MINIMUM_QUOTA_US = 1_000
"""The smallest quota that the kernel takes: `min_cfs_quota_period` of kernel/sched/core.c."""

MINIMUM_MEMORY = 4_096
"""The kernel counts in pages: less would be a limit of nothing."""

SHARES_MINIMUM, SHARES_DEFAULT, SHARES_MAXIMUM = 2, 1024, 262_144
"""MIN_SHARES and MAX_SHARES of kernel/sched/sched.h."""


RT_PERIOD_US = 1_000_000
"""The period of real-time tasks unless another one is given, Documentation/scheduler/sched-rt-group.rst."""

WEIGHT_MINIMUM, WEIGHT_DEFAULT, WEIGHT_MAXIMUM = 10, 100, 1000
"""Weights for disks as Docker counts them; BFQ's range begins at 1 (BFQ_MIN_WEIGHT, block/bfq-iosched.h)."""


@dataclass(frozen=True)
class DeviceLimit:
    """What holds for one disk, "MAJOR:MINOR": a weight, or bytes or operations a second."""

    device: str
    value: int


@dataclass(frozen=True)
class Resources:
    """Limits of one group. `None` is "not stated": the kernel's default, which is no limit.

    memory              hard limit in bytes; -1: none
    memory_reservation  soft limit in bytes (v1 memory.soft_limit_in_bytes, v2 memory.low); -1: none
    memory_swap         memory *and* swap together in bytes, as Docker counts; needs `memory`; -1: no limit
    cpus                CPU time per time, 1.5 is one and a half CPUs; at least 0.01
    cpu_shares          weight against the sibling groups, 2 to 262144
    cpuset_cpus         CPUs that may be used, as "0-3,8"
    cpuset_mems         memory nodes that may be used, likewise
    pids_limit          largest number of tasks; -1: none
    memory_swappiness   0 to 100: how readily the kernel swaps out instead of dropping cache (v1 only)
    oom_kill_disable    processes wait for memory instead of being killed for want of it (v1 only)
    cpu_rt_period       microseconds in which real-time tasks may run for `cpu_rt_runtime` of them (v1 only)
    blkio_weight        weight against the sibling groups for disks, 10 to 1000
    blkio_weight_device the same for single disks
    device_…            most bytes or operations a second that are read from or written to single disks
    """

    memory: int | None = None
    memory_reservation: int | None = None
    memory_swap: int | None = None
    cpus: float | None = None
    cpu_shares: int | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    pids_limit: int | None = None
    memory_swappiness: int | None = None
    oom_kill_disable: bool = False
    cpu_rt_period: int | None = None
    cpu_rt_runtime: int | None = None
    blkio_weight: int | None = None
    blkio_weight_device: tuple[DeviceLimit, ...] = ()
    device_read_bps: tuple[DeviceLimit, ...] = ()
    device_write_bps: tuple[DeviceLimit, ...] = ()
    device_read_iops: tuple[DeviceLimit, ...] = ()
    device_write_iops: tuple[DeviceLimit, ...] = ()

    def check(self) -> None:
        """Raise InvalidSpec naming the first value that no kernel would take."""
        for name in ("memory", "memory_reservation", "memory_swap", "pids_limit"):
            value = getattr(self, name)
            if value is not None and value != UNLIMITED and value <= 0:
                unit = "a number of tasks" if name == "pids_limit" else "a number of bytes"
                raise InvalidSpec(f"{name} is {value}, expected {unit} above 0, or -1 for no limit")
        if self.memory is not None and 0 < self.memory < MINIMUM_MEMORY:
            raise InvalidSpec(f"memory is {self.memory}, expected at least {MINIMUM_MEMORY} bytes, one page")
        if self.cpus is not None and not (math.isfinite(self.cpus) and 0.01 <= self.cpus <= 1_000_000):
            raise InvalidSpec(
                f"cpus is {self.cpus}, expected a number of CPUs of at least 0.01, such as 0.5 or 2"
            )
        if self.cpu_shares is not None and not SHARES_MINIMUM <= self.cpu_shares <= SHARES_MAXIMUM:
            raise InvalidSpec(
                f"cpu_shares is {self.cpu_shares}, expected {SHARES_MINIMUM} to {SHARES_MAXIMUM} (the "
                f"default is {SHARES_DEFAULT})"
            )
        for name in ("cpuset_cpus", "cpuset_mems"):
            value = getattr(self, name)
            if value is not None and not parse_cpulist(value, name):
                raise InvalidSpec(
                    f'{name} is empty, expected a list such as "0-3,8"; leave it out for no limit'
                )
        self._check_memory()
        self._check_real_time()
        self._check_block_io()

    def _check_real_time(self) -> None:
        if self.cpu_rt_runtime is not None and self.cpu_rt_runtime > (self.cpu_rt_period or RT_PERIOD_US):
            raise InvalidSpec(
                f"cpu_rt_runtime is {self.cpu_rt_runtime} µs, expected at most cpu_rt_period, "
                f"{self.cpu_rt_period or RT_PERIOD_US} µs"
            )

    def _check_block_io(self) -> None:
        weights = [] if self.blkio_weight is None else [("blkio_weight", self.blkio_weight)]
        weights += [("blkio_weight_device", limit.value) for limit in self.blkio_weight_device]
        for name, weight in weights:
            if not WEIGHT_MINIMUM <= weight <= WEIGHT_MAXIMUM:
                raise InvalidSpec(f"{name} is {weight}, expected {WEIGHT_MINIMUM} to {WEIGHT_MAXIMUM}")

    def _check_memory(self) -> None:
        if self.memory_swappiness is not None and not 0 <= self.memory_swappiness <= 100:
            raise InvalidSpec(f"memory_swappiness is {self.memory_swappiness}, expected 0 to 100")
        memory = None if self.memory == UNLIMITED else self.memory
        if self.oom_kill_disable and memory is None:
            raise InvalidSpec(
                "oom_kill_disable is set but memory has no limit, so that the host itself would run out of "
                "memory; give memory, or leave it out"
            )
        swap = None if self.memory_swap == UNLIMITED else self.memory_swap
        reservation = None if self.memory_reservation == UNLIMITED else self.memory_reservation
        if swap is not None and memory is None:
            raise InvalidSpec(
                f"memory_swap is {describe_bytes(swap)} but memory has no limit, expected a memory limit "
                "beside it because memory_swap counts memory and swap together"
            )
        if swap is not None and memory is not None and swap < memory:
            raise InvalidSpec(
                f"memory_swap {describe_bytes(swap)} is below memory {describe_bytes(memory)}, expected at "
                "least as much because it counts memory and swap together"
            )
        if reservation is not None and memory is not None and reservation > memory:
            raise InvalidSpec(
                f"memory_reservation {describe_bytes(reservation)} is above memory "
                f"{describe_bytes(memory)}, expected at most the hard limit"
            )


@dataclass(frozen=True)
class Setting:
    """One value to be written to one interface file of a group.

    `undo` is what takes it back where that is not what the whole file holds now.
    """

    controller: str
    file: str
    value: str
    undo: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Usage:
    """What a group has used. A field is None when this kernel does not tell it.

    memory_bytes      memory charged now, page cache included (bytes)
    memory_max_usage  the most ever charged (bytes); v2 tells it since Linux 5.19
    memory_swap       swap charged now (bytes)
    cpu_ns            CPU time since the group was made (nanoseconds)
    pids              tasks now
    """

    memory_bytes: int | None = None
    memory_max_usage: int | None = None
    memory_swap: int | None = None
    cpu_ns: int | None = None
    pids: int | None = None


@dataclass(frozen=True)
class CpuStat:
    """Where the CPU time went (nanoseconds), and how often the quota held the group back."""

    user_ns: int = 0
    system_ns: int = 0
    periods: int = 0
    throttled_periods: int = 0
    throttled_ns: int = 0


@dataclass(frozen=True)
class IoCount:
    """What was done on one disk, "MAJOR:MINOR": the `operation` in the kernel's word (Read, Write, Discard;
    in version 1 also Sync, Async and Total), how many bytes it moved and how often it was done.
    """

    device: str
    operation: str
    bytes: int
    count: int


def describe_bytes(count: int) -> str:
    """`67108864` as "64 MiB (67108864 bytes)": for messages, exact and readable."""
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= factor:
            return f"{count / factor:.4g} {unit} ({count} bytes)"
    return f"{count} bytes"


def quota_us(cpus: float) -> int:
    """Microseconds of CPU time in each period of CPU_PERIOD_US that `cpus` stands for, never below the
    kernel's minimum."""
    return max(MINIMUM_QUOTA_US, round(cpus * CPU_PERIOD_US))
