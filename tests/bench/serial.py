# SPDX-License-Identifier: Apache-2.0
"""Serial starts: so many containers, each begun when the one before runs, and then all removed, as lectures
about containers measure them. For Mooring, Docker, LXC and podman: wall time, CPU time of all processes
involved (the daemons' too), memory and load over time, as a table and a plot.

No container has a network but loopback. Mooring and Docker are asked through the same API client, LXC and
podman by their command lines, since they have no daemon.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import peers
from bench.engine_api import EngineApi
from bench.report import say, timed
from bench.svg import Line, Panel, plot
from bench.timeline import Account, Sample, Timeline, recorded, thinned
from harness.rootfs import write_busybox_rootfs

_SLEEP = ["sleep", "600"]
_OURS = f"{peers.GROUP}-serial"
_PLOT = Path("docs/benchmarks/serial.svg")
# What an engine does after its last answer belongs to it too.
_AFTERWARDS = 2.0


@dataclass(frozen=True)
class Contender:
    """How one engine starts and removes container number N."""

    start: Callable[[int], object]
    remove: Callable[[int], object]


@dataclass(frozen=True)
class Outcome:
    """What was measured of one: seconds each, seconds in all, and what happened meanwhile."""

    name: str
    starts: list[float]
    removals: list[float]
    timeline: Timeline


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(prog="script/bench serial", description=__doc__)
    parser.add_argument("--count", type=int, default=15, help="containers (15)")
    parser.add_argument(
        "--only", action="append", choices=tuple(_ENGINES), help="one engine; may be repeated"
    )
    parser.add_argument("--plot", type=Path, default=_PLOT, help=f"where the plot goes ({_PLOT})")
    options = parser.parse_args()
    outcomes = []
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        with tarfile.open(archive) as content:
            content.extractall(base / "rootfs", filter="fully_trusted")
        for name in options.only or _ENGINES:
            say(f"{options.count} serial starts and removals: {name}")
            try:
                outcomes.append(_measure(name, base, archive, options.count))
            except peers.PeerMissing as missing:
                say(f"{name} is not measured: {missing}")
    for line in table(outcomes):
        print(line)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    options.plot.write_text(drawn(outcomes))
    say(f"the plot is in {options.plot}")


def table(outcomes: list[Outcome]) -> list[str]:
    """The lines of the table; ratios are those to the first outcome."""
    titles = ("start, all", 12), ("each", 11), ("remove, all", 13), ("each", 11), ("wall", 8), ("CPU", 9)
    rest = ("ratio", 8), ("memory", 10), ("load", 7)
    lines = [f"{'':<10}" + "".join(f"{title:>{width}}" for title, width in (*titles, *rest))]
    for outcome in outcomes:
        first = outcomes[0]
        wall, cpu = _wall(outcome) / _wall(first), outcome.timeline.cpu / max(first.timeline.cpu, 1e-6)
        lines.append(
            f"{outcome.name:<10}{sum(outcome.starts):>10.2f} s{_median(outcome.starts):>8.1f} ms"
            f"{sum(outcome.removals):>11.2f} s{_median(outcome.removals):>8.1f} ms{wall:>7.1f}x"
            f"{outcome.timeline.cpu:>7.2f} s{cpu:>7.1f}x{outcome.timeline.most_memory / 2**20:>6.0f} MiB"
            f"{outcome.timeline.most_load:>7.2f}"
        )
    return lines


def drawn(outcomes: list[Outcome]) -> str:
    """The plot: containers, CPU time, memory and load over time."""
    count = max((len(outcome.starts) for outcome in outcomes), default=0)

    def panel(title: str, value: Callable[[Sample], float]) -> Panel:
        lines = [
            Line(
                outcome.name,
                thinned([(sample.seconds, value(sample)) for sample in outcome.timeline.samples]),
                number,
            )
            for number, outcome in enumerate(outcomes)
        ]
        return Panel(title, lines)

    return plot(
        f"{count} serial starts and removals",
        [
            panel("containers that run", lambda sample: sample.containers),
            panel("CPU time so far, seconds", lambda sample: sample.cpu),
            panel("memory above that at the beginning, MiB", lambda sample: sample.memory / 2**20),
            panel("load of the last minute", lambda sample: sample.load),
        ],
        axis="seconds",
    )


def _wall(outcome: Outcome) -> float:
    return sum(outcome.starts) + sum(outcome.removals)


def _median(samples: list[float]) -> float:
    return statistics.median(samples) * 1e3


def _measure(name: str, base: Path, archive: Path, count: int) -> Outcome:
    """Have an engine started in a control group of ours, which what it runs besides containers stays in."""
    with contextlib.ExitStack() as stack:
        stack.callback(peers.remove_groups, _OURS)
        stack.enter_context(Account(_OURS).joined())
        contender, containers = stack.enter_context(_ENGINES[name](base, archive, count))
        contender.start(0)  # the first one makes what later ones find
        contender.remove(0)
        time.sleep(_AFTERWARDS)
        with recorded(Account(_OURS, *containers)) as timeline:
            starts, removals = [], []
            for number in range(count):
                starts.append(timed(partial(contender.start, number)))
                timeline.containers += 1
            for number in range(count):
                removals.append(timed(partial(contender.remove, number)))
                timeline.containers -= 1
            time.sleep(_AFTERWARDS)
    return Outcome(name, starts, removals, timeline)


@contextlib.contextmanager
def _mooring(base: Path, archive: Path, count: int) -> Iterator[tuple[Contender, tuple[str, ...]]]:
    with peers.mooring() as agent, _through_api(agent.socket, archive) as contender:
        yield contender, (agent.config.cgroup_parent,)


@contextlib.contextmanager
def _docker(base: Path, archive: Path, count: int) -> Iterator[tuple[Contender, tuple[str, ...]]]:
    with peers.dockerd(base / "docker") as docker, _through_api(docker.socket, archive) as contender:
        yield contender, (docker.group,)


@contextlib.contextmanager
def _through_api(socket: Path, archive: Path) -> Iterator[Contender]:
    api = EngineApi(socket)
    api.import_image(archive, "bench")
    yield Contender(
        lambda number: api.start(api.create(f"serial{number}", "bench", _SLEEP, "none")),
        lambda number: api.remove(f"serial{number}"),
    )
    api.close()


@contextlib.contextmanager
def _lxc(base: Path, archive: Path, count: int) -> Iterator[tuple[Contender, tuple[str, ...]]]:
    with peers.lxc(base, base / "rootfs", count) as containers:
        yield (
            Contender(lambda number: containers[number].start(), lambda number: containers[number].stop()),
            (peers.GROUP,),
        )


@contextlib.contextmanager
def _podman(base: Path, archive: Path, count: int) -> Iterator[tuple[Contender, tuple[str, ...]]]:
    with peers.podman(base / "podman", archive) as engine:
        # What podman would set may be more than this host allows.
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024")
        arguments = ("run", "--detach", "--pull", "never", "--network", "none", *limits)
        group = ("--cgroup-parent", f"/{peers.GROUP}/podman")
        yield (
            Contender(
                lambda number: engine.call(*arguments, *group, "--name", f"serial{number}", "bench", *_SLEEP),
                lambda number: engine.call("rm", "--force", "--time", "0", f"serial{number}"),
            ),
            (peers.GROUP, peers.PODMAN_GROUP),
        )


_ENGINES = {"mooring": _mooring, "docker": _docker, "lxc": _lxc, "podman": _podman}


if __name__ == "__main__":
    main()
