# SPDX-License-Identifier: Apache-2.0
"""How fast containers start: one after the other and many at once, beside dockerd, and bare beside runc, crun
and LXC.

Like stands beside like: containers without a network beside such, those on a bridge, with an address and a
veth each, beside those on dockerd's bridge. Samples alternate. dockerd has a network namespace of its own.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from bench import launchers, peers, processes
from bench.engine_api import EngineApi, EngineFailed
from bench.report import Row, alternate, latency, print_table, say, spread
from harness.rootfs import write_busybox_rootfs

_SLEEP = ["sleep", "600"]
_PAUSE = 0.1
_NETWORKS = {"none": "no network", "bridge": "bridge"}
# The ratios to reach against dockerd.
_CREATE_AND_START = 40
_RATE = 20
# A burst is over in less than a second: one alone says as much of the machine's other work as of the engine.
_BURSTS = 3
# Seconds before each, in which what the one before has left is cleared away.
_REST = 3.0

# The seconds of create, start and remove.
Cycle = tuple[float, float, float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench start", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="containers one after the other (20)")
    parser.add_argument("--many", type=int, default=100, help="containers by several clients (100)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (8)")
    parser.add_argument(
        "--launchers-only", action="store_true", help="only the bare start, beside runc, crun, lxc"
    )
    parser.add_argument("--without-docker", action="store_true", help="leave dockerd out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory, ExitStack() as stack:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        rootfs = base / "rootfs"
        with tarfile.open(archive) as content:
            content.extractall(rootfs, filter="fully_trusted")
        say("starting an agent")
        agent = stack.enter_context(peers.mooring())
        EngineApi(agent.socket).import_image(archive, "bench")
        rows = []
        if not (options.launchers_only or options.without_docker):
            with ExitStack() as inner:
                try:
                    docker = inner.enter_context(peers.dockerd(base / "docker"))
                    rows += _beside_docker(agent.socket, docker, archive, options)
                except peers.PeerMissing as missing:
                    say(f"dockerd is not measured: {missing}")
        rows += launchers.measure(agent.socket, base, rootfs, options.count)
        host = agent.api("GET", "/mooring/v1/host")
        keeper = host["keeper"]["pid"]
        pids = [host["agent"]["pid"], keeper, host["keeper"]["guardian_pid"], processes.zygote_of(keeper)]
        resident, occupied = processes.resident_memory(pids), processes.proportional_memory(pids)
    print_table("start: medians; the ratio says how many times better Mooring is", rows)
    size = f"{resident / 2**20:.1f} MiB resident, {occupied / 2**20:.1f} MiB with shared pages counted once"
    print(f"agent, keeper, zygote and guardian at the end: {size}")


def _beside_docker(
    socket: Path, docker: peers.Docker, archive: Path, options: argparse.Namespace
) -> list[Row]:
    ours, theirs = EngineApi(socket), EngineApi(docker.socket)
    theirs.import_image(archive, "bench")
    rows: list[Row] = []
    for network, words in _NETWORKS.items():
        mine, other = _cycle(ours, network), _cycle(theirs, network)
        try:
            for warm in (mine, other):  # the first ones make what later ones find
                warm()
        except EngineFailed as failure:
            say(f"network {network} is not measured: {failure}")
            continue
        say(f"one after the other, {words}, beside dockerd")
        our_cycles, their_cycles = alternate(options.count, mine, other, pause=_PAUSE)
        rows += _rows(words, our_cycles, their_cycles)
    say("one after the other, each unlike the one before, beside dockerd")
    mine, other = _cycle(ours, "bridge", alike=False), _cycle(theirs, "bridge", alike=False)
    our_cycles, their_cycles = alternate(options.count, mine, other, pause=_PAUSE)
    rows.append(_both("each unlike the last, bridge", our_cycles, their_cycles))
    ours.close()
    theirs.close()
    say(f"{options.many} containers by {options.clients} clients, {_BURSTS} times each")
    bursts = [partial(_rate, path, "bridge", options) for path in (socket, docker.socket)]
    ours_rates, their_rates = alternate(_BURSTS, *bursts, pause=_REST)
    rows.append(
        Row(
            f"{options.many} by {options.clients} clients, bridge",
            statistics.median(ours_rates),
            "dockerd",
            statistics.median(their_rates),
            "1/s",
            more=True,
            target=_RATE,
            our_spread=spread(ours_rates),
            their_spread=spread(their_rates),
        )
    )
    return rows


def _rows(words: str, ours: list[Cycle], theirs: list[Cycle]) -> list[Row]:
    def column(which: Callable[[Cycle], float]) -> tuple[list[float], list[float]]:
        return [which(cycle) for cycle in ours], [which(cycle) for cycle in theirs]

    create, start = column(lambda cycle: cycle[0]), column(lambda cycle: cycle[1])
    remove = column(lambda cycle: cycle[2])
    # The target is a ratio of medians; the single steps are for information.
    return [
        latency(f"create, {words}", create[0], "dockerd", create[1]),
        latency(f"start, {words}", start[0], "dockerd", start[1]),
        _both(words, ours, theirs, _CREATE_AND_START),
        latency(f"remove a running one, {words}", remove[0], "dockerd", remove[1]),
    ]


def _both(words: str, ours: list[Cycle], theirs: list[Cycle], target: float | None = None) -> Row:
    mine, other = ([create + start for create, start, _ in cycles] for cycles in (ours, theirs))
    return latency(f"create + start, {words}", mine, "dockerd", other, target)


def _cycle(api: EngineApi, network: str, *, alike: bool = True) -> Callable[[], Cycle]:
    """What makes, starts and removes a container; each with a command of its own unless all are `alike`."""
    numbers = itertools.count()

    def cycle() -> Cycle:
        number = next(numbers)
        command = _SLEEP if alike else ["sleep", str(1000 + number)]
        name = f"{'alike' if alike else 'unlike'}-{network}{number}"
        moments = [time.perf_counter()]
        identifier = api.create(name, "bench", command, network)
        moments.append(time.perf_counter())
        api.start(identifier)
        moments.append(time.perf_counter())
        api.remove(identifier)
        moments.append(time.perf_counter())
        create, start, remove = (end - begin for begin, end in itertools.pairwise(moments))
        return create, start, remove

    return cycle


def _rate(socket: Path, network: str, options: argparse.Namespace) -> float:
    """Containers created and started a second by several clients at once; they are removed afterwards."""

    def client(numbers: range) -> list[str]:
        api = EngineApi(socket)
        ids = []
        for number in numbers:
            ids.append(api.create(f"many{number}", "bench", _SLEEP, network))
            api.start(ids[-1])
        api.close()
        return ids

    began = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        shares = [range(first, options.many, options.clients) for first in range(options.clients)]
        ids = [identifier for found in pool.map(client, shares) for identifier in found]
    rate = float(options.many) / (time.perf_counter() - began)
    api = EngineApi(socket)
    for identifier in ids:
        api.remove(identifier)
    api.close()
    return rate


if __name__ == "__main__":
    main()
