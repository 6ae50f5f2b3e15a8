# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.content import Descriptor
from mooring_agent.images.image import ProgressEvent
from mooring_agent.images.turns import Cancelled
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, layer

NAME = "registry.example/me/web:1"
LAYERS = tuple(layer(number) for number in range(4))


def pulled(house: House, name: str = NAME) -> tuple[Built, Repository]:
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    house.store.pull(repository, name)
    return built, repository


def test_a_push_sends_the_bytes_that_came(house: House) -> None:
    built, _ = pulled(house)
    sink = Repository()
    house.store.tag(NAME, "other.example/web:2")
    events: list[ProgressEvent] = []
    assert house.store.push(sink, "other.example/web:2", progress=events.append) == built.manifest.digest
    assert sink.tags == {"2": built.manifest.digest}
    assert sink.blobs == built.blobs
    assert {event.detail for event in events} == {each.short for each in (*built.layers, built.config)}


def test_nothing_is_sent_that_is_there(house: House) -> None:
    built, _ = pulled(house)
    sink = Repository()
    house.store.tag(NAME, "other.example/web:2")
    sink.blobs[built.layers[0].digest] = built.blobs[built.layers[0].digest]
    house.store.push(sink, "other.example/web:2")
    assert built.layers[0].digest not in sink.received
    sink.received.clear()
    house.store.push(sink, "other.example/web:2")
    assert not sink.received


def test_a_push_under_a_name_of_another_image_leaves_that_one_its_name(house: House) -> None:
    built, _ = pulled(house)
    target = "other.example/web:2"
    elsewhere = Repository()
    elsewhere.add(build(layer(9)), "2")
    other = house.store.pull(elsewhere, target)
    for given in (NAME, house.store.get(NAME).id):
        sink = Repository()
        assert house.store.push(sink, given, to=target) == built.manifest.digest
        assert sink.tags == {"2": built.manifest.digest}
    assert house.store.get(target).id == other.id
    with pytest.raises(InvalidSpec, match="expected a name and a tag"):
        house.store.push(Repository(), NAME, to=f"other.example/web@{built.manifest.digest}")


def test_blobs_are_mounted_from_where_they_came(house: House) -> None:
    built, origin = pulled(house)
    house.reopen()  # the candidates are remembered
    sink = Repository(others={"me/web": origin})
    house.store.tag(NAME, "registry.example/you/app:1")
    house.store.push(sink, "registry.example/you/app:1")
    assert not sink.received
    elsewhere = Repository(others={"me/web": origin})
    house.store.tag(NAME, "other.example/app:1")
    house.store.push(elsewhere, "other.example/app:1")
    assert set(elsewhere.received) == {built.config.digest, *(each.digest for each in built.layers)}


def test_a_layer_is_told_whole_once_it_is_there(house: House) -> None:
    repository = Repository()
    built = repository.add(build(layer(0, 900_000)), "1")
    house.store.pull(repository, NAME)
    events: list[ProgressEvent] = []

    class Watched(Repository):
        def push_blob(self, descriptor: Descriptor, open_chunks: Callable[[int], Iterator[bytes]]) -> None:
            super().push_blob(descriptor, open_chunks)
            assert all(event.current != descriptor.size for event in told(descriptor))

    def told(blob: Descriptor) -> list[ProgressEvent]:
        return [event for event in events if event.detail == blob.short]

    house.store.push(Watched(), NAME, progress=events.append)
    for blob in (*built.layers, built.config):
        positions = [event.current or 0 for event in told(blob)]
        assert positions == sorted(positions)
        assert positions[-1] == blob.size
        assert positions.count(blob.size) == 1


def test_a_damaged_blob_is_not_sent(house: House) -> None:
    built, _ = pulled(house)
    path = house.blob(built.layers[2].digest)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"?")
    with pytest.raises(Unavailable, match=rf"{built.layers[2].digest}.* is damaged"):
        house.store.push(Repository(), NAME)
    path.write_bytes(good)


def test_a_sink_that_changes_the_manifest_is_told(house: House) -> None:
    class Changing(Repository):
        def push_manifest(self, reference: str, media_type: str, body: bytes) -> str:
            return super().push_manifest(reference, media_type, body + b" ")

    pulled(house)
    with pytest.raises(Unavailable, match="it changes what it is sent"):
        house.store.push(Changing(), NAME)


def test_names_that_are_not_here_and_pushes_given_up(house: House) -> None:
    with pytest.raises(NotFound, match=r"web:1: give an image this name first"):
        house.store.push(Repository(), NAME)
    pulled(house)
    cancelled = threading.Event()
    cancelled.set()
    sink = Repository()
    with pytest.raises(Cancelled):
        house.store.push(sink, NAME, cancelled=cancelled)
    assert not sink.types


def test_a_removal_during_a_push_takes_nothing_from_it(house: House) -> None:
    built, _ = pulled(house)

    class Removing(Repository):
        def has_blob(self, digest: str) -> bool:
            if house.store.list():
                house.store.remove(NAME)
            return False

    sink = Removing()
    house.store.push(sink, NAME, parallel=1)
    assert sink.blobs == built.blobs
    house.add("other", LAYERS[0])
