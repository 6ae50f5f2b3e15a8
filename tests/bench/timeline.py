# SPDX-License-Identifier: Apache-2.0
"""What happens to a machine while something is measured: samples of its memory, its load and CPU time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes

_PERIOD = 0.05


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


class CpuAccount:
    """The CPU time of all processes in some control groups, those that have ended and those of groups below
    included.
    """

    def __init__(self, *names: str) -> None:
        accounts = Path("/sys/fs/cgroup/cpuacct")
        self._version1 = accounts.is_dir()
        self._groups = [(accounts if self._version1 else Path("/sys/fs/cgroup")) / name for name in names]
        for group in self._groups:
            group.mkdir(parents=True, exist_ok=True)

    @property
    def first(self) -> Path:
        """The directory of the first group."""
        return self._groups[0]

    def seconds(self) -> float:
        """What they have used so far."""
        return sum(self._used(group) for group in self._groups)

    def _used(self, group: Path) -> float:
        if self._version1:
            return int((group / "cpuacct.usage").read_text()) / 1e9
        lines = (group / "cpu.stat").read_text().splitlines()
        return int(dict(line.split() for line in lines)["usage_usec"]) / 1e6


@contextmanager
def recorded(cpu: Callable[[], float]) -> Iterator[Timeline]:
    """Sample until the block ends. `cpu` gives the CPU seconds used so far."""
    timeline = Timeline()
    began, used, free = time.monotonic(), cpu(), processes.available_memory()
    over = threading.Event()

    def look() -> None:
        timeline.samples.append(
            Sample(
                time.monotonic() - began,
                free - processes.available_memory(),
                processes.load(),
                cpu() - used,
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
