# SPDX-License-Identifier: Apache-2.0
"""What a group has used, from the files that each version keeps it in. Each number costs one small read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from . import interface
from .resources import CpuStat, IoCount, Usage

# Of version 1, with the groups inside where there is such a file. A kernel counts for a policy that is at
# work on a disk: BFQ where it is the scheduler, the throttle, in newer kernels, from the first limit on.
_IO_FILES = (
    ("blkio.bfq.io_service_bytes_recursive", "blkio.bfq.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive"),
    ("blkio.throttle.io_service_bytes", "blkio.throttle.io_serviced"),
)
_OPERATIONS = {"Read": "r", "Write": "w", "Discard": "d"}


class Accounts:
    """The accounting files of one group, whose paths are put together once. Methods raise OSError.

    directories  controller → directory of the group
    versions     directory → version of its hierarchy
    """

    def __init__(self, directories: Mapping[str, str], versions: Mapping[str, int]) -> None:
        def path(controller: str, v1: str, v2: str) -> str | None:
            directory = directories.get(controller)
            return None if directory is None else f"{directory}/{v1 if versions[directory] == 1 else v2}"

        self._version = {controller: versions[directory] for controller, directory in directories.items()}
        self._directories = tuple(versions)
        self._memory = path("memory", "memory.usage_in_bytes", "memory.current")
        self._memory_peak = path("memory", "memory.max_usage_in_bytes", "memory.peak")
        self._memory_swap = path("memory", "memory.memsw.usage_in_bytes", "memory.swap.current")
        self._memory_stat = path("memory", "memory.stat", "memory.stat")
        self._memory_events = path("memory", "memory.oom_control", "memory.events")
        self._cpu_usage = path("cpuacct", "cpuacct.usage", "cpu.stat")
        self._cpu_times = path("cpuacct", "cpuacct.stat", "cpu.stat")
        self._throttling = path("cpu", "cpu.stat", "cpu.stat")
        self._io_directory = directories.get("blkio") or directories.get("io")
        self._io_version = versions[self._io_directory] if self._io_directory is not None else 0
        self._pids = path("pids", "pids.current", "pids.current")

    def usage(self) -> Usage:
        """What is used now."""
        memory, swap = _number(self._memory), _number(self._memory_swap)
        if memory is None:
            self._must_exist()
        elif swap is not None and self._version["memory"] == 1:
            # Version 1 counts memory and swap together; the two reads are not of one moment.
            swap = max(0, swap - memory)
        return Usage(memory, _number(self._memory_peak), swap, self._cpu_ns(), _number(self._pids))

    def cpu_stat(self) -> CpuStat:
        """User and system time, and throttling."""
        times, throttling = _keyed(self._cpu_times), _keyed(self._throttling)
        if self._version.get("cpuacct") == 1:
            # In ticks of USER_HZ (Documentation/admin-guide/cgroup-v1/cpuacct.rst).
            tick_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
            user, system = times.get("user", 0) * tick_ns, times.get("system", 0) * tick_ns
        else:
            user, system = times.get("user_usec", 0) * 1000, times.get("system_usec", 0) * 1000
        return CpuStat(
            user_ns=user,
            system_ns=system,
            periods=throttling.get("nr_periods", 0),
            throttled_periods=throttling.get("nr_throttled", 0),
            throttled_ns=throttling.get("throttled_time", throttling.get("throttled_usec", 0) * 1000),
        )

    def memory_stat(self) -> dict[str, int]:
        """All of memory.stat."""
        return _keyed(self._memory_stat)

    def oom_kills(self) -> int:
        """The counter `oom_kill` (v1 since Linux 4.13)."""
        return _keyed(self._memory_events).get("oom_kill", 0)

    def io_stat(self) -> tuple[IoCount, ...]:
        """What was read from disks and written to them; nothing where the kernel does not tell."""
        if self._io_version == 2:
            return parse_io_stat(interface.read_if_there(f"{self._io_directory}/io.stat") or "")
        for moved, done in _IO_FILES if self._io_version == 1 else ():
            found = parse_throttled(
                interface.read_if_there(f"{self._io_directory}/{moved}") or "",
                interface.read_if_there(f"{self._io_directory}/{done}") or "",
            )
            if found:
                return found
        return ()

    def _cpu_ns(self) -> int | None:
        if self._version.get("cpuacct") == 1:
            return _number(self._cpu_usage)
        microseconds = _keyed(self._cpu_usage).get("usage_usec")
        return None if microseconds is None else microseconds * 1000

    def _must_exist(self) -> None:
        """A kernel without the memory controller is no error, a group that is gone is."""
        for directory in self._directories:
            if not os.path.isdir(directory):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)


def parse_io_stat(text: str) -> tuple[IoCount, ...]:
    """io.stat of version 2: "MAJOR:MINOR rbytes=N wbytes=N rios=N wios=N dbytes=N dios=N"."""
    counts = []
    for line in text.splitlines():
        device, *words = line.split()
        values = {
            key: int(value) for key, _, value in (word.partition("=") for word in words) if value.isdigit()
        }
        for operation, letter in _OPERATIONS.items():
            if f"{letter}bytes" in values:
                counts.append(
                    IoCount(device, operation, values[f"{letter}bytes"], values.get(f"{letter}ios", 0))
                )
    return tuple(counts)


def parse_throttled(moved: str, done: str) -> tuple[IoCount, ...]:
    """blkio.….io_service_bytes and …io_serviced of version 1: "MAJOR:MINOR OPERATION N"."""
    times = _operations(done)
    return tuple(
        IoCount(device, operation, count, times.get((device, operation), 0))
        for (device, operation), count in _operations(moved).items()
    )


def _operations(text: str) -> dict[tuple[str, str], int]:
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            found[words[0], words[1]] = int(words[2])
    return found


def _number(path: str | None) -> int | None:
    text = None if path is None else interface.read_if_there(path)
    return None if text is None else int(text)


def _keyed(path: str | None) -> dict[str, int]:
    text = None if path is None else interface.read_if_there(path)
    return {} if text is None else interface.flat_keyed(text)
