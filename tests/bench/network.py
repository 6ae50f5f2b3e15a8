# SPDX-License-Identifier: Apache-2.0
"""How fast containers' networks are: throughput, round trips and connections between containers, to the host
and through published ports, beside dockerd's in the same run; and what a thousand published ports cost.

Both engines have a network namespace of their own with a cable to the same kind of outside. What talks runs
in the containers' network namespaces, but is this host's own: iperf3, wrk, busybox and this program.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import peers, processes
from bench.engine_api import EngineApi, EngineFailed
from bench.report import Bound, Row, alternate, latency, print_table, say, spread, timed
from harness.agent import AgentUnderTest
from harness.rootfs import write_busybox_rootfs
from harness.waiting import eventually
from integration.network.topology import HOST_OUTER, NamedNamespace, Namespace, connect
from integration.switching.world import Load

_SLEEP = ["sleep", "3600"]
_WEB, _IPERF, _ECHO = 80, 5201, 7
_PUBLISHED = {_WEB: 18080, _IPERF: 18201, _ECHO: 18007}
_REPLACED = 18090
_ROUND_TRIPS = 2000
# Of docker's own path through the kernel.
_AS_GOOD = 0.97
_PORT_MS = 2.0


@dataclass(frozen=True)
class _Site:
    """An engine with two containers on its default bridge, the first of which publishes ports."""

    api: EngineApi
    host: Namespace
    outside: Namespace
    server: Namespace
    client: Namespace
    address: str
    gateway: str


_ECHOES = f"""
import socket
listener = socket.create_server(("0.0.0.0", {_ECHO}))
while True:
    connection, _ = listener.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    with connection:
        try:
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            pass
"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench network", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="samples of each (5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a throughput sample (1)")
    parser.add_argument("--ports", type=int, default=1000, help="published ports of one container (1000)")
    parser.add_argument(
        "--docker-ports", type=int, default=100, help="those of dockerd, which takes its time (100)"
    )
    parser.add_argument("--replacements", type=int, default=20, help="replacements under load (20)")
    parser.add_argument("--without-docker", action="store_true", help="leave dockerd out")
    options = parser.parse_args()
    rows: list[Row | Bound] = []
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory, ExitStack() as stack:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        pages = base / "pages"
        pages.mkdir()
        (pages / "index.html").write_text("x" * 512)
        say("starting an agent")
        host = stack.enter_context(_namespace())
        agent = stack.enter_context(peers.mooring(inside=host.path))
        ours = stack.enter_context(_site(agent.socket, archive, host, pages))
        if not options.without_docker:
            with ExitStack() as inner:
                try:
                    docker = inner.enter_context(peers.dockerd(base / "docker"))
                    theirs = inner.enter_context(
                        _site(
                            docker.socket,
                            archive,
                            Namespace(Path(f"/proc/{docker.process.pid}/ns/net")),
                            pages,
                        )
                    )
                    rows += _compare(ours, theirs, options)
                    say(f"{options.docker_ports} published ports: dockerd")
                    rows += _ports_of_docker(ours, theirs, options.docker_ports)
                    say(f"{options.replacements} replacements under load")
                    rows += _replacements(agent, ours, theirs, options.replacements)
                except peers.PeerMissing as missing:
                    say(f"dockerd is not measured: {missing}")
        say(f"{options.ports} published ports")
        rows += _many_ports(agent, options.ports)
    print_table("network: medians; the ratio says how many times better Mooring is", rows)


def _compare(ours: _Site, theirs: _Site, options: argparse.Namespace) -> Iterator[Row]:
    def both(measure: Callable[[_Site], float]) -> list[list[float]]:
        return alternate(options.rounds, lambda: measure(ours), lambda: measure(theirs))

    for port, kind, targets in (
        (_IPERF, "throughput", (_AS_GOOD, _AS_GOOD, _AS_GOOD, 1.0)),
        (_ECHO, "round trip", (_AS_GOOD, None, _AS_GOOD, 1.0)),
        (_WEB, "connections", (_AS_GOOD, None, _AS_GOOD, 1.0)),
    ):
        for (name, place), target in zip(_WAYS.items(), targets, strict=True):
            if target is None:
                continue
            say(f"{kind}, {name}")

            def measure(site: _Site, port: int = port, place: Way = place) -> float:
                return _MEASURES[port](*place(site, port), options.seconds)

            mine, other = both(measure)
            if port == _ECHO:
                yield latency(f"{kind}, {name}", mine, "dockerd", other, target)
            else:
                unit = "1/s" if port == _WEB else "Gb/s"
                yield _more(f"{kind}, {name}", mine, other, unit, target)


def _more(name: str, ours: list[float], theirs: list[float], unit: str, target: float) -> Row:
    return Row(
        name,
        statistics.median(ours),
        "dockerd",
        statistics.median(theirs),
        unit,
        more=True,
        target=target,
        our_spread=spread(ours),
        their_spread=spread(theirs),
    )


