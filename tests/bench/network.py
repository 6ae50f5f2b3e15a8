# SPDX-License-Identifier: Apache-2.0
"""How fast containers' networks are: throughput, round trips and connections between containers, to the host
and through published ports, beside dockerd's in the same run; and what a thousand published ports cost.

Both engines have a network namespace of their own with a cable to the same kind of outside. Who talks in the
containers' network namespaces is this program (`paths`), and wrk while containers are replaced.
"""

from __future__ import annotations

import argparse
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import paths, peers, processes
from bench.engine_api import EngineApi, EngineFailed
from bench.paths import Way
from bench.report import Bound, Row, alternate, latency, paired, print_table, say, timed
from harness.agent import AgentUnderTest
from harness.rootfs import write_busybox_rootfs
from harness.waiting import eventually
from integration.network.topology import HOST_OUTER, NamedNamespace, Namespace, connect
from integration.switching.world import Load

_SLEEP = ["sleep", "3600"]
_PORT, _PUBLISHED = 80, 18080
_REPLACED = 18090
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench network", description=__doc__)
    parser.add_argument("--pairs", type=int, default=100, help="samples of each, ours and dockerd's (100)")
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
        say("starting an agent")
        host = stack.enter_context(_namespace())
        agent = stack.enter_context(peers.mooring(inside=host.path))
        ours = stack.enter_context(_site(agent.socket, archive, host))
        if not options.without_docker:
            with ExitStack() as inner:
                try:
                    docker = inner.enter_context(peers.dockerd(base / "docker"))
                    theirs = inner.enter_context(
                        _site(
                            docker.socket,
                            archive,
                            Namespace(Path(f"/proc/{docker.process.pid}/ns/net")),
                        )
                    )
                    rows += _compare(ours, theirs, options.pairs)
                    say(f"{options.docker_ports} published ports: dockerd")
                    rows += _ports_of_docker(ours, theirs, options.docker_ports)
                    say(f"{options.replacements} replacements under load")
                    rows += _replacements(agent, ours, theirs, options.replacements)
                except peers.PeerMissing as missing:
                    say(f"dockerd is not measured: {missing}")
        say(f"{options.ports} published ports")
        rows += _many_ports(agent, options.ports)
    print_table("network: medians; the ratio says how many times better Mooring is", rows)


def _compare(ours: _Site, theirs: _Site, count: int) -> Iterator[Row]:
    for kind, measure, show, unit, more in (
        ("round trip", paths.round_trips, lambda seconds: seconds * 1e6, "us", False),
        ("throughput", paths.throughput, lambda seconds: 1 / seconds, "Gb/s", True),
        ("connections", paths.connections, lambda seconds: 1 / seconds, "1/s", True),
    ):
        for name, (place, target) in _WAYS.items():
            say(f"{kind}, {name}")
            samples = paths.pairs(count, measure, place(ours), place(theirs))
            yield paired(f"{kind}, {name}", samples, "dockerd", show, unit, more=more, target=target)


# By what is measured: the way there, and the ratio to reach. dockerd's 127.0.0.1 is a proxy.
_WAYS: dict[str, tuple[Callable[[_Site], Way], float]] = {
    "containers": (lambda site: Way(site.client, site.server, site.address, _PORT, _PORT), _AS_GOOD),
    "container to host": (lambda site: Way(site.client, site.host, site.gateway, _PORT, _PORT), _AS_GOOD),
    "published port": (
        lambda site: Way(site.outside, site.server, HOST_OUTER, _PORT, _PUBLISHED),
        _AS_GOOD,
    ),
    "127.0.0.1": (lambda site: Way(site.host, site.server, "127.0.0.1", _PORT, _PUBLISHED), 1.0),
}


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
def _site(engine: Path, archive: Path, host: Namespace) -> Iterator[_Site]:
    """Two containers of an engine whose network namespace is `host`."""
    with ExitStack() as stack:
        outside = stack.enter_context(_namespace())
        connect(host, outside)
        api = EngineApi(engine)
        stack.callback(api.close)
        api.import_image(archive, "bench")
        bindings = {f"{_PORT}/tcp": [{"HostPort": str(_PUBLISHED)}]}
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
        yield _Site(api, host, outside, server, client, settings["IPAddress"], settings["Gateway"])


def _connects(where: Namespace, address: str, port: int) -> bool:
    with suppress(OSError):
        where.connect(address, port).close()
        return True
    return False


if __name__ == "__main__":
    main()
