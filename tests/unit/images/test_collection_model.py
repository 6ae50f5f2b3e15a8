# SPDX-License-Identifier: Apache-2.0
"""Random histories of a store against a model of it: what can be reached stays, everything else goes."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from mooring_agent.errors import Conflict, NotFound, Unavailable
from mooring_agent.images.image import chain_id
from mooring_agent.images.pruning import PruneFilter
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, layer

LAYERS = tuple(layer(number, 2000) for number in range(4))
IMAGES = tuple(
    build(*(LAYERS[index] for index in stack), docker=docker)
    for stack in ((0,), (0, 1), (0, 1, 2), (3, 1))
    for docker in (False, True)
)
NAMES = tuple(f"registry.example/me/{name}:{tag}" for name in ("a", "b") for tag in ("1", "2"))

numbers = st.integers(0, len(IMAGES) - 1)
names = st.sampled_from(NAMES)


class Store(RuleBasedStateMachine):
    """The model: which image each name means, which have lost their names, what broke off, what runs."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mooring-model-"))
        self.house = House(self.root)
        self.named: dict[str, int] = {}
        self.nameless: set[str] = set()  # IDs
        self.partial: dict[str, list[Built]] = {}  # name → images whose pulls broke off
        self.containers: dict[str, str] = {}  # key → image ID

    def teardown(self) -> None:
        if hasattr(self, "house"):
            self.house.snapshots.wait_idle(20)
            self.house.snapshots.close()
            shutil.rmtree(self.root)

    def by_id(self, image_id: str) -> Built:
        return next(built for built in IMAGES if built.config.digest == image_id)

    def point(self, name: str, number: int) -> None:
        before = self.named.get(name)
        self.named[name] = number
        self.nameless.discard(IMAGES[number].config.digest)
        if before is not None:
            self.lose(before)

    def lose(self, number: int) -> None:
        image_id = IMAGES[number].config.digest
        if image_id not in {IMAGES[other].config.digest for other in self.named.values()}:
            self.nameless.add(image_id)

    @rule(name=names, number=numbers)
    def pull(self, name: str, number: int) -> None:
        repository = Repository()
        repository.add(IMAGES[number], name[-1])
        self.house.store.pull(repository, name)
        self.partial.pop(name, None)
        self.point(name, number)

    @rule(name=names, number=numbers)
    def pull_that_breaks_off(self, name: str, number: int) -> None:
        repository = Repository()
        built = repository.add(IMAGES[number], name[-1])
        last = built.layers[-1].digest
        repository.breaks[last] = [100, 0]
        if last[7:] in self.house.blobs():
            return
        with pytest.raises(Unavailable):
            self.house.store.pull(repository, name, parallel=1)
        self.partial.setdefault(name, []).append(built)

    @rule(name=names)
    def remove(self, name: str) -> None:
        if name not in self.named:
            with pytest.raises(NotFound):
                self.house.store.remove(name)
            return
        number = self.named[name]
        image_id = IMAGES[number].config.digest
        others = {IMAGES[each].config.digest for key, each in self.named.items() if key != name}
        if image_id in self.containers.values() and image_id not in others:
            with pytest.raises(Conflict):
                self.house.store.remove(name)
            return
        self.house.store.remove(name)
        del self.named[name]

    @rule(name=names, new=names)
    def tag(self, name: str, new: str) -> None:
        if name in self.named:
            self.house.store.tag(name, new)
            image_id = IMAGES[self.named[name]].config.digest
            newest = self.house.store.get(new).manifest_digest
            number = next(n for n, built in enumerate(IMAGES) if built.manifest.digest == newest)
            if IMAGES[self.named.get(new, number)].config.digest != image_id or new not in self.named:
                self.point(new, number)

    @rule(name=names)
    def start(self, name: str) -> None:
        if name in self.named:
            image = self.house.store.get(name)
            key = f"container-{len(self.containers)}-{name[-3:].replace('/', '-')}"
            if key not in self.containers:
                self.house.snapshots.prepare(key, image.chain_id)
                self.containers[key] = image.id
                self.house.used = set(self.containers.values())

    @rule()
    def stop_one(self) -> None:
        if self.containers:
            key, _ = self.containers.popitem()
            self.house.snapshots.remove(key)
            self.house.used = set(self.containers.values())

    @rule(everything=st.booleans())
    def prune(self, everything: bool) -> None:
        self.house.store.prune(PruneFilter(all=everything))
        used = set(self.containers.values())
        self.nameless &= used
        self.partial.clear()
        if everything:
            self.named = {
                name: number for name, number in self.named.items() if IMAGES[number].config.digest in used
            }

    @rule()
    def reopen(self) -> None:
        self.house.reopen()

    @rule()
    def a_day_goes_by(self) -> None:
        self.house.expire()
        self.partial.clear()

    @invariant()
    def reachable_things_stay_and_others_go(self) -> None:
        if not hasattr(self, "house"):
            return
        store = self.house.store
        held = {IMAGES[number].config.digest for number in self.named.values()} | self.nameless
        assert {image.id for image in store.list()} == held
        for name, number in self.named.items():
            image = store.get(name)
            assert image.id == IMAGES[number].config.digest
            repository = name.rpartition(":")[0]
            assert f"{repository}@{IMAGES[number].manifest.digest}" in image.digests
        needed: set[str] = set()
        chains = set(self.containers)
        for entry in self.house.index():
            manifest = self.house.document(entry["digest"])
            needed |= {entry["digest"], manifest["config"]["digest"]}
            needed |= {each["digest"] for each in manifest["layers"]}
        for image in store.list():
            chains |= {str(chain_id(image.diff_ids[: n + 1])) for n in range(len(image.diff_ids))}
        for image_id in self.containers.values():
            built = self.by_id(image_id)
            chains |= set(self.chains_of(built))
        broken_off = [built for each in self.partial.values() for built in each]
        may_stay = {digest for built in broken_off for digest in built.blobs}
        may_be = {key for built in broken_off for key in self.chains_of(built)}
        blobs = {f"sha256:{name}" for name in self.house.blobs()}
        assert needed <= blobs <= needed | may_stay
        there = {info.key for info in self.house.snapshots.list()}
        assert chains <= there <= chains | may_be

    @staticmethod
    def chains_of(built: Built) -> list[str]:
        diff_ids = json.loads(built.blobs[built.config.digest])["rootfs"]["diff_ids"]
        return [str(chain_id(diff_ids[: count + 1])) for count in range(len(diff_ids))]


Store.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestStore = Store.TestCase