# ---- what is measured ----------------------------------------------------------------------------


def _throughput(where: Namespace, address: str, port: int, seconds: float) -> float:
    """Gigabits a second over one connection."""
    said = where.run(
        "iperf3", "--client", address, "--port", str(port), "--time", str(max(1, round(seconds))), "--json"
    )
    return float(json.loads(said)["end"]["sum_received"]["bits_per_second"]) / 1e9


def _round_trip(where: Namespace, address: str, port: int, _seconds: float) -> float:
    """The median seconds of 64 bytes there and back."""
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {_processors()[1]})  # of this thread
    try:
        return _there_and_back(where, address, port)
    finally:
        os.sched_setaffinity(0, everywhere)


def _there_and_back(where: Namespace, address: str, port: int) -> float:
    with where.connect(address, port) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        samples = []
        for _ in range(_ROUND_TRIPS):
            began = time.perf_counter()
            connection.sendall(b"x" * 64)
            left = 64
            while left:
                left -= len(connection.recv(left))
            samples.append(time.perf_counter() - began)
    return statistics.median(samples)


def _connections(where: Namespace, address: str, port: int, seconds: float) -> float:
    """Requests a second, each on a connection of its own."""
    said = where.run(
        *("wrk", "--threads", "1", "--connections", "8", "--duration", f"{max(1, round(seconds))}s"),
        *("--header", "Connection: close", f"http://{address}:{port}/"),
    )
    found = re.search(r"Requests/sec:\s*([0-9.]+)", said)
    assert found is not None, said
    return float(found[1])


Way = Callable[[_Site, int], tuple[Namespace, str, int]]
_WAYS: dict[str, Way] = {
    "containers": lambda site, port: (site.client, site.address, port),
    "container to host": lambda site, port: (site.client, site.gateway, port),
    "published port": lambda site, port: (site.outside, HOST_OUTER, _PUBLISHED[port]),
    "127.0.0.1": lambda site, port: (site.host, "127.0.0.1", _PUBLISHED[port]),
}
_MEASURES = {_IPERF: _throughput, _ECHO: _round_trip, _WEB: _connections}


def _many_ports(agent: AgentUnderTest, count: int) -> Iterator[Bound]:
    """A container with many ports, then one more, live."""
    ports = [{"container": 80, "host": 20000 + number} for number in range(count)]
    spec = {"image": "bench", "command": _SLEEP, "stop_timeout": 0}
    agent.api("PUT", "/mooring/v1/containers/without-ports", spec)
    bare = timed(lambda: agent.api("PUT", "/mooring/v1/containers/many-none", spec))
    before = len(processes.naming(str(agent.base)))
    began = timed(lambda: agent.api("PUT", "/mooring/v1/containers/many-ports", {**spec, "ports": ports}))
    yield Bound(f"insertion of {count} ports at once, each", (began - bare) / count * 1e3, "ms", _PORT_MS)
    one_more = []
    for number in range(20):
        ports.append({"container": 80, "host": 30000 + number})
        one_more.append(
            timed(
                lambda: agent.api("PUT", "/mooring/v1/containers/many-ports", {**spec, "ports": list(ports)})
            )
        )
    agent.api("PUT", "/mooring/v1/containers/single", spec)
    single = []
    for number in range(20):
        wanted = [{"container": 80, "host": 31000 + each} for each in range(number + 1)]
        single.append(
            timed(lambda: agent.api("PUT", "/mooring/v1/containers/single", {**spec, "ports": wanted}))  # noqa: B023
        )
    yield Bound(
        "one more port of few, request to answer", statistics.median(single) * 1e3, "ms", _PORT_MS * 5
    )
    yield Bound(f"one more port of {count}, the whole list declared", statistics.median(one_more) * 1e3, "ms")
    here = processes.naming(str(agent.base))
    yield Bound(f"processes more than before {count} ports", float(len(here) - before), "", 0.0)


def _ports_of_docker(ours: _Site, theirs: _Site, count: int) -> Iterator[Row]:
    def publish(site: _Site) -> float:
        bindings = {f"{1000 + number}/tcp": [{"HostPort": str(25000 + number)}] for number in range(count)}
        body = {
            "Image": "bench", "Cmd": _SLEEP, "StopTimeout": 0,
            "HostConfig": {"NetworkMode": "bridge", "PortBindings": bindings},
            "ExposedPorts": {port: {} for port in bindings},
        }  # fmt: skip
        made = site.api.call("POST", "/containers/create?name=ports", body)["Id"]
        try:
            return timed(lambda: site.api.start(made)) / count
        finally:
            site.api.remove(made)

    mine, other = alternate(2, lambda: publish(ours), lambda: publish(theirs))
    yield latency(f"start with {count} ports, each", mine, "dockerd", other)


