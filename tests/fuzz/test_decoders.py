# SPDX-License-Identifier: Apache-2.0
"""Every decoder of foreign bytes, with some hundred hostile inputs each; `script/fuzz` goes on for longer."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

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
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(inputs(SEEDS[name]))
    def attack(data: bytes) -> None:
        TARGETS[name](data)

    for seed in SEEDS[name]:
        TARGETS[name](seed)
    attack()
