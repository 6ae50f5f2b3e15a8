# SPDX-License-Identifier: Apache-2.0
"""Templates in the store: what was built is used again, until it is too old."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from mooring_agent.images import making
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.templates import Template
from mooring_agent.images.turns import Stop
from unit.images.archives import archive, member
from unit.images.houses import House


class Kitchen:
    """A template whose every build is another, and a clock that the test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.builds = 0

    def open(self, spec: TemplateSpec) -> Template:
        return Template(f"key of {spec.suite}", "template of the test", "amd64", ImageConfig(), self.build)

    def build(self, scratch: Path, progress: Progress, stop: Stop) -> Generator[bytes, None, None]:
        self.builds += 1
        yield archive(member("build", data=b"%d" % self.builds))


@pytest.fixture
def kitchen(monkeypatch: pytest.MonkeyPatch) -> Kitchen:
    kitchen = Kitchen()
    monkeypatch.setattr(making, "open_template", kitchen.open)
    monkeypatch.setattr(making.time, "time", lambda: kitchen.now)
    return kitchen


def test_what_is_too_old_is_built_anew(house: House, kitchen: Kitchen) -> None:
    daily = TemplateSpec("debian", "trixie", max_age=86400.0)
    first = house.store.from_template(daily, "web")
    assert house.store.built_at(first) == 1_000_000.0

    kitchen.now += 80_000
    events: list[ProgressEvent] = []
    assert house.store.from_template(daily, "web", progress=events.append) == first
    assert [event.step for event in events] == ["done"]

    kitchen.now += 10_000
    second = house.store.from_template(daily, "web")
    assert kitchen.builds == 2
    assert second.diff_ids != first.diff_ids
    assert house.store.built_at(second) == kitchen.now


def test_without_an_age_the_newest_is_used(house: House, kitchen: Kitchen) -> None:
    house.store.from_template(TemplateSpec("debian", "trixie"), "old")
    kitchen.now += 100
    newer = house.store.from_template(TemplateSpec("debian", "trixie", max_age=60.0), "new")
    kitchen.now += 1e9

    again = house.store.from_template(TemplateSpec("debian", "trixie"), "third", ImageConfig(cmd=("sh",)))

    assert kitchen.builds == 2
    assert again.diff_ids == newer.diff_ids
    assert house.store.built_at(again) == house.store.built_at(newer) == 1_000_100.0


def test_an_image_of_no_template_has_no_age(house: House) -> None:
    assert house.store.built_at(house.add("web", archive(member("x")))) == 0.0
