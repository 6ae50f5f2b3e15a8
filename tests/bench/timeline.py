# SPDX-License-Identifier: Apache-2.0
"""What happens to a machine while something is measured: samples of its memory, its load and CPU time."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes

_PERIOD = 0.05
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Sample:
    """One moment: seconds since the beginning, bytes in use above those of the beginning, the load of the
    last minute, CPU seconds since the beginning, how many containers run.
    """

    seconds: float
    memory: int
    load: float
    cpu: float
    containers: int


@dataclass
class Timeline:
    """The samples of one measurement. `containers` is set by whoever starts and removes them."""

    samples: list[Sample] = field(default_factory=list)
    containers: int = 0

    @property
    def cpu(self) -> float:
        """The CPU seconds in all."""
        return self.samples[-1].cpu

    @property
    def most_memory(self) -> int:
        """The most memory that was in use above that at the beginning, in bytes."""
        return max(sample.memory for sample in self.samples)

    @property
    def most_load(self) -> float:
        """The highest load."""
        return max(sample.load for sample in self.samples)


class Account:
    """The CPU time and the memory of all processes in some control groups: CPU time also of those that have
    ended, memory of the kernel included and the page cache not. Groups below count as well.
    """

    def __init__(self, *names: str) -> None:
        self._version1 = (_ROOT / "cpuacct").is_dir()
        self._cpu = [self._mount("cpuacct") / name for name in names]
        self._memory = [self._mount("memory") / name for name in names]
        for group in (*self._cpu, *self._memory):
            group.mkdir(parents=True, exist_ok=True)

    def cpu(self) -> float:
        """The CPU seconds used so far."""
        if self._version1:
            return sum(int((group / "cpuacct.usage").read_text()) for group in self._cpu) / 1e9
        return sum(_statistics(group / "cpu.stat")["usage_usec"] for group in self._cpu) / 1e6

    def memory(self) -> int:
        """The bytes in use at the moment."""
        file, prefix = ("memory.usage_in_bytes", "total_") if self._version1 else ("memory.current", "")
        total = 0
        for group in self._memory:
            found = _statistics(group / "memory.stat")
            cache = found[f"{prefix}inactive_file"] + found[f"{prefix}active_file"]
            total += int((group / file).read_text()) - cache
        return total

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This process, and what it starts, is in the first of the groups for a while."""
        homes = []
        for group in dict.fromkeys((self._cpu[0], self._memory[0])):
            controller = group.parent.name if self._version1 else ""
            homes.append(group.parent / _own_group(controller).lstrip("/") / "cgroup.procs")
            (group / "cgroup.procs").write_text(str(os.getpid()))
        try:
            yield
        finally:
            for home in homes:
                home.write_text(str(os.getpid()))

    def _mount(self, controller: str) -> Path:
        return _ROOT / controller if self._version1 else _ROOT


def _own_group(controller: str) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise LookupError(f"/proc/self/cgroup does not name {controller}")


def _statistics(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in file.read_text().splitlines())
    return {name: int(value) for name, value in pairs}


@contextmanager
def recorded(account: Account) -> Iterator[Timeline]:
    """Sample until the block ends. What this process itself uses of the CPU is left out."""
    timeline = Timeline()
    began, memory = time.monotonic(), account.memory()
    used = account.cpu() - time.process_time()
    over = threading.Event()

    def look() -> None:
        timeline.samples.append(
            Sample(
                time.monotonic() - began,
                account.memory() - memory,
                processes.load(),
                account.cpu() - time.process_time() - used,
                timeline.containers,
            )
        )

    def watch() -> None:
        while not over.wait(_PERIOD):
            look()

    look()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield timeline
    finally:
        over.set()
        watcher.join()
        look()


def thinned(points: Sequence[tuple[float, float]], most: int = 300) -> list[tuple[float, float]]:
    """At most about so many of the points, evenly, the last one always among them."""
    step = max(1, -(-len(points) // most))
    return [*points[:-1:step], points[-1]] if points else []
