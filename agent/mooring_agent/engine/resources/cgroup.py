# SPDX-License-Identifier: Apache-2.0
"""A cgroup of its own as it is declared: limits that all containers in it share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources import limits
from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.options import Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class CgroupSpec(Declared):
    """What a cgroup should be; the options mean what they mean in a ContainerSpec; all change live."""

    KIND: ClassVar[str] = "cgroup"

    memory: int | None = option(limits.MEMORY, live=True)
    memory_reservation: int | None = option(limits.MEMORY, live=True)
    memory_swap: int | None = option(limits.MEMORY_SWAP, live=True)
    cpus: float | None = option(limits.CPUS, live=True)
    cpu_shares: int | None = option(limits.CPU_SHARES, live=True)
    cpuset_cpus: str | None = option(limits.CPU_LIST, live=True)
    cpuset_mems: str | None = option(limits.CPU_LIST, live=True)
    pids_limit: int | None = option(limits.PIDS, live=True)
    memory_swappiness: int | None = option(limits.SWAPPINESS, live=True)
    cpu_rt_period: int | None = option(limits.REAL_TIME, live=True)
    cpu_rt_runtime: int | None = option(limits.REAL_TIME, live=True)
    blkio_weight: int | None = option(limits.WEIGHT, live=True)
    blkio_weight_device: Mapping[str, int] = option(limits.DEVICE_WEIGHTS, default={}, live=True)
    device_read_bps: Mapping[str, int] = option(limits.DEVICE_BYTES, default={}, live=True)
    device_write_bps: Mapping[str, int] = option(limits.DEVICE_BYTES, default={}, live=True)
    device_read_iops: Mapping[str, int] = option(limits.DEVICE_OPERATIONS, default={}, live=True)
    device_write_iops: Mapping[str, int] = option(limits.DEVICE_OPERATIONS, default={}, live=True)
    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)

    def check(self, prefix: str) -> None:
        """Hold the order of the three sizes of memory, and of real time and its period."""
        limits.check_memory(self.memory, self.memory_reservation, self.memory_swap, prefix)
        limits.check_real_time(self.cpu_rt_period, self.cpu_rt_runtime, prefix)
