# SPDX-License-Identifier: Apache-2.0
"""The image store and Debian's docker-registry: what is pushed comes back, and only what is new travels."""

from __future__ import annotations

import json

from harness.registry import RegistryUnderTest
from integration.registry.conftest import Connect
from mooring_agent.errors import MooringError
from mooring_agent.images.reference import Reference
from unit.images.houses import House
from unit.images.repositories import Repository, build, layer

LAYERS = tuple(layer(number, 400_000) for number in range(5))
_HEADERS = 20_000  # bytes: of all requests together, and of manifests


def made(house: House, name: str, *layers: bytes) -> None:
    repository = Repository()
    repository.add(build(*layers), Reference.parse(name).tag or "")
    house.store.pull(repository, name)


def test_only_the_changed_layer_travels(
    plain: RegistryUnderTest, connect: Connect, house: House, other: House
) -> None:
    registries = connect()
    first, second = (f"{plain.host}/fleet/web:{tag}" for tag in "12")
    repository = registries.repository(Reference.parse(first))
    made(house, first, *LAYERS)
    digest = house.store.push(repository, first)
    assert json.loads(plain.skopeo("inspect", f"docker://{first}"))["Digest"] == digest
    image = other.store.pull(repository, first)
    assert image.digests == (f"{plain.host}/fleet/web@{digest}",)
    assert image.id == house.store.get(first).id

    changed = layer(77, 400_000)
    made(house, second, *LAYERS[:4], changed)
    plain.forget()
    house.store.push(repository, second)
    assert len(changed) <= plain.traffic.sent <= len(changed) + _HEADERS
    plain.forget()
    other.store.pull(repository, second)
    assert len(changed) * 0.9 <= plain.traffic.received <= len(changed) + _HEADERS


def test_blobs_are_mounted_across_repositories(
    plain: RegistryUnderTest, connect: Connect, house: House
) -> None:
    registries = connect()
    first, second = f"{plain.host}/fleet/one:1", f"{plain.host}/fleet/two:1"
    made(house, first, *LAYERS[:2])
    house.store.push(registries.repository(Reference.parse(first)), first)
    house.store.tag(first, second)
    plain.forget()
    house.store.push(registries.repository(Reference.parse(second)), second)
    assert plain.traffic.sent <= _HEADERS
    seen = json.loads(plain.skopeo("inspect", f"docker://{second}"))
    assert seen["Digest"] == house.store.get(second).manifest_digest


def test_a_connection_that_is_cut_costs_no_byte_twice(
    plain: RegistryUnderTest, connect: Connect, house: House, other: House
) -> None:
    repository = connect().repository(Reference.parse(name := f"{plain.host}/fleet/cut:1"))
    made(house, name, LAYERS[0])
    house.store.push(repository, name)
    plain.forget()
    plain.wire.cut_after, plain.wire.cuts = 200_000, 1
    for _ in range(2):  # a cut in a manifest's way is not gone on with
        try:
            other.store.pull(repository, name)
        except MooringError:
            continue
    assert other.store.get(name).diff_ids == house.store.get(name).diff_ids
    # What was cut off has been counted by then: one piece of the proxy's, which comes once more.
    assert plain.traffic.received <= len(LAYERS[0]) + (1 << 16) + _HEADERS


def test_a_damaged_blob_is_fetched_again(plain: RegistryUnderTest, connect: Connect, house: House) -> None:
    registries = connect()
    name = f"{plain.host}/fleet/damaged:1"
    made(house, name, *LAYERS[:2])
    house.store.push(registries.repository(Reference.parse(name)), name)
    path = house.blob(house.document(house.store.get(name).manifest_digest)["layers"][1]["digest"])
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    (verdict,) = house.store.verify(
        repositories=lambda repository: registries.repository(Reference.parse(repository))
    )
    assert verdict.sound
    assert [damage.repaired_from for damage in verdict.damages] == [f"{plain.host}/fleet/damaged"]
