# SPDX-License-Identifier: Apache-2.0
"""How fast images come in: a layer of many small files and one of big ones, plain and as gzip, beside
`docker load`, `podman load` and `umoci unpack`; what a hundred containers of one image cost; and what starts
of containers notice of a layer that is being unpacked.

Everything is on a fresh ext4 of the run's own: ext4 makes files slowly for minutes where many were deleted.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench import image_archives, image_moves, peers
from bench.engine_api import EngineApi
from bench.image_archives import Layer
from bench.report import Bound, Row, alternate, print_table, say, timed
from harness.loops import loop_mounted
from harness.unix_http import UnixConnection

_SIZE = 24 << 30  # bytes of the file system, sparse
_ROUNDS = 3
_CONTAINERS = 100
_SAMPLES = 30
_SLEEP = ["/bin/sleep", "600"]
_TIMEOUT = 240
_BLOCK = 1 << 18
_LATENCY_LIMIT = 2.0  # times
_START_LIMIT = 1.5
_DISK_LIMIT = 1.0  # MB

Contender = Callable[[Layer], float]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench images", description=__doc__)
    parser.add_argument(
        "part",
        nargs="*",
        choices=[*_PARTS, []],  # argparse looks for the default, as a whole, among them
        default=[],
        help=f"what to measure, of {', '.join(_PARTS)} (all)",
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help=f"layers of each kind ({_ROUNDS})")
    options = parser.parse_args()
    with ExitStack() as stack:
        place = stack.enter_context(loop_mounted("ext4", _SIZE, directory=_roomy()))
        place.chmod(0o755)
        place.parent.chmod(0o755)
        agent = stack.enter_context(peers.mooring(place))
        for part in options.part or _PARTS:
            _PARTS[part](agent.socket, place, options.rounds)


def _unpack(socket: Path, place: Path, rounds: int) -> None:
    """Each round has a layer of its own, since nobody unpacks the same one twice."""
    rows = []
    with ExitStack() as stack:
        plain, packed = _contenders(stack, place)
        for kind in image_archives.KINDS:
            for gzip, others in ((False, plain), (True, packed)):
                name = f"{kind}, {'gzip' if gzip else 'plain'}"
                say(f"unpacking: {name}")
                layers = [
                    image_archives.make(place / "layers", kind, number, gzip=gzip) for number in range(rounds)
                ]
                contenders = [lambda layer: _ours(socket, layer), *others.values()]
                rest = [iter(layers) for _ in contenders]
                found = alternate(
                    rounds,
                    *(
                        lambda contender=contender, left=left: contender(next(left))
                        for contender, left in zip(contenders, rest, strict=True)
                    ),
                )
                rates = [
                    statistics.median(
                        layer.size / 1e6 / took for layer, took in zip(layers, took_all, strict=True)
                    )
                    for took_all in found
                ]
                best = max(rates[1:], default=0.0)
                for peer, rate in zip(others, rates[1:], strict=True):
                    target = 1.0 if rate == best else None
                    rows.append(Row(name, rates[0], peer, rate, "MB/s", more=True, target=target))
                for layer in layers:
                    layer.forget()
    print_table(
        "images, unpacked: MB/s of the plain layer; the ratio says how many times faster Mooring is", rows
    )


def _contenders(stack: ExitStack, place: Path) -> tuple[dict[str, Contender], dict[str, Contender]]:
    """The peers that are here, for plain layers and for those of gzip."""
    plain: dict[str, Contender] = {}
    packed: dict[str, Contender] = {}
    with _unless_missing("docker load"):
        docker = stack.enter_context(peers.dockerd(place / "docker"))
        plain["docker load"] = lambda layer: timed(
            lambda: _send(docker.socket, "/v1.41/images/load?quiet=1", layer.docker_archive())
        )
    with _unless_missing("podman load"):
        podman = stack.enter_context(peers.podman_store(place / "podman"))
        plain["podman load"] = lambda layer: _timed_with(
            layer.docker_archive(), lambda archive: podman.call("load", "-q", "-i", str(archive))
        )
        packed["podman pull"] = lambda layer: _timed_with(
            layer.oci_layout(), lambda layout: podman.call("pull", "-q", f"oci:{layout}:latest")
        )
    if peers.has("umoci"):
        packed["umoci unpack"] = lambda layer: _timed_with(
            layer.oci_layout(), lambda layout: _umoci(layout, place / f"umoci-{layer.path.name}")
        )
    else:
        say("umoci unpack is not measured: umoci is not installed")
    return plain, packed


def _ours(socket: Path, layer: Layer) -> float:
    took = timed(lambda: _send(socket, f"/v1.41/images/create?fromSrc=-&repo={layer.name}&tag=1", layer.path))
    api = EngineApi(socket)
    found = api.call("GET", f"/images/{layer.name}:1/json")
    api.close()
    assert found["RootFS"]["Layers"] == [layer.diff_id], "what came in is not what was sent"
    return took


def _umoci(layout: Path, target: Path) -> None:
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:latest", str(target)],
        check=True,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT,
    )


def _send(socket: Path, path: str, archive: Path) -> None:
    connection = UnixConnection(socket, timeout=_TIMEOUT)
    connection.blocksize = _BLOCK
    with archive.open("rb") as body:
        headers = {"Content-Type": "application/x-tar", "Content-Length": str(archive.stat().st_size)}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        said = answer.read()
    connection.close()
    if answer.status >= 400 or b'"error"' in said:
        raise RuntimeError(f"{path}: {answer.status} {said.decode(errors='replace')}")


def _containers(socket: Path, place: Path, rounds: int) -> None:
    say(f"{_CONTAINERS} containers of one image")
    api = EngineApi(socket)
    api.import_image(image_archives.busybox(place), "bench")
    warm = [_start(api, f"warm{number}") for number in range(10)]
    os.sync()
    before = _used(place)
    times = []
    for number in range(_CONTAINERS):
        times.append(timed(lambda number=number: _start(api, f"c{number}")))  # type: ignore[misc]
    os.sync()
    each = (_used(place) - before) / _CONTAINERS / 1e6
    first, last = statistics.median(times[:20]), statistics.median(times[-20:])
    for name in [*(f"c{number}" for number in range(_CONTAINERS)), *warm]:
        api.remove(name)
    api.close()
    print_table(
        "images, shared: a hundred containers of one image",
        [
            Bound("disk for each container", each, "MB", _DISK_LIMIT),
            Bound("create + start of the last 20", last * 1e3, "ms"),
            Bound("the same in times of the first 20", last / first, "x", _START_LIMIT),
        ],
    )


def _latency(socket: Path, place: Path, rounds: int) -> None:
    """Creates and starts while a gigabyte of small files is unpacked."""
    say("starts of containers while a layer is unpacked")
    api = EngineApi(socket)
    api.import_image(image_archives.busybox(place), "bench")
    layers = [image_archives.make(place / "layers", "small files", 100 + n, gzip=True) for n in range(6)]
    for number in range(10):
        _start(api, f"w{number}")
        api.remove(f"w{number}")

    def sample(number: int) -> float:
        took = timed(lambda: _start(api, f"l{number}"))
        api.remove(f"l{number}")
        return took

    idle = [sample(number) for number in range(_SAMPLES)]
    busy: list[float] = []
    sending = threading.Thread(target=lambda: [_ours(socket, layer) for layer in layers])
    sending.start()
    while sending.is_alive():
        busy.append(sample(len(busy) + _SAMPLES))
    sending.join()
    api.close()
    for layer in layers:
        layer.forget()
    quiet, under_load = statistics.median(idle), statistics.median(busy)
    print_table(
        "images, unpacked beside: create + start while a gigabyte comes in",
        [
            Bound("at rest", quiet * 1e3, "ms"),
            Bound(f"meanwhile, {len(busy)} of them", under_load * 1e3, "ms"),
            Bound("times", under_load / quiet, "x", _LATENCY_LIMIT),
        ],
    )


def _start(api: EngineApi, name: str) -> str:
    api.create(name, "bench", _SLEEP, "none")
    api.start(name)
    return name


def _used(place: Path) -> int:
    status = os.statvfs(place)
    return (status.f_blocks - status.f_bfree) * status.f_frsize


def _roomy() -> str | None:
    """Memory, where there is enough of it: then no disk decides who is fast."""
    status = os.statvfs("/dev/shm")
    return "/dev/shm" if status.f_bavail * status.f_frsize > _SIZE // 2 else None


def _timed_with(prepared: Path, work: Callable[[Path], object]) -> float:
    """The seconds that a call takes, without the preparation of what it is given."""
    return timed(lambda: work(prepared))


@contextmanager
def _unless_missing(name: str) -> Iterator[None]:
    """Leave a peer out that is not here, and say so."""
    try:
        yield
    except peers.PeerMissing as error:
        say(f"{name} is not measured: {error}")


_PARTS: dict[str, Callable[[Path, Path, int], None]] = {
    "unpack": _unpack,
    "containers": _containers,
    "latency": _latency,
    "pull": image_moves.pull,
    "rebuild": image_moves.rebuild,
}

if __name__ == "__main__":
    main()
