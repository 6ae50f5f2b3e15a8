# SPDX-License-Identifier: Apache-2.0
"""How many containers one machine holds, what each of them costs, and whether everything stays quick among
them: starts, lists, execs, events, a killed agent, a killed keeper, the removal of all.

Every container sleeps in a network namespace of its own (network `none`). The run stops early rather than
exhaust the machine. dockerd's memory a container is measured with a few of its own.
"""

from __future__ import annotations

import argparse
import itertools
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import peers, processes
from bench.engine_api import EngineApi
from bench.report import Bound, Row, print_table, say, timed
from harness import unix_http
from harness.agent import AgentUnderTest
from harness.rootfs import write_busybox_rootfs
from harness.waiting import eventually

_SLEEP = ["sleep", "86400"]
_LISTS = 5
_IDLE_SECONDS = 5.0
_SETTLING = 3.0  # seconds in which the agent puts away what the measurement before has left
_RECOVERY = 120.0
_DOWN = 1800.0
# By how much the last starts may take agent and keeper longer than the first. What the kernel takes longer is
# not theirs: docs/benchmarks.md.
_GROWTH = 1.5
# How many more of a kind there may be afterwards: launchers that wait have a group in each hierarchy, and
# other programs of the machine have network namespaces.
_SLACK = {
    "control groups": 60,
    "network namespaces": 60,
    "descriptors of the agent": 10,
    "descriptors of the keeper": 10,
    "layers": 16,
    "work directories": 16,
}


