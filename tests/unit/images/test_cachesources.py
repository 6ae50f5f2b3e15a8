# SPDX-License-Identifier: Apache-2.0
"""Which images a stage follows, as long as it does what they were made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.build.cachesources import Step, following, next_step
from mooring_agent.images.build.layering import Layer
from mooring_agent.images.content import Descriptor
from mooring_agent.images.platform import Platform

AMD = Platform("linux", "amd64")


@dataclass(frozen=True)
class Image:
    """What is asked of an image."""

    steps: tuple[tuple[str, str], ...]  # what made it, and the layer, "" for none
    platform: Platform = AMD

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer(name) for _, name in self.steps if name)

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(
            {"created_by": told, "created": f"of {told}"} | ({} if name else {"empty_layer": True})
            for told, name in self.steps
        )


def layer(name: str) -> Layer:
    return Layer(Descriptor("application/x", f"sha256:{ord(name):064x}", 1), f"sha256:{ord(name):064x}")


steps = st.lists(st.tuples(st.sampled_from(["RUN a", "RUN b", "ENV x"]), st.sampled_from("xy") | st.just("")))
images = steps.map(lambda found: Image(tuple(found)))


@given(images, st.data())
def test_an_image_is_followed_as_far_as_its_own_steps_go(image: Image, data: st.DataObject) -> None:
    length = data.draw(st.integers(0, len(image.steps)))
    made = Image(image.steps[:length])

    assert following([image], made) == (image,)
    if length < len(image.steps):
        told, name = image.steps[length]
        assert next_step([image], made, told) == Step(layer(name) if name else None, f"of {told}")
        assert next_step([image], made, "RUN another") is None
    else:
        assert next_step([image], made, "RUN a") is None


@given(images, images)
def test_only_what_has_the_same_beginning_is_followed(image: Image, made: Image) -> None:
    followed = image in following([image], made)
    assert followed == (image.steps[: len(made.steps)] == made.steps)


def test_another_platform_is_not_followed() -> None:
    assert following([Image((), Platform("linux", "arm64"))], Image(())) == ()
