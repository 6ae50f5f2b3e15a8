# SPDX-License-Identifier: Apache-2.0
"""A fleet of stores and Debian's docker-registry: who may read what, and what goes over the wire."""

from __future__ import annotations

import io
import json
import random
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Any

import pytest

from harness.claims import free_port
from harness.registry import RegistryUnderTest, make_certificates
from harness.waiting import PATIENCE
from integration.registry.conftest import Connect
from mooring_agent.images.peering.client import Patience
from mooring_agent.images.peering.election import Holds
from mooring_agent.images.peering.peering import Peering
from mooring_agent.images.peering.settings import PeerSettings
from mooring_agent.images.reference import Reference
from unit.images.archives import archive, member
from unit.images.houses import House
from unit.images.repositories import Repository, build, layer

SIZE = 1_000_000
LAYERS = tuple(layer(number, SIZE) for number in range(5))
NOISE = random.Random(5).randbytes((4 << 20) + 77)
_REST = 60_000  # bytes: headers, manifests and configurations for six hosts


class Host:
    """A store with its peers."""

    def __init__(self, root: Path, settings: PeerSettings) -> None:
        self.house = House(root)
        self.settings = settings
        self.peering = Peering(self.house.store, settings, Patience(stall=2 * PATIENCE, still=5 * PATIENCE))

    def end(self) -> None:
        self.peering.close()
        self.house.check()
        self.house.snapshots.close()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the fleet's CA and a host's certificate, for 127.0.0.1."""
    directory = tmp_path_factory.mktemp("fleet")
    make_certificates(directory)
    return directory


@pytest.fixture
def make_hosts(tmp_path: Path, certificates: Path) -> Iterator[Callable[..., list[Host]]]:
    """Return a function that makes hosts which are each other's peers."""
    with ExitStack() as stack:

        def make(count: int, *, plain: bool = False, foreign: Path | None = None) -> list[Host]:
            addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
            hosts = []
            for number, address in enumerate(addresses):
                # The last one may have certificates of another CA.
                directory = foreign if foreign is not None and number == count - 1 else certificates
                files = ("ca_file", "ca.crt"), ("certificate", "server.crt"), ("key", "server.key")
                tls = {key: str(directory / name) for key, name in files}
                spec: dict[str, Any] = {"listen": address, "members": addresses}
                spec |= {"plain": True} if plain else {"tls": tls}
                hosts.append(Host(tmp_path / f"host{number}", PeerSettings.parse(spec)))
                stack.callback(hosts[-1].end)
            return hosts

        yield make


def put(registry: RegistryUnderTest, connect: Connect, root: Path, name: str, *layers: bytes) -> None:
    """Have an image in the registry."""
    house = House(root)
    repository = Repository()
    repository.add(build(*layers), Reference.parse(name).tag or "")
    house.store.pull(repository, name)
    house.store.push(connect().repository(Reference.parse(name)), name)
    house.snapshots.close()


def pull_all(hosts: list[Host], connect: Connect, name: str) -> None:
    """All at once, each with connections of its own to the registry."""
    reference = Reference.parse(name)

    def pull(host: Host) -> None:
        with host.peering.source(connect().repository(reference), reference.path) as source:
            host.house.store.pull(source, name)

    with ThreadPoolExecutor(len(hosts)) as pool:
        for done in [pool.submit(pull, host) for host in hosts]:
            done.result(60 * PATIENCE)


def test_a_rollout_loads_the_registry_about_once(
    plain: RegistryUnderTest, connect: Connect, make_hosts: Callable[..., list[Host]], tmp_path: Path
) -> None:
    first, second = (f"{plain.host}/fleet/rolled:{tag}" for tag in "12")
    put(plain, connect, tmp_path / "first", first, *LAYERS)
    hosts = make_hosts(6)
    plain.forget()
    pull_all(hosts, connect, first)
    whole = sum(each.size for each in build(*LAYERS).layers)
    assert whole <= plain.traffic.received <= 1.3 * whole

    changed = layer(77, SIZE)
    put(plain, connect, tmp_path / "second", second, *LAYERS[:4], changed)
    plain.forget()
    pull_all(hosts, connect, second)
    moved = build(changed).layers[0].size
    assert moved <= plain.traffic.received <= moved + _REST
    ids = {host.house.store.get(second).id for host in hosts}
    assert len(ids) == 1


