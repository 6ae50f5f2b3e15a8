# SPDX-License-Identifier: Apache-2.0
"""Pulling, from repositories in memory that break off, lie and stall."""

from __future__ import annotations

import gzip
import os
import threading
from dataclasses import replace

import pytest

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.content import Descriptor
from mooring_agent.images.image import ProgressEvent
from mooring_agent.images.platform import Platform, host_architecture
from mooring_agent.images.turns import Cancelled
from unit.images.houses import House
from unit.images.repositories import Repository, build, describe, index_of, layer


def describe_as(descriptor: Descriptor, platform: Platform) -> Descriptor:
    return replace(descriptor, platform=platform)


NAME = "registry.example/me/web:1"
LAYERS = tuple(layer(number) for number in range(5))


def test_an_image_is_pulled_with_its_bytes(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    events: list[ProgressEvent] = []
    image = house.store.pull(repository, NAME, progress=events.append)
    assert image.references == (NAME,)
    assert image.id == built.config.digest
    assert image.manifest_digest == built.manifest.digest
    assert image.digests == (f"registry.example/me/web@{built.manifest.digest}",)
    assert image.config == {"Cmd": ["sh"]}
    assert image.created_at == pytest.approx(1714979289.123456)
    assert {digest[7:] for digest in built.blobs} == house.blobs()
    assert house.store.get(f"registry.example/me/web@{built.manifest.digest}") == image
    rootfs = house.snapshots.prepare("container", house.store.ensure_unpacked(image))
    assert [path.name for lower in rootfs.lower for path in lower.iterdir()] == [
        f"file-{number}" for number in (4, 3, 2, 1, 0)
    ]
    house.snapshots.remove("container")
    seen = {(event.detail, event.step) for event in events}
    for each in built.layers:
        assert (each.short, "verify") in seen
        assert (each.short, "unpack") in seen
    house.reopen()
    assert house.store.get(NAME) == image


def test_what_is_here_is_not_fetched(house: House) -> None:
    repository = Repository()
    repository.add(build(*LAYERS), "1")
    house.store.pull(repository, NAME)
    changed = repository.add(build(*LAYERS[:4], layer(77)), "2")
    repository.sent.clear()
    events: list[ProgressEvent] = []
    house.store.pull(repository, "registry.example/me/web:2", progress=events.append)
    new = {changed.manifest.digest, changed.config.digest, changed.layers[4].digest}
    assert repository.sent == {digest: len(changed.blobs[digest]) for digest in new}
    assert sum(event.step == "exists" for event in events) >= 4


def test_one_configuration_under_several_manifests_is_one_image(house: House) -> None:
    repository = Repository()
    first = repository.add(build(*LAYERS[:2]), "1")
    other = repository.add(build(*LAYERS[:2], pack=lambda data: gzip.compress(data, 9, mtime=1)), "2")
    assert first.config == other.config
    house.store.pull(repository, NAME)
    image = house.store.pull(repository, "registry.example/me/web:2")
    assert image.references == (NAME, "registry.example/me/web:2")
    assert set(image.digests) == {
        f"registry.example/me/web@{each.manifest.digest}" for each in (first, other)
    }
    house.reopen()
    assert house.store.get(NAME) == image
    house.store.remove(NAME)
    assert house.store.get(image.id).digests == (f"registry.example/me/web@{other.manifest.digest}",)
    assert first.layers[0].digest[7:] not in house.blobs()


@pytest.mark.parametrize("docker", [False, True])
def test_the_platform_is_chosen_from_an_index(house: House, docker: bool) -> None:
    repository = Repository()
    arm = repository.add(build(LAYERS[0], architecture="arm64", docker=docker))
    own = repository.add(build(LAYERS[1], docker=docker))
    top = repository.add_index(
        index_of(
            describe_as(arm.manifest, Platform("linux", "arm64", "v8")),
            describe_as(own.manifest, Platform("linux", host_architecture())),
            docker=docker,
        ),
        "1",
    )
    image = house.store.pull(repository, NAME)
    assert image.id == own.config.digest
    assert image.digests == (f"registry.example/me/web@{top.digest}",)
    house.reopen()
    assert house.store.get(NAME) == image
    other = house.store.pull(repository, NAME, platform=Platform.parse("linux/arm64"))
    assert (other.id, other.architecture) == (arm.config.digest, "arm64")
    assert house.blob(top.digest).read_bytes() == repository.blobs[top.digest]


def test_an_image_for_another_platform_names_both(house: House) -> None:
    repository = Repository()
    built = repository.add(build(LAYERS[0], architecture="s390x"), "1")
    with pytest.raises(InvalidSpec, match=rf"linux/s390x and this host is linux/{host_architecture()}"):
        house.store.pull(repository, NAME)
    repository.add_index(index_of(describe_as(built.manifest, Platform("linux", "s390x"))), "2")
    with pytest.raises(NotFound, match=rf"nothing for linux/{host_architecture()}.*there is linux/s390x"):
        house.store.pull(repository, "registry.example/me/web:2")
    with pytest.raises(NotFound, match="linux/s390x only and linux/riscv64 was asked for"):
        house.store.pull(repository, NAME, platform=Platform.parse("linux/riscv64"))


def test_a_blob_that_breaks_off_is_gone_on_with(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    broken = built.layers[2].digest
    repository.breaks[broken] = [2000, 1000]
    house.store.pull(repository, NAME)
    assert repository.sent[broken] == built.layers[2].size


def test_a_pull_that_failed_goes_on_after_a_restart(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    broken = built.layers[3]
    repository.breaks[broken.digest] = [3000, 0]
    with pytest.raises(Unavailable, match="closed the connection"):
        house.store.pull(repository, NAME, parallel=1)
    house.reopen()
    with pytest.raises(NotFound):
        house.store.get(NAME)
    there = house.blobs()
    sent = dict(repository.sent)
    house.store.pull(repository, NAME)
    assert repository.sent[broken.digest] == broken.size
    assert all(
        repository.sent[digest] == sent[digest]
        for digest in sent
        if digest[7:] in there - {built.manifest.digest[7:]}
    )
    assert {each.digest[7:] for each in built.layers[:3]} <= there


def test_what_a_failed_pull_left_goes_after_a_day(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    repository.breaks[built.layers[4].digest] = [1000, 0]
    with pytest.raises(Unavailable):
        house.store.pull(repository, NAME)
    assert os.listdir(house.root / "images/ingest") != []
    house.expire()
    assert house.blobs() == set()
    assert house.snapshots.list() == ()


def test_a_damaged_rest_is_fetched_anew(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    repository.breaks[built.layers[0].digest] = [3000, 0]
    with pytest.raises(Unavailable):
        house.store.pull(repository, NAME)
    partial = house.root / "images/ingest" / f"partial-{built.layers[0].digest[7:]}"
    partial.write_bytes(bytes(3000))
    house.store.pull(repository, NAME)


def test_a_registry_that_lies_leaves_nothing(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    repository.damaged.add(built.layers[1].digest)
    with pytest.raises(InvalidSpec, match=rf"web:1: blob {built.layers[1].digest}.*came as"):
        house.store.pull(repository, NAME)
    repository.damaged.clear()
    repository.blobs[built.manifest.digest] += b" "
    with pytest.raises(InvalidSpec, match=rf"manifest {built.manifest.digest} of .* came as"):
        house.store.pull(repository, NAME)
    assert house.blobs() == set()


def test_a_layer_that_unpacks_to_something_else_is_refused(house: House) -> None:
    repository = Repository()
    first, second = build(LAYERS[0]), build(LAYERS[1])
    lying = build(LAYERS[0], layers=[each.to_json() for each in second.layers])
    repository.blobs |= first.blobs | second.blobs
    repository.add(lying, "1")
    with pytest.raises(InvalidSpec, match="unpacks to"):
        house.store.pull(repository, NAME)


def test_a_pull_by_digest(house: House) -> None:
    repository = Repository()
    built = repository.add(build(LAYERS[0]))
    name = f"registry.example/me/web@{built.manifest.digest}"
    image = house.store.pull(repository, name)
    assert (image.references, image.digests) == ((), (name,))
    house.reopen()
    assert house.store.get(name) == image
    house.store.tag(name, "web:mine")
    removed = house.store.remove("web:mine")
    assert removed.deleted == ()
    assert house.store.remove(name).deleted == (image.id,)


def test_pulls_at_the_same_time_share_the_work(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1", "2")
    gate = repository.gates[built.layers[0].digest] = threading.Event()
    waiting = repository.reached.setdefault(built.layers[0].digest, threading.Event())
    failures: list[BaseException] = []

    def pull(tag: str) -> None:
        try:
            house.store.pull(repository, f"registry.example/me/web:{tag}")
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=pull, args=(tag,)) for tag in "12"]
    for thread in threads:
        thread.start()
    assert waiting.wait(30)
    gate.set()
    for thread in threads:
        thread.join(30)
    assert not failures
    for each in (*built.layers, built.config):
        assert repository.sent[each.digest] == each.size
    assert house.store.get(NAME) == house.store.get("registry.example/me/web:2")


def test_a_cancelled_pull_ends_and_another_takes_over(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    first = built.layers[0].digest
    gate = repository.gates[first] = threading.Event()
    waiting = repository.reached.setdefault(first, threading.Event())
    cancelled = threading.Event()
    failures: list[BaseException] = []

    def pull() -> None:
        try:
            house.store.pull(repository, NAME, cancelled=cancelled)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    thread = threading.Thread(target=pull)
    thread.start()
    assert waiting.wait(30)
    cancelled.set()
    gate.set()
    thread.join(30)
    assert isinstance(failures[0], Cancelled)
    house.store.pull(repository, NAME)
    assert repository.sent[first] <= built.layers[0].size + 1000
    house.expire()


def test_a_collection_in_the_middle_takes_nothing(house: House) -> None:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    last = built.layers[4].digest
    gate = repository.gates[last] = threading.Event()
    waiting = repository.reached.setdefault(last, threading.Event())
    done: list[object] = []
    thread = threading.Thread(target=lambda: done.append(house.store.pull(repository, NAME)))
    thread.start()
    assert waiting.wait(30)
    other = house.add("other", layer(9))
    house.store.remove("other")
    assert other.id[7:] not in house.blobs()
    house.store.prune()
    gate.set()
    thread.join(30)
    assert done == [house.store.get(NAME)]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"artifactType": "application/spdx+json"}, "artifact of type application/spdx"),
        ({"config": describe("application/vnd.oci.empty.v1+json", b"{}").to_json()}, "artifact of type"),
        ({"layers": [describe("application/vnd.in-toto+json", b"{}").to_json()]}, "is no image"),
        (
            {
                "layers": [
                    describe(
                        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                        b"x",
                        urls=("https://layers.example/1",),
                    ).to_json()
                ]
            },
            r"not distributed by registries \(https://layers\.example/1\)",
        ),
        ({"manifests": []}, "ambiguous"),
        (
            {"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+json"},
            "schema 1|calls itself",
        ),
    ],
)
def test_what_is_no_image_is_refused(house: House, changed: dict[str, object], what: str) -> None:
    repository = Repository()
    repository.add(build(LAYERS[0], **changed), "1")
    with pytest.raises(InvalidSpec, match=what):
        house.store.pull(repository, NAME)
