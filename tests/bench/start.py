# SPDX-License-Identifier: Apache-2.0
"""How fast containers start and execs run, one after the other and many at once, and what an idle one costs.

Mooring's containers are on a bridge network, with an address and a veth each; dockerd's, runc's and lxc's
have no network but loopback, which is in their favour.
"""

from __future__ import annotations

import argparse
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bench import peers
from bench.engine_api import EngineApi
from bench.report import Row, milliseconds, print_table
from harness.rootfs import write_busybox_rootfs

_SLEEP = ["sleep", "600"]


@dataclass(frozen=True)
class Figures:
    """What was measured of an engine: seconds each, containers a second, bytes."""

    create: list[float]
    start: list[float]
    create_and_start: list[float]
    execute: list[float]
    remove: list[float]
    rate: float
    memory_each: float
    memory_idle: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench start", description=__doc__)
    parser.add_argument("--count", type=int, default=20, help="containers one after the other (20)")
    parser.add_argument("--many", type=int, default=60, help="containers by several clients (60)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once (8)")
    parser.add_argument("--without-docker", action="store_true", help="measure Mooring alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        rootfs = base / "rootfs"
        with tarfile.open(archive) as content:
            content.extractall(rootfs, filter="fully_trusted")
        ours = _measure_mooring(archive, options)
        rows = []
        if not options.without_docker:
            try:
                rows += _against_docker(ours, _measure_docker(base / "docker", archive, options))
            except peers.PeerMissing as missing:
                print(f"dockerd is not measured: {missing}")
        rows += _against_launchers(ours, base, rootfs, options.count)
    print_table("start: medians; ratio = how many times better", rows)
    print(
        f"\nmooring alone: create {milliseconds(ours.create):.2f} ms, start "
        f"{milliseconds(ours.start):.2f} ms, "
        f"exec {milliseconds(ours.execute):.2f} ms, remove {milliseconds(ours.remove):.2f} ms, "
        f"agent, keeper and guardian {ours.memory_idle / 2**20:.1f} MiB resident"
    )


def _measure_mooring(archive: Path, options: argparse.Namespace) -> Figures:
    with peers.mooring() as agent:
        print("measuring mooring", flush=True)

        def memory() -> int:
            # Launchers come and go, and what they share with the keeper would be counted as its growth: so
            # the whole of agent, keeper and guardian, which is the larger figure.
            host = agent.api("GET", "/mooring/v1/host")
            return peers.resident_memory(
                [host["agent"]["pid"], host["keeper"]["pid"], host["keeper"]["guardian_pid"]]
            )

        return _measure(agent.socket, archive, "bridge", options, memory)


def _measure_docker(base: Path, archive: Path, options: argparse.Namespace) -> Figures:
    with peers.dockerd(base) as (socket, _):
        print("measuring dockerd", flush=True)

        def memory() -> int:
            return peers.proportional_memory(peers.descendants_naming(base))

        return _measure(socket, archive, "none", options, memory)


def _measure(
    socket: Path, archive: Path, network: str, options: argparse.Namespace, memory: Callable[[], int]
) -> Figures:
    api = EngineApi(socket)
    api.import_image(archive, "bench")
    for number in range(2):  # the first ones make what later ones find
        identifier = api.create(f"warm{number}", "bench", _SLEEP, network)
        api.start(identifier)
        api.execute(identifier, ["true"])
        api.remove(identifier)
    time.sleep(1)
    create, start, execute, remove = [], [], [], []
    for number in range(options.count):
        moments = [time.perf_counter()]
        identifier = api.create(f"one{number}", "bench", _SLEEP, network)
        moments.append(time.perf_counter())
        api.start(identifier)
        moments.append(time.perf_counter())
        api.execute(identifier, ["true"])
        moments.append(time.perf_counter())
        api.remove(identifier)
        moments.append(time.perf_counter())
        for samples, begin, end in zip((create, start, execute, remove), moments, moments[1:], strict=False):
            samples.append(end - begin)
        time.sleep(0.05)  # serial starts of a user, not a flood
    idle = memory()
    rate = _rate(socket, network, options)
    time.sleep(1)
    loaded = memory()
    for container in api.call("GET", "/containers/json?all=true"):
        api.remove(container["Id"])
    api.close()
    both = [first + second for first, second in zip(create, start, strict=True)]
    return Figures(create, start, both, execute, remove, rate, (loaded - idle) / options.many, idle)


def _rate(socket: Path, network: str, options: argparse.Namespace) -> float:
    """Containers created and started a second by several clients at once."""

    def client(numbers: range) -> None:
        api = EngineApi(socket)
        for number in numbers:
            api.start(api.create(f"many{number}", "bench", _SLEEP, network))
        api.close()

    began = time.perf_counter()
    with ThreadPoolExecutor(options.clients) as pool:
        shares = [range(first, options.many, options.clients) for first in range(options.clients)]
        list(pool.map(client, shares))
    return float(options.many) / (time.perf_counter() - began)


def _against_docker(ours: Figures, theirs: Figures) -> list[Row]:
    def latency(name: str, field: str, target: float | None = None) -> Row:
        mine, other = (milliseconds(getattr(figures, field)) for figures in (ours, theirs))
        return Row(name, mine, "dockerd", other, "ms", target=target)

    return [
        latency("create", "create"),
        latency("start", "start"),
        latency("create + start", "create_and_start", 15),
        latency("exec of true", "execute", 4),
        latency("remove a running one", "remove"),
        Row("rate, many clients", ours.rate, "dockerd", theirs.rate, "1/s", more=True, target=8),
        Row(
            "memory per idle container",
            max(ours.memory_each, 1) / 2**10,
            "dockerd",
            theirs.memory_each / 2**10,
            "KiB",
            target=4,
        ),
    ]


def _against_launchers(ours: Figures, base: Path, rootfs: Path, count: int) -> list[Row]:
    rows = []
    for name, measure in (("runc run", _runc), ("lxc-start", _lxc)):
        try:
            theirs = measure(base, rootfs, count)
        except (peers.PeerMissing, subprocess.CalledProcessError) as missing:
            print(f"{name} is not measured: {missing}")
            continue
        rows.append(Row("bare start", milliseconds(ours.start), name, milliseconds(theirs), "ms"))
    return rows


def _runc(base: Path, rootfs: Path, count: int) -> list[float]:
    bundle = peers.runc_bundle(base, rootfs)
    samples = []
    for number in range(count):
        began = time.perf_counter()
        subprocess.run(
            ["runc", "--root", str(base / "runc-root"), "run", "--bundle", str(bundle), f"mrgb-{number}"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        samples.append(time.perf_counter() - began)
    return samples


def _lxc(base: Path, rootfs: Path, count: int) -> list[float]:
    place = peers.lxc_container(base, rootfs)
    samples = []
    for _ in range(count):
        began = time.perf_counter()
        subprocess.run(
            ["lxc-start", "-P", str(place), "-n", "bench"],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        samples.append(time.perf_counter() - began)
        subprocess.run(["lxc-stop", "-P", str(place), "-n", "bench", "-k"], check=True, timeout=60)
    for left in Path("/sys/fs/cgroup").glob("*/lxc.pivot"):  # LXC makes it, and never removes it
        with suppress(OSError):
            left.rmdir()
    return samples


if __name__ == "__main__":
    main()
