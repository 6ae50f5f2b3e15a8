# SPDX-License-Identifier: Apache-2.0
"""The limits that containers and cgroups have in common."""

from __future__ import annotations

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.options import MIB, Integer, Number, Size, Text, quoted, show_size
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
