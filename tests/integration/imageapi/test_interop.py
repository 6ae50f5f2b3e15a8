# SPDX-License-Identifier: Apache-2.0
"""Images of skopeo, podman, buildah and docker here, and ours there, by way of Debian's docker-registry."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bench.peers import PeerMissing, dockerd
from harness.agent import AgentUnderTest
from harness.host import need_programs
from harness.registry import RegistryUnderTest, registry_inside
from harness.waiting import PATIENCE
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.client import Registries
from unit.images.houses import House
from unit.images.repositories import Repository, build, layer

pytestmark = [pytest.mark.root, pytest.mark.docker]

Run = Callable[..., str]

_FORMATS = {
    "oci": "application/vnd.oci.image.manifest.v1+json",
    "v2s2": "application/vnd.docker.distribution.manifest.v2+json",
}
_REST = 30_000  # bytes: headers, manifest and configuration of one image


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryUnderTest]:
    with RegistryUnderTest() as started:
        yield started


@pytest.fixture(scope="module")
def ours(agent: AgentUnderTest, registry: RegistryUnderTest) -> str:
    """Return the name of an image that was pushed from here: busybox, and /ours in a layer of its own."""
    name = f"{registry.host}/ours/app:1"
    agent.docker("run", "--name", "maker", "busybox", "sh", "-c", "echo ours > /ours; chown 7:8 /ours")
    agent.docker("commit", "--change", "ENV FROM=here", "--change", "CMD cat /ours", "maker", name)
    agent.docker("rm", "maker")
    agent.docker("push", name)
    return name


@pytest.fixture(scope="module")
def containers_storage() -> Iterator[dict[str, Run]]:
    """Return podman and buildah on a store of their own, by name."""
    need_programs("podman", "buildah")
    # podman wants a short path for its sockets.
    place = Path(tempfile.mkdtemp(prefix="mp.", dir="/tmp"))
    shared = {"--root": f"{place}/storage", "--runroot": f"{place}/run", "--storage-driver": "vfs"}
    own = {"--tmpdir": f"{place}/tmp", "--cgroup-manager": "cgroupfs", "--events-backend": "none"}
    runtime = Path(sys.executable).parent / "mooring-oci"
    options = {"podman": shared | own | {"--runtime": str(runtime)}, "buildah": shared}

    def runner(program: str) -> Run:
        def run(*words: str) -> str:
            command = [program, *(word for pair in options[program].items() for word in pair), *words]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                timeout=60 * PATIENCE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
            assert done.returncode == 0, f"{program} {' '.join(words)}: {done.stderr}"
            return done.stdout.strip()

        return run

    tools = {program: runner(program) for program in options}
    yield tools
    tools["buildah"]("rm", "--all")
    tools["podman"]("rm", "--all", "--force", "--time", "0")
    shutil.rmtree(place)


def runs(agent: AgentUnderTest, name: str) -> str:
    """Pull an image, run it, remove it; returns what it said."""
    agent.docker("pull", name)
    said = agent.docker("run", "--rm", name).stdout
    agent.docker("rmi", name)
    return said


@pytest.mark.parametrize(("kind", "packed"), [("oci", "gzip"), ("oci", "zstd"), ("v2s2", "gzip")])
def test_what_skopeo_pushes_runs_here(
    agent: AgentUnderTest, registry: RegistryUnderTest, ours: str, kind: str, packed: str, tmp_path: Path
) -> None:
    name = f"{registry.host}/skopeo/{kind}-{packed}:1"
    plain, repacked = f"dir:{tmp_path}/plain", f"dir:{tmp_path}/repacked"
    registry.skopeo("copy", "--dest-decompress", f"docker://{ours}", plain)
    registry.skopeo(
        "copy", "--format", kind, "--dest-compress", "--dest-compress-format", packed, plain, repacked
    )
    # As it is, though the registry has these layers packed in another way.
    registry.skopeo("copy", "--preserve-digests", repacked, f"docker://{name}")
    raw = json.loads(registry.skopeo("inspect", "--raw", f"docker://{name}"))
    assert raw["mediaType"] == _FORMATS[kind]
    assert {each["mediaType"].rpartition(".")[2].rpartition("+")[2] for each in raw["layers"]} == {packed}
    assert runs(agent, name) == "ours\n"


def test_ours_is_what_skopeo_sees(registry: RegistryUnderTest, ours: str, tmp_path: Path) -> None:
    seen = json.loads(registry.skopeo("inspect", f"docker://{ours}"))
    assert "FROM=here" in seen["Env"]
    registry.skopeo("copy", f"docker://{ours}", f"oci:{tmp_path}/copy:1")
    index = json.loads((tmp_path / "copy/index.json").read_text())
    assert index["manifests"][0]["digest"] == seen["Digest"]


def test_podman_runs_ours_and_we_its(
    agent: AgentUnderTest, registry: RegistryUnderTest, ours: str, containers_storage: dict[str, Run]
) -> None:
    podman = containers_storage["podman"]
    podman("pull", "--tls-verify=false", ours)
    # podman's own are above what a machine may allow.
    limits = ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=5000:5000", "--network", "none")
    assert podman("run", "--rm", *limits, ours) == "ours"
    assert podman("run", "--rm", *limits, ours, "stat", "-c", "%u:%g", "/ours") == "7:8"
    assert (
        json.loads(podman("image", "inspect", ours))[0]["Config"]["Env"]
        == json.loads(agent.docker("image", "inspect", ours).stdout)[0]["Config"]["Env"]
    )
    podman("run", "--name", "maker", *limits, ours, "sh", "-c", "rm /ours; echo podman > /theirs")
    for kind in ("oci", "docker"):
        name = f"{registry.host}/podman/{kind}:1"
        podman("commit", "--format", kind, "--change", "CMD ls / | grep ours; cat /theirs", "maker", name)
        podman("push", "--tls-verify=false", name)
        assert runs(agent, name) == "podman\n"


def test_buildah_builds_on_ours_and_we_run_it(
    agent: AgentUnderTest, registry: RegistryUnderTest, ours: str, containers_storage: dict[str, Run]
) -> None:
    buildah = containers_storage["buildah"]
    container = buildah("from", "--tls-verify=false", ours)
    assert buildah("run", "--isolation", "chroot", container, "cat", "/ours") == "ours"
    buildah("run", "--isolation", "chroot", container, "sh", "-c", "echo buildah >> /ours")
    for kind in ("oci", "docker"):
        name = f"{registry.host}/buildah/{kind}:1"
        buildah("commit", "--tls-verify=false", "--format", kind, container, f"docker://{name}")
        assert runs(agent, name) == "ours\nbuildah\n"


@pytest.mark.slow
@pytest.mark.bench
def test_docker_runs_ours_and_we_its(agent: AgentUnderTest, registry: RegistryUnderTest, ours: str) -> None:
    """Asked for by `-m bench`: a dockerd is much to have for a test."""
    base = Path(tempfile.mkdtemp(prefix="mr-docker-")) / "peer"
    try:
        with dockerd(base) as peer, registry_inside(registry, peer.process.pid) as inside:

            def docker(*words: str) -> str:
                command = ["docker", "-H", f"unix://{peer.socket}", *words]
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
                )
                assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
                return done.stdout

            there = ours.replace(registry.host, inside)
            docker("pull", there)
            assert docker("run", "--rm", there) == "ours\n"
            docker("run", "--name", "maker", there, "sh", "-c", "echo docker >> /ours")
            docker("commit", "--change", "CMD cat /ours", "maker", f"{inside}/docker/app:1")
            docker("push", f"{inside}/docker/app:1")
            docker("rm", "maker")
            assert runs(agent, f"{registry.host}/docker/app:1") == "ours\ndocker\n"
    except PeerMissing as missing:
        pytest.skip(f"needs a dockerd that runs here, as script/bench images installs one: {missing}")
    finally:
        shutil.rmtree(base.parent, ignore_errors=True)


def test_of_five_layers_only_the_changed_one_travels(
    agent: AgentUnderTest, registry: RegistryUnderTest, tmp_path: Path
) -> None:
    """Also one in the middle; counted at the registry, through the API both ways."""
    layers = [layer(number, 400_000) for number in range(5)]
    top, middle = layer(7, 400_000), layer(8, 400_000)
    names = [f"{registry.host}/five/app:{tag}" for tag in "123"]
    contents = [layers, [*layers[:4], top], [*layers[:2], middle, *layers[3:]]]
    moves = [sum(each.size for each in build(*new).layers) for new in (layers, [top], [middle])]
    house, registries = House(tmp_path), Registries()
    for name, parts in zip(names, contents, strict=True):
        repository = Repository()
        repository.add(build(*parts), Reference.parse(name).tag or "")
        house.store.pull(repository, name)
        house.store.push(registries.repository(Reference.parse(name)), name)
    registries.close()
    house.snapshots.close()
    for name, moved in zip(names, moves, strict=True):
        registry.forget()
        agent.docker("pull", name)
        assert moved <= registry.traffic.received <= moved + _REST
    with RegistryUnderTest() as other:
        for name, moved in zip(names, moves, strict=True):
            target = name.replace(registry.host, other.host)
            agent.docker("tag", name, target)
            other.forget()
            agent.docker("push", target)
            assert moved <= other.traffic.sent <= moved + _REST
            agent.docker("rmi", target)
    agent.docker("rmi", *names)