def test_a_peer_gives_what_the_registry_gives(
    plain: RegistryUnderTest, connect: Connect, make_hosts: Callable[..., list[Host]], tmp_path: Path
) -> None:
    name = f"{plain.host}/fleet/shown:1"
    put(plain, connect, tmp_path / "made", name, *LAYERS[:2])
    (host,) = make_hosts(1, plain=True)
    pull_all([host], connect, name)
    ours, theirs = (f"docker://{where}/fleet/shown:1" for where in (host.settings.listen, plain.host))
    shown = [json.loads(plain.skopeo("inspect", "--no-tags", each)) for each in (ours, theirs)]
    assert shown[0]["Digest"] == shown[1]["Digest"]
    assert shown[0]["Layers"] == shown[1]["Layers"]
    copy = tmp_path / "copy"
    plain.skopeo("copy", ours, f"oci:{copy}:1")
    assert {path.name for path in (copy / "blobs/sha256").iterdir()} == host.house.blobs()


def call(
    host: Host, method: str, path: str, context: ssl.SSLContext | None = None, **headers: str
) -> tuple[HTTPResponse, bytes]:
    address, _, port = host.settings.listen.rpartition(":")
    connection: HTTPConnection = HTTPConnection(address, int(port), timeout=10)
    if context is not None:
        connection = HTTPSConnection(address, int(port), timeout=10, context=context)
    try:
        connection.request(
            method, path, headers={key.replace("_", "-"): text for key, text in headers.items()}
        )
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_nothing_but_what_is_held_can_be_read_and_nothing_written(
    make_hosts: Callable[..., list[Host]],
) -> None:
    (host,) = make_hosts(1, plain=True)
    repository = Repository()
    built = repository.add(build(*LAYERS[:1]), "1")
    host.house.store.pull(repository, "registry.example/me/web:1")
    held = built.layers[0]
    blob = f"/v2/me/web/blobs/{held.digest}"
    response, body = call(host, "GET", blob)
    assert (response.status, body) == (200, built.blobs[held.digest])
    response, body = call(host, "GET", blob, Range="bytes=1000-")
    assert (response.status, body) == (206, built.blobs[held.digest][1000:])
    response, body = call(host, "HEAD", blob)
    assert (response.status, response.getheader("Content-Length"), body) == (200, str(held.size), b"")
    assert call(host, "GET", blob, Range=f"bytes={held.size}-")[0].status == 416
    response, body = call(host, "GET", "/v2/me/web/manifests/1")
    assert body == built.blobs[built.manifest.digest]
    assert response.getheader("Content-Type") == built.manifest.media_type
    by_registry = "/v2/me/web/manifests/1?ns="
    assert call(host, "GET", f"{by_registry}registry.example")[0].status == 200
    assert call(host, "GET", f"{by_registry}elsewhere.example")[0].status == 404
    # In the store, and no part of an image: what a build has begun, say.
    with host.house.store._state.leases.hold("a build") as lease:
        with host.house.store._state.content.ingest() as writer:
            writer.write(b"begun")
            writer.finish()
            lease.add(writer.digest)
            host.house.store._state.content.publish(writer)
        assert call(host, "GET", f"/v2/me/web/blobs/{writer.digest}")[0].status == 404
        # The same, while a pull has it here already.
        host.peering._flights.mark("pull", writer.digest, Holds.CLAIMED)
        assert call(host, "GET", f"/v2/me/web/blobs/{writer.digest}")[1] == b"begun"
        host.peering._flights.drop("pull")
    host.house.store.remove("registry.example/me/web:1")
    for path in (
        blob,
        "/v2/me/web/manifests/1",
        f"/v2/me/web/manifests/{built.manifest.digest}",
        "/v2/me/web/tags/list",
        "/v2/_catalog",
        "/v2/me/web/blobs/../../../index.json",
        "/v2/me/web/blobs/sha256:..%2F..%2Findex.json",
        "/mooring/v1/host",
        "/_ping",
    ):
        assert call(host, "GET", path)[0].status == 404, path
    for method in ("PUT", "POST", "PATCH", "DELETE", "OPTIONS"):
        assert call(host, method, "/v2/me/web/manifests/1")[0].status == 405, method
    assert call(host, "GET", "/v2/")[0].status == 200


