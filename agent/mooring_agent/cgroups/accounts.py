# SPDX-License-Identifier: Apache-2.0
"""What a group has used, from the files that each version keeps it in. Each number costs one small read."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from . import interface
from .resources import CpuStat, Usage


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


def _number(path: str | None) -> int | None:
    text = None if path is None else interface.read_if_there(path)
    return None if text is None else int(text)


def _keyed(path: str | None) -> dict[str, int]:
    text = None if path is None else interface.read_if_there(path)
    return {} if text is None else interface.flat_keyed(text)
