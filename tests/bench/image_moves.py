# SPDX-License-Identifier: Apache-2.0
"""An image of 500 MB in eight layers, pulled from Debian's docker-registry, and an image that is built again
after a change in its last COPY.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import random
import shutil
import statistics
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import image_archives, peers
from bench.engine_api import EngineApi
from bench.image_archives import add_file
from bench.report import Row, alternate, print_table, say, spread, timed
from harness.registry import RegistryUnderTest, registry_inside
from harness.unix_http import UnixConnection

_LAYERS = 8
_LAYER = 62_500_000  # bytes, unpacked
_SMALL = 16_000  # bytes of a small file; every other layer is of such, the others are of big ones
_BIG = 12_500_000
_TIMEOUT = 240

_FILES = 2000
_DOCKERFILE = b"""\
FROM bench-base
COPY library /usr/lib/app
RUN find /usr/lib/app -type f | wc -l > /usr/lib/app.count
ENV MODE=production
COPY app.conf /etc/app.conf
"""


def pull(socket: Path, place: Path, rounds: int) -> None:
    """Each engine pulls the same image, and forgets it again."""
    say(f"an image of {_LAYERS} layers, {_LAYERS * _LAYER // 1_000_000} MB unpacked")
    layout = _make_layout(place / "layout")
    packed = sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())
    with ExitStack() as stack:
        registry = stack.enter_context(RegistryUnderTest())
        registry.skopeo("copy", f"oci:{layout}:latest", f"docker://127.0.0.1:{registry.port}/bench/app:1")
        shutil.rmtree(layout)
        # Past the proxy that counts bytes, which would be what is measured.
        name = f"127.0.0.1:{registry.port}/bench/app"
        names, contenders = ["mooring"], [_pulling(socket, name)]
        try:
            docker = stack.enter_context(peers.dockerd(place / "docker"))
            inside = stack.enter_context(registry_inside(registry, docker.process.pid))
            names.append("docker pull")
            contenders.append(_pulling(docker.socket, f"{inside}/bench/app"))
        except peers.PeerMissing as error:
            say(f"docker pull is not measured: {error}")
        try:
            podman = stack.enter_context(peers.podman_store(place / "podman"))
            names.append("podman pull")
            contenders.append(lambda: _podman(podman, name))
        except peers.PeerMissing as error:
            say(f"podman pull is not measured: {error}")
        if peers.has("skopeo"):
            names.append("skopeo oci:")
            contenders.append(lambda: _skopeo(registry, name, place / "copy"))
        ours, *others = alternate(rounds, *contenders)
    unpacking = {peer: took for peer, took in zip(names[1:], others, strict=True) if peer != "skopeo oci:"}
    fastest = min(unpacking, key=lambda peer: statistics.median(unpacking[peer]), default="")
    rows = [
        Row(
            f"pull, {packed / 1e6:.0f} MB on the wire",
            statistics.median(ours),
            peer,
            statistics.median(took),
            "s",
            target=1.0 if peer == fastest else None,
            our_spread=spread(ours),
            their_spread=spread(took),
        )
        for peer, took in zip(names[1:], others, strict=True)
    ]
    print_table("images, pulled from a registry on loopback; skopeo copies without unpacking", rows)


def rebuild(socket: Path, place: Path, rounds: int) -> None:
    """The last COPY has another file each time; all before it is in the cache."""
    say("building again after a change of one line")
    base = image_archives.busybox(place)
    with ExitStack() as stack:
        names, contenders = ["mooring"], [_building(socket, base)]
        try:
            docker = stack.enter_context(peers.dockerd(place / "docker"))
            names.append("docker build")
            contenders.append(_building(docker.socket, base))
        except peers.PeerMissing as error:
            say(f"docker build is not measured: {error}")
        ours, *others = alternate(5 * rounds, *contenders)
    print_table(
        "images, built again after a change of one line in the last COPY",
        [
            Row(
                f"rebuild, {_FILES} files in the context",
                statistics.median(ours),
                peer,
                statistics.median(took),
                "s",
                target=1.0,
                our_spread=spread(ours),
                their_spread=spread(took),
            )
            for peer, took in zip(names[1:], others, strict=True)
        ],
    )


def _pulling(socket: Path, name: str) -> Callable[[], float]:
    """What pulls an image through an engine's API; the seconds that it took."""

    def once() -> float:
        os.sync()
        took = timed(lambda: _post(socket, f"/v1.41/images/create?fromImage={name}&tag=1"))
        api = EngineApi(socket)
        assert len(api.call("GET", f"/images/{name}:1/json")["RootFS"]["Layers"]) == _LAYERS
        api.call("DELETE", f"/images/{name}:1")
        api.close()
        return took

    return once


def _podman(podman: peers.Podman, name: str) -> float:
    os.sync()
    took = timed(lambda: podman.call("pull", "-q", "--tls-verify=false", f"{name}:1"))
    podman.call("rmi", f"{name}:1")
    return took


def _skopeo(registry: RegistryUnderTest, name: str, target: Path) -> float:
    os.sync()
    took = timed(lambda: registry.skopeo("copy", f"docker://{name}:1", f"oci:{target}:1"))
    shutil.rmtree(target)
    return took


def _building(socket: Path, base: Path) -> Callable[[], float]:
    """What builds an image through an engine's API, with another file for the last COPY each time."""
    api = EngineApi(socket)
    api.import_image(base, "bench-base")
    api.close()
    source = random.Random("library")
    library = [(f"library/{n // 50}/file{n}", source.randbytes(8000)) for n in range(_FILES)]
    turn = 0

    def once() -> float:
        nonlocal turn
        turn += 1
        context = _context(library, b"workers = %d\n" % turn)
        return timed(lambda: _post(socket, "/v1.41/build?t=bench-built", context))

    once()  # all steps, so that the cache has them
    return once


def _context(library: list[tuple[str, bytes]], config: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in [("Dockerfile", _DOCKERFILE), *library, ("app.conf", config)]:
            add_file(archive, name, data)
    return buffer.getvalue()


def _post(socket: Path, path: str, body: bytes = b"") -> None:
    connection = UnixConnection(socket, timeout=_TIMEOUT)
    connection.request("POST", path, body, {"Content-Type": "application/x-tar"})
    answer = connection.getresponse()
    said = answer.read()
    connection.close()
    if answer.status >= 400 or b'"error"' in said:
        raise RuntimeError(f"{path}: {answer.status} {said[-500:].decode(errors='replace')}")


def _make_layout(root: Path) -> Path:
    """An OCI image layout with the image `latest`; half of each layer packs well."""
    archives = map(_layer, range(_LAYERS))
    return image_archives.write_layout(
        root,
        (
            (f"sha256:{hashlib.sha256(archive).hexdigest()}", gzip.compress(archive, 1, mtime=0))
            for archive in archives
        ),
    )


def _layer(number: int) -> bytes:
    source = random.Random(f"layer {number}")
    size = _BIG if number % 2 else _SMALL
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for place in range(_LAYER // size):
            noise = source.randbytes(size // 2)
            word = source.randbytes(25)
            add_file(
                archive, f"opt/{number}/{place // 100}/file{place}", noise + word * (size // 2 // len(word))
            )
    return buffer.getvalue()