def _replacements(agent: AgentUnderTest, ours: _Site, theirs: _Site, count: int) -> Iterator[Bound]:
    """What clients lose while a container is replaced again and again: by a switch, and by dockerd's API as
    community.docker uses it, which removes the old one and makes a new one.
    """
    command = ["sh", "-c", "mkdir -p /srv; echo x >/srv/index.html; exec httpd -f -p 80 -h /srv"]

    def switch(number: int) -> None:
        spec = {
            "image": "bench", "command": command, "env": {"NUMBER": str(number)}, "stop_timeout": 0,
            "ports": [f"{_REPLACED}:80"], "update_order": "start_first",
        }  # fmt: skip
        agent.api("PUT", "/mooring/v1/containers/replaced", spec, timeout=60)

    def recreate(number: int) -> None:
        with suppress(EngineFailed):
            theirs.api.remove("replaced")
        body = {
            "Image": "bench", "Cmd": command, "Env": [f"NUMBER={number}"], "StopTimeout": 0,
            "ExposedPorts": {"80/tcp": {}},
            "HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": str(_REPLACED)}]}},
        }  # fmt: skip
        theirs.api.start(theirs.api.call("POST", "/containers/create?name=replaced", body)["Id"])

    for name, site, replace in (("mooring", ours, switch), ("dockerd, recreated", theirs, recreate)):
        replace(0)
        eventually(
            partial(_connects, site.outside, HOST_OUTER, _REPLACED), what="the container to be replaced"
        )
        with Load(site.outside, 600, _REPLACED) as load:
            took = timed(lambda: [replace(number) for number in range(1, count + 1)])  # noqa: B023
            _, wrong = load.finish()
        lost = sum(
            map(int, re.findall(r"(?:connect|read|write|timeout|Non-2xx[^:]*:?) (\d+)", " ".join(wrong)))
        )
        limit = 0.0 if site is ours else None
        yield Bound(f"errors in {count} replacements, {name}", float(lost), "", limit)
        yield Bound(f"a replacement under load, {name}", took / count * 1e3, "ms")
    theirs.api.remove("replaced")


# ---- who takes part ------------------------------------------------------------------------------


@contextmanager
def _namespace() -> Iterator[NamedNamespace]:
    made = NamedNamespace()
    try:
        yield made
    finally:
        made.remove()


@contextmanager
def _site(engine: Path, archive: Path, host: Namespace, pages: Path) -> Iterator[_Site]:
    """Two containers of an engine whose network namespace is `host`, and who answers in them."""
    with ExitStack() as stack:
        outside = stack.enter_context(_namespace())
        connect(host, outside)
        api = EngineApi(engine)
        stack.callback(api.close)
        api.import_image(archive, "bench")
        bindings = {f"{inner}/tcp": [{"HostPort": str(outer)}] for inner, outer in _PUBLISHED.items()}
        names = []
        for name, published in (("server", bindings), ("client", {})):
            body = {
                "Image": "bench", "Cmd": _SLEEP, "StopTimeout": 0,
                "ExposedPorts": {port: {} for port in published},
                "HostConfig": {"NetworkMode": "bridge", "PortBindings": published},
            }  # fmt: skip
            made = api.call("POST", f"/containers/create?name={name}", body)["Id"]
            stack.callback(api.remove, made)
            api.start(made)
            names.append(made)
        views = [api.call("GET", f"/containers/{made}/json") for made in names]
        server, client = (Namespace(Path(f"/proc/{view['State']['Pid']}/ns/net")) for view in views)
        settings = views[0]["NetworkSettings"]["Networks"]["bridge"]
        for where in (server, host):
            stack.enter_context(_running(where, "iperf3", "--server", "--port", str(_IPERF)))
        stack.enter_context(_running(server, "busybox", "httpd", "-f", "-p", str(_WEB), "-h", str(pages)))
        stack.enter_context(_echo(server))
        found = _Site(api, host, outside, server, client, settings["IPAddress"], settings["Gateway"])
        for port in (_WEB, _IPERF, _ECHO):
            eventually(partial(_connects, client, found.address, port), what=f"port {port}")
        eventually(lambda: _connects(client, found.gateway, _IPERF), what="the host's iperf3")
        yield found


def _connects(where: Namespace, address: str, port: int) -> bool:
    with suppress(OSError):
        where.connect(address, port).close()
        return True
    return False


@contextmanager
def _running(where: Namespace, *argv: str) -> Iterator[None]:
    process = subprocess.Popen(
        ["nsenter", f"--net={where.path}", *argv], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextmanager
def _echo(where: Namespace) -> Iterator[None]:
    """Sends back what comes, on a processor of its own: where the scheduler puts both ends would decide."""
    with _running(where, "taskset", "--cpu-list", str(_processors()[0]), sys.executable, "-c", _ECHOES):
        yield


def _processors() -> tuple[int, int]:
    """Two of this process, the same one twice where there is but one."""
    available = sorted(os.sched_getaffinity(os.getpid()))
    return available[0], available[-1]


if __name__ == "__main__":
    main()