@dataclass
class _Progress:
    """Containers that run, in the order of their start, and the seconds that each took."""

    ids: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench density", description=__doc__)
    parser.add_argument("--count", type=int, default=6000, help="containers (6000)")
    parser.add_argument(
        "--resident", type=int, default=1000, help="containers with which the memory is read (1000)"
    )
    parser.add_argument("--sample", type=int, default=200, help="containers that are reached by exec (200)")
    parser.add_argument("--clients", type=int, default=2, help="clients that start them (2)")
    parser.add_argument("--reserve", type=int, default=4, help="GiB of memory to leave alone (4)")
    parser.add_argument("--docker-count", type=int, default=40, help="dockerd's containers (40)")
    parser.add_argument("--without-docker", action="store_true", help="measure Mooring alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory:
        archive = write_busybox_rootfs(Path(directory) / "busybox.tar")
        theirs = None if options.without_docker else _docker(Path(directory), archive, options.docker_count)
        with peers.mooring() as agent:
            rows = _Density(agent, options).measure(archive, theirs)
    print_table("density", rows)


class _Density:
    """One run."""

    def __init__(self, agent: AgentUnderTest, options: argparse.Namespace) -> None:
        self._agent = agent
        self._options = options
        self._rows: list[Row | Bound] = []
        self._started = _Progress()
        # A twelfth of the starts, and the CPU time of agent, keeper and guardian at the end of each.
        self._window = max(10, options.count // 12)
        self._cpu: list[float] = []

    def measure(self, archive: Path, theirs: float | None) -> list[Row | Bound]:
        """All of it, in order; the rows of the table."""
        api = EngineApi(self._agent.socket)
        api.import_image(archive, "bench")
        with _container(api, "warm"):
            api.execute("warm", ["true"])
        time.sleep(1)
        before = self._census()
        resident = processes.resident_memory(self._daemons())
        free = processes.available_memory()
        self._cpu.append(processes.cpu_time(self._daemons()))
        first = min(self._options.resident, self._options.count)
        self._start(first)
        self._memory(resident, free, theirs)
        self._start(self._options.count)
        count = len(self._started.ids)
        self._rows.append(Bound("containers, running at once", count, "", self._options.count, more=True))
        self._growth()
        self._bound("one more, beside them: start", timed(lambda: self._one_more(api, count)), "s")
        self._lists()
        self._reach(api)
        self._events(api)
        time.sleep(_SETTLING)
        share = processes.idle_share(self._daemons(), _IDLE_SECONDS)
        self._rows.append(Bound("CPU of agent, keeper and guardian, idle", share * 100, "%", 0.5))
        api.close()
        self._kills()
        self._end(before)
        return self._rows

    # Its steps

    def _start(self, total: int) -> None:
        """Start containers by several clients until there are so many, or no memory for more."""
        say(f"starting containers up to {total}")
        lock = threading.Lock()
        numbers = iter(range(len(self._started.ids), total))
        reserve = self._options.reserve << 30

        def client() -> None:
            api = EngineApi(self._agent.socket)
            while processes.available_memory() > reserve:
                with lock:
                    number = next(numbers, None)
                if number is None:
                    break
                began = time.perf_counter()
                identifier = api.create(f"idle{number}", "bench", _SLEEP, "none")
                api.start(identifier)
                taken = time.perf_counter() - began
                with lock:
                    self._started.ids.append(identifier)
                    self._started.seconds.append(taken)
                    self._tell()
            api.close()

        with ThreadPoolExecutor(self._options.clients) as pool:
            for future in [pool.submit(client) for _ in range(self._options.clients)]:
                future.result()
        if len(self._started.ids) < total:
            say(f"stopped at {len(self._started.ids)}: less than {self._options.reserve} GiB is left")

    def _tell(self) -> None:
        count = len(self._started.ids)
        if count % self._window == 0:
            self._cpu.append(processes.cpu_time(self._daemons()))
        if count % 500 == 0:
            recent = statistics.median(self._started.seconds[-500:]) * 1e3
            free = processes.available_memory() / 2**30
            ours = processes.resident_memory(self._daemons()) / 2**20
            say(
                f"{count} run; create and start {recent:.1f} ms each of late; "
                f"agent and keeper {ours:.0f} MiB; {free:.1f} GiB free"
            )

    def _memory(self, resident: int, free: int, theirs: float | None) -> None:
        time.sleep(1)
        count = len(self._started.ids)
        now = processes.resident_memory(self._daemons())
        each = (now - resident) / count
        both = processes.resident_memory(self._daemons()[:2])
        self._bound(f"agent and keeper with {count}, RSS", both / 2**20, "MiB", 90)
        occupied = processes.proportional_memory(self._daemons())
        self._bound("these, guardian and zygote, shared pages once, PSS", occupied / 2**20, "MiB", 90)
        self._bound("all four, shared pages as often as they are shared, RSS", now / 2**20, "MiB")
        self._bound(
            "a container, kernel and its process",
            (free - processes.available_memory()) / count / 2**10,
            "KiB",
        )
        if theirs is None:
            self._bound("a container, agent and keeper", each / 2**10, "KiB")
        else:
            name = "memory per idle container"
            self._rows.append(Row(name, each / 2**10, "dockerd", theirs / 2**10, "KiB", target=8))

    def _growth(self) -> None:
        """Whether the last starts take longer than the first: altogether, and agent and keeper."""
        window = min(self._window, len(self._started.seconds))
        first = statistics.median(self._started.seconds[:window])
        last = statistics.median(self._started.seconds[-window:])
        self._bound(f"create + start, the first {window}, median", first * 1e3, "ms")
        self._bound(f"create + start, the last {window}, median", last * 1e3, "ms")
        used = [after - before for before, after in itertools.pairwise(self._cpu)]
        if used:
            self._bound("CPU of agent and keeper a start, the first", used[0] / self._window * 1e3, "ms")
            self._bound("CPU of agent and keeper a start, the last", used[-1] / self._window * 1e3, "ms")
            self._bound("the last against the first", used[-1] / used[0], "x", _GROWTH)

    def _one_more(self, api: EngineApi, number: int) -> None:
        identifier = api.create(f"idle{number}", "bench", _SLEEP, "none")
        api.start(identifier)
        self._started.ids.append(identifier)

    def _lists(self) -> None:
        say("listing")
        path = self._agent.socket
        expected = len(self._started.ids)

        def listed(target: str) -> float:
            began = time.perf_counter()
            found = unix_http.request(path, "GET", target, timeout=60).json()
            taken = time.perf_counter() - began
            if len(found) != expected:
                raise SystemExit(f"GET {target} names {len(found)} containers, expected {expected}")
            return taken

        def printed() -> None:
            command = [sys.executable, "-m", "mooring_agent", "--socket", str(path), "ps", "--quiet"]
            done = subprocess.run(command, check=True, capture_output=True, timeout=60)
            if len(done.stdout.splitlines()) != expected:
                raise SystemExit(f"mooring ps has {len(done.stdout.splitlines())} lines, expected {expected}")

        for name, target in (
            ("docker-API list", "/v1.41/containers/json"),
            ("Mooring-API list", "/mooring/v1/containers"),
        ):
            self._bound(name, statistics.median(listed(target) for _ in range(_LISTS)), "s", 1)
        self._bound("mooring ps", statistics.median(timed(printed) for _ in range(_LISTS)), "s", 1)

    def _reach(self, api: EngineApi) -> None:
        ids = self._started.ids
        chosen = {ids[0], ids[-1], *random.sample(ids, min(self._options.sample, len(ids)))}
        say(f"reaching {len(chosen)} of them by exec")
        samples = [timed(partial(api.execute, identifier, ["true"])) for identifier in chosen]
        self._rows.append(Bound("reached by exec", len(samples), "", len(chosen), more=True))
        self._bound("exec of true, median", statistics.median(samples) * 1e3, "ms")
        self._bound("exec of true, slowest", max(samples) * 1e3, "ms", 1000)

    def _events(self, api: EngineApi) -> None:
        say("waiting for events")
        seen: dict[str, float] = {}
        listens, over = threading.Event(), threading.Event()

        def listen() -> None:
            # One event of before says that the subscription stands.
            since = f"/v1.41/events?since={time.time() - 60:.0f}"
            for event in unix_http.stream(self._agent.socket, "GET", since, timeout=60):
                listens.set()
                if event["Actor"]["Attributes"].get("name") == "watched":
                    seen[event["Action"]] = time.perf_counter()
                    if event["Action"] == "start":
                        over.set()
                        return

        identifier = api.create("watched", "bench", _SLEEP, "none")
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        if not listens.wait(30):
            raise SystemExit("the stream of events did not begin within 30 s")
        began = time.perf_counter()
        api.start(identifier)
        if not over.wait(30):
            raise SystemExit("no event of the start came within 30 s")
        self._bound("an event, from the request of a start", (seen["start"] - began) * 1e3, "ms", 100)
        api.remove(identifier)

    def _kills(self) -> None:
        agent, count = self._agent, len(self._started.ids)

        def running() -> bool:
            host = agent.api("GET", "/mooring/v1/host")
            return bool(host["containers"]["running"] == count)

        say("killing the agent")
        agent.kill9()
        self._bound("a killed agent: from its start to an answer", timed(agent.start), "s", 10)
        eventually(running, _RECOVERY, "the containers to be found running")
        say("killing the keeper")
        host = agent.api("GET", "/mooring/v1/host")
        keeper = host["keeper"]["pid"]

        def replaced() -> bool:
            if agent.api("GET", "/mooring/v1/host")["keeper"]["pid"] == keeper:
                return False
            api = EngineApi(agent.socket)
            api.execute(self._started.ids[0], ["true"])
            api.close()
            return True

        def kill() -> None:
            subprocess.run(["kill", "-9", str(keeper)], check=True)
            eventually(replaced, _RECOVERY, "the next keeper")

        self._bound("a killed keeper: until an exec works again", timed(kill), "s", 15)
        eventually(running, _RECOVERY, "the containers to be found running")
        agent.keeper_pids()
        lost = [one for one in agent.api("GET", "/mooring/v1/containers") if one["state"] != "running"]
        self._rows.append(Bound("containers lost by these kills", len(lost), "", 0))

    def _end(self, before: dict[str, int]) -> None:
        """Remove a hundred one by one, and all others at once; nothing may be left."""
        ids = list(self._started.ids)
        few = ids[:: max(1, len(ids) // 100)][:100]
        say(f"removing {len(few)} one by one")
        api = EngineApi(self._agent.socket)
        samples = [timed(partial(api.remove, identifier)) for identifier in few]
        api.close()
        self._bound("remove a running one, median", statistics.median(samples) * 1e3, "ms")
        say(f"removing the other {len(ids) - len(few)}: mooring system down")
        down = timed(self._down)
        self._bound("mooring system down", down, "s")
        self._bound("mooring system down, a container", down / (len(ids) - len(few)) * 1e3, "ms", 40)
        self._agent.start()
        left: list[str] = []

        def clean() -> bool:
            after = self._census()
            left[:] = [
                f"{name}: {before[name]} before, {now} now"
                for name, now in after.items()
                if now > before[name] + _SLACK.get(name, 0)
            ]
            return not left

        try:
            eventually(clean, 60, "nothing to be left")
        except AssertionError:
            for line in left:
                print(f"left behind: {line}")
        self._rows.append(Bound("kinds of things left behind", len(left), "", 0))

    def _down(self) -> None:
        agent = self._agent
        assert agent.process is not None
        command = [sys.executable, "-m", "mooring_agent", "--socket", str(agent.socket), "system", "down"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as down:
            agent.process.wait(
                _DOWN
            )  # it is our child: until we know of its end, it is still there for others
            agent.process = None
            if down.wait(60) != 0:
                raise SystemExit("mooring system down has failed")

    # What it looks at

    def _daemons(self) -> list[int]:
        found = self._without_zygote()
        return [*found, processes.zygote_of(found[1])]

    def _without_zygote(self) -> list[int]:
        """Agent, keeper and guardian; a keeper that has just begun has no zygote yet."""
        host = self._agent.api("GET", "/mooring/v1/host")
        return [host["agent"]["pid"], host["keeper"]["pid"], host["keeper"]["guardian_pid"]]

    def _census(self) -> dict[str, int]:
        """What there is of everything that a container has, by kind; launchers that wait have some too."""
        config = self._agent.config
        agent, keeper, guardian = self._without_zygote()
        parents = peers.groups(config.cgroup_parent)
        return {
            "containers": len(self._agent.api("GET", "/mooring/v1/containers")),
            "control groups": sum(path.is_dir() for parent in parents for path in parent.iterdir()),
            "mounts": len(Path("/proc/self/mounts").read_text().splitlines()),
            "network namespaces": processes.network_namespaces() or 0,
            "descriptors of the agent": processes.open_files(agent),
            "descriptors of the keeper": processes.open_files(keeper),
            "descriptors of the guardian": processes.open_files(guardian),
            "layers": len(list((config.data_root / "overlay/l").iterdir())),
            "work directories": len(list((config.data_root / "overlay/w").iterdir())),
            "trash": len(list((config.data_root / "overlay/trash").iterdir())),
            "directories of containers": len(list((config.data_root / "containers").iterdir())),
            "records of the keeper": len(list((config.run_root / "keeper/records").iterdir())),
            "pipes": len(list((config.run_root / "keeper/pipes").iterdir())),
        }

    def _bound(self, name: str, value: float, unit: str, limit: float | None = None) -> None:
        self._rows.append(Bound(name, value, unit, limit))


def _docker(base: Path, archive: Path, count: int) -> float | None:
    """The bytes that dockerd and its helpers grow by for a container; None without a dockerd."""
    try:
        with peers.dockerd(base / "docker") as engine:
            say(f"starting {count} containers of dockerd")
            api = EngineApi(engine.socket)
            api.import_image(archive, "bench")
            with _container(api, "warm"):
                time.sleep(1)
            idle = processes.proportional_memory(processes.naming(str(engine.base)))
            ids = []
            for number in range(count):
                ids.append(api.create(f"idle{number}", "bench", _SLEEP, "none"))
                api.start(ids[-1])
            time.sleep(2)
            loaded = processes.proportional_memory(processes.naming(str(engine.base)))
            for identifier in ids:
                api.remove(identifier)
            api.close()
            return (loaded - idle) / count
    except peers.PeerMissing as missing:
        say(f"dockerd is not measured: {missing}")
        return None


@contextmanager
def _container(api: EngineApi, name: str) -> Iterator[str]:
    identifier = api.create(name, "bench", _SLEEP, "none")
    api.start(identifier)
    yield identifier
    api.remove(identifier)


if __name__ == "__main__":
    main()
