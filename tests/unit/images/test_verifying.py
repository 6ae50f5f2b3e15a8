# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from mooring_agent.errors import NotFound, Unavailable
from mooring_agent.images.image import ProgressEvent
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, layer

NAME = "registry.example/me/web:1"
LAYERS = tuple(layer(number) for number in range(3))


class Registry:
    """Gives one repository, and remembers who was asked for."""

    def __init__(self) -> None:
        self.repository = Repository()
        self.asked: list[str] = []

    def __call__(self, name: str) -> Repository:
        self.asked.append(name)
        return self.repository


def pulled(house: House) -> tuple[Built, Registry]:
    registry = Registry()
    built = registry.repository.add(build(*LAYERS), "1")
    house.store.pull(registry.repository, NAME)
    return built, registry


def damage(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))


def test_all_is_well(house: House) -> None:
    pulled(house)
    house.add("other", LAYERS[0])
    verdicts = house.store.verify()
    assert all(verdict.sound for verdict in verdicts)
    assert {verdict.name for verdict in verdicts} == {NAME, "docker.io/library/other:latest"}
    assert [verdict.blobs for verdict in house.store.verify(NAME)] == [5]


def test_an_image_that_is_removed_meanwhile_is_not_damaged(house: House) -> None:
    pulled(house)
    other = house.add("other", layer(7))
    left = [other.id]

    def remove(_: ProgressEvent) -> None:
        while left:
            house.store.remove(left.pop())

    verdicts = house.store.verify(progress=remove)
    assert [(verdict.name, verdict.sound) for verdict in verdicts] == [(NAME, True)]
    house.store.prune()  # the look had kept its blobs


def test_a_damaged_layer_is_found_and_fetched_again(house: House) -> None:
    built, registry = pulled(house)
    house.store.tag(NAME, "mine:1")
    house.reopen()
    registry.repository.sent.clear()
    bad, gone = built.layers[1], built.layers[2]
    damage(house.blob(bad.digest))
    house.blob(gone.digest).unlink()
    (verdict,) = house.store.verify()
    assert not verdict.sound
    assert {each.digest: each.problem for each in verdict.damages} == {
        bad.digest: "it is damaged", gone.digest: "it is gone",
    }  # fmt: skip
    (verdict,) = house.store.verify(repositories=registry)
    assert verdict.sound
    assert {each.repaired_from for each in verdict.damages} == {"registry.example/me/web"}
    assert registry.repository.sent == {bad.digest: bad.size, gone.digest: gone.size}
    assert house.store.verify()[0].damages == ()


@pytest.mark.parametrize("part", ["manifest", "config"])
def test_an_image_that_cannot_be_read_is_repaired(house: House, part: str) -> None:
    built, registry = pulled(house)
    image = house.store.get(NAME)
    damage(house.blob(built.manifest.digest if part == "manifest" else built.config.digest))
    if part == "config":
        damage(house.blob(built.layers[0].digest))
    house.reopen()
    with pytest.raises(Unavailable, match="damaged"):
        house.store.get(NAME)
    (verdict,) = house.store.verify()
    assert (verdict.name, verdict.image_id, verdict.sound) == (NAME, None, False)
    (verdict,) = house.store.verify(repositories=registry)
    assert verdict.sound
    assert house.store.get(NAME) == image


def test_a_source_that_has_it_no_more_is_told(house: House) -> None:
    built, registry = pulled(house)
    path = house.blob(built.layers[0].digest)
    good = path.read_bytes()
    damage(path)
    del registry.repository.blobs[built.layers[0].digest]
    (verdict,) = house.store.verify(repositories=registry)
    (found,) = verdict.damages
    assert found.repaired_from is None
    assert "it is damaged; registry.example/me/web: no blob" in found.problem
    path.write_bytes(good)


def test_layers_that_are_not_unpacked(house: House) -> None:
    _, registry = pulled(house)
    image = house.store.get(NAME)
    assert image.chain_id is not None
    house.snapshots.remove(image.chain_id)
    (verdict,) = house.store.verify()
    assert verdict.missing_layers == (image.chain_id,)
    (verdict,) = house.store.verify(repositories=registry)
    assert verdict.sound
    with pytest.raises(NotFound):
        house.store.verify("nothing")
