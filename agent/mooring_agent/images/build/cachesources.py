# SPDX-License-Identifier: Apache-2.0
"""Images in the place of the build cache: an instruction that an image of that history has been made with is
not done again.

An image tells what it was made with in its history, so one that comes from a registry serves as well as one
that was built here. A stage follows those that begin as it does, with the same instructions and layers, and
leaves each where they part. What RUN came to is believed; what COPY and ADD take is not in a history, so
they are done again, and go on with the image if that comes to the same layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mooring_agent.images.build.layering import Layer
from mooring_agent.images.platform import Platform


class Made(Protocol):
    """An image, or a stage as far as it has come."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Its layers, the lowest first."""

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        """What made it: entries of an image's config."""

    @property
    def platform(self) -> Platform:
        """What it is for."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an instruction has come to in an image: its layer, None if it changed nothing, and when."""

    layer: Layer | None
    created: str


def following(sources: Iterable[Made], made: Made) -> tuple[Made, ...]:
    """The images that begin as a stage has."""
    return tuple(source for source in sources if _begins(source, made))


def next_step(sources: Iterable[Made], made: Made, told: str) -> Step | None:
    """What the instruction that a history tells so has come to in one of the images that a stage follows."""
    for source in sources:
        if len(source.history) <= len(made.history):
            continue
        entry = source.history[len(made.history)]
        if entry.get("created_by") != told:
            continue
        created = str(entry.get("created") or "")
        if entry.get("empty_layer"):
            return Step(None, created)
        if len(source.layers) > len(made.layers):
            return Step(source.layers[len(made.layers)], created)
    return None


def _begins(source: Made, made: Made) -> bool:
    return (
        source.platform == made.platform
        and _diff_ids(source.layers[: len(made.layers)]) == _diff_ids(made.layers)
        and _told(source.history[: len(made.history)]) == _told(made.history)
    )


def _diff_ids(layers: Sequence[Layer]) -> list[str]:
    return [layer.diff_id for layer in layers]


def _told(history: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    return [(str(entry.get("created_by") or ""), bool(entry.get("empty_layer"))) for entry in history]
