# SPDX-License-Identifier: Apache-2.0
"""Every decoder of foreign bytes, with some hundred hostile inputs each; `script/fuzz` goes on for longer."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mooring_agent.api.docker.convert import convert
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.images.specs import normalise_image_spec
from mooring_agent.network.specs import normalise_spec
from mooring_agent.oci import bundles
from mooring_agent.runtime.compile import compile_launch
from mooring_agent.runtime.mounts import Overlay
from mooring_agent.runtime.seccomp_profile import compile_profile

from . import documents
from .targets import SEEDS, TARGETS

# The slower ones touch files or a C library.
EXAMPLES = dict.fromkeys(TARGETS, 300) | {"log": 80, "record": 100, "seccomp": 60, "container": 200}


def inputs(seeds: tuple[bytes, ...]) -> st.SearchStrategy[bytes]:
    """Noise, and the seeds with pieces of them changed."""

    def damaged(drawn: tuple[bytes, list[tuple[int, bytes, int]]]) -> bytes:
        data, edits = drawn
        for where, new, gone in edits:
            start = where % (len(data) + 1)
            data = data[:start] + new + data[start + gone :]
        return data

    edits = st.lists(
        st.tuples(st.integers(0, 1 << 16), st.binary(max_size=9), st.integers(0, 40)), max_size=4
    )
    return st.one_of(st.binary(max_size=60), st.tuples(st.sampled_from(seeds), edits).map(damaged))


@pytest.mark.parametrize("name", list(TARGETS))
def test_hostile_input_is_read_or_refused(name: str) -> None:
    """A decoder raises its own errors and no others; what it takes it gives back the same."""

    @settings(
        max_examples=EXAMPLES[name],
        deadline=None,
        database=None,
        phases=(Phase.explicit, Phase.generate, Phase.shrink),
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(inputs(SEEDS[name]))
    def attack(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    attack()


def test_what_is_changed_is_valid_before() -> None:
    """A document that is refused as it is would hide all that is behind the refusal."""
    ContainerSpec.parse(documents.CONTAINER)
    ContainerSpec.parse(convert(documents.DOCKER_CREATE).spec)
    normalise_spec(documents.NETWORK)
    normalise_image_spec(documents.IMAGE)
    for profile in (documents.SECCOMP, documents.DOCKER_SECCOMP):
        assert compile_profile(profile, ("CAP_KILL",))
    config = copy.deepcopy(documents.CONFIG)
    bundles.check(config)
    assert compile_launch(config, id="x", group="x", root=Overlay(("/a",)))
