# SPDX-License-Identifier: Apache-2.0
"""What processes and the machine use, read from /proc: memory in bytes, CPU time in seconds."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path


def proportional_memory(pids: Iterable[int]) -> int:
    """What the processes occupy together in bytes, pages shared with others counted by their share (PSS)."""
    total = 0
    for pid in pids:
        try:
            content = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        total += sum(int(line.split()[1]) for line in content.splitlines() if line.startswith("Pss:")) << 10
    return total


def resident_memory(pids: Iterable[int]) -> int:
    """What the processes have in memory together in bytes, pages shared with others counted whole (RSS)."""
    lines = [line for pid in pids for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) << 10


def zygote_of(keeper: int) -> int:
    """The child of a keeper that forks its launchers."""
    children = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    return next(int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text() == "mooring-zygote\n")


def cpu_time(pids: Iterable[int]) -> float:
    """The CPU time that the (single-threaded) processes have had, without their children's."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


def open_files(pid: int) -> int:
    """How many descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def naming(text: str) -> list[int]:
    """The processes whose command line has `text` in it: an engine and its helpers, never its containers."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                command = Path(f"/proc/{entry}/cmdline").read_bytes()
            except OSError:
                continue
            if os.fsencode(text) in command:
                found.append(int(entry))
    return found


def available_memory() -> int:
    """What is left of the machine's memory, in bytes, as the kernel estimates it."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    raise LookupError("/proc/meminfo has no MemAvailable")


def machine_cpu_time() -> float:
    """The seconds that all processors together have spent on anything but idling, for whomever."""
    user, nice, system, _idle, _wait, irq, soft = (
        Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return sum(map(int, (user, nice, system, irq, soft))) / os.sysconf("SC_CLK_TCK")


def network_namespaces() -> int | None:
    """How many network namespaces the kernel holds, None where it does not tell."""
    try:
        content = Path("/proc/slabinfo").read_text()
    except OSError:
        return None
    for line in content.splitlines():
        if line.startswith("net_namespace "):
            return int(line.split()[1])
    return None


def load() -> float:
    """The load average of the last minute."""
    return os.getloadavg()[0]


def idle_share(pids: Iterable[int], seconds: float) -> float:
    """The share of one processor that processes use over some seconds in which nobody asks for anything."""
    pids = list(pids)
    before, began = cpu_time(pids), time.monotonic()
    time.sleep(seconds)
    return (cpu_time(pids) - before) / (time.monotonic() - began)