def test_what_is_no_request_ends_the_connection_and_not_the_server(
    make_hosts: Callable[..., list[Host]],
) -> None:
    (host,) = make_hosts(1, plain=True)
    address, _, port = host.settings.listen.rpartition(":")
    for noise in (b"\0" * 100, b"GET " + b"a" * 100_000, b"GET /v2/ HTTP/1.1\r\n" + b"A: b\r\n" * 10_000):
        with socket.create_connection((address, int(port)), 10) as client:
            client.settimeout(10)
            try:
                client.sendall(noise)
                answer = client.recv(1000)
            except ConnectionError:
                continue  # the rest of what was sent was not read
            assert answer.startswith(b"HTTP/1.1 4")
    assert call(host, "GET", "/v2/")[0].status == 200


def test_only_hosts_of_the_fleet_are_answered(
    make_hosts: Callable[..., list[Host]], certificates: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    make_certificates(foreign)
    (host,) = make_hosts(1)

    def context(directory: Path | None) -> ssl.SSLContext:
        made = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        if directory is not None:
            made.load_cert_chain(directory / "server.crt", directory / "server.key")
        return made

    assert call(host, "GET", "/v2/", context(certificates))[0].status == 200
    for refused in (None, foreign):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(host, "GET", "/v2/", context(refused))
    with pytest.raises((ConnectionError, OSError)):
        call(host, "GET", "/v2/")
    assert call(host, "GET", "/v2/", context(certificates))[0].status == 200


def test_a_host_of_another_fleet_gives_nothing_and_gets_nothing(
    plain: RegistryUnderTest, connect: Connect, make_hosts: Callable[..., list[Host]], tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    make_certificates(foreign)
    name = f"{plain.host}/fleet/apart:1"
    put(plain, connect, tmp_path / "made", name, layer(100, SIZE))
    hosts = make_hosts(2, foreign=foreign)
    pull_all(hosts[:1], connect, name)
    plain.forget()
    pull_all(hosts[1:], connect, name)
    assert plain.traffic.received >= build(layer(100, SIZE)).layers[0].size


@pytest.mark.parametrize("plain", [True, False])
def test_blobs_go_whole(make_hosts: Callable[..., list[Host]], certificates: Path, plain: bool) -> None:
    """Larger than what goes at once, and not a multiple of it."""
    (host,) = make_hosts(1, plain=plain)
    image = host.house.store.import_rootfs(io.BytesIO(archive(member("big", data=NOISE))), "big:1")
    (described,) = host.house.document(image.manifest_digest)["layers"]
    context = None
    if not plain:
        context = ssl.create_default_context(cafile=str(certificates / "ca.crt"))
        context.load_cert_chain(certificates / "server.crt", certificates / "server.key")
    _, body = call(host, "GET", f"/v2/library/big/blobs/{described['digest']}", context)
    assert len(body) > 4 << 20
    assert body == host.house.blob(described["digest"]).read_bytes()


def test_openssl_sees_no_old_protocol(make_hosts: Callable[..., list[Host]], certificates: Path) -> None:
    (host,) = make_hosts(1)
    done = subprocess.run(
        [
            *("openssl", "s_client", "-connect", host.settings.listen, "-tls1_1"),
            *("-cert", str(certificates / "server.crt"), "-key", str(certificates / "server.key")),
        ],
        input=b"",
        capture_output=True,
        timeout=20 * PATIENCE,
        check=False,
    )
    assert done.returncode != 0
