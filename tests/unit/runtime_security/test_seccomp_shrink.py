# SPDX-License-Identifier: Apache-2.0
"""A filter in fewer instructions says the same as before."""

from __future__ import annotations

import errno
import struct
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.linux import seccomp
from mooring_agent.runtime.seccomp_profile import default_profile
from mooring_agent.runtime.seccomp_shrink import shrink
from mooring_agent.runtime.seccomp_stub import unknown_calls_stub
from mooring_agent.runtime.seccomp_syntax import parse

from .filters import AUDIT_I386, AUDIT_X86_64, interpret

ALLOW, DENY = seccomp.ALLOW, seccomp.ERRNO | errno.EPERM
X32 = 0x40000000
NUMBERS = st.integers(0, 700) | st.integers(X32, X32 + 700) | st.integers(0, 0xFFFFFFFF)
ARCHITECTURES = st.sampled_from([AUDIT_X86_64, AUDIT_I386, 0xC00000B7, 0])
ARGUMENTS = st.lists(st.integers(0, 64) | st.integers(0, 2**64 - 1), max_size=6)
COMPARISONS = st.builds(
    seccomp.Comparison,
    st.integers(0, 5),
    st.sampled_from([seccomp.EQUAL, seccomp.NOT_EQUAL, seccomp.GREATER, seccomp.MASKED_EQUAL]),
    st.integers(0, 64),
    st.integers(0, 64),
)


def program(rules: dict[int, list[seccomp.Comparison]], *, tree: bool) -> bytes:
    """What libseccomp makes of calls that are allowed, some for certain arguments only."""
    with seccomp.Filter(DENY) as under_construction:
        under_construction.add_architecture(seccomp.architecture("x86"))
        under_construction.add_architecture(seccomp.architecture("x32"))
        if tree:
            under_construction.set_attribute(seccomp.OPTIMIZE, seccomp.BINARY_TREE)
        for number, comparisons in rules.items():
            with suppress(OSError):  # a number that this machine has no call for
                under_construction.add_rule(ALLOW, number, comparisons)
        return under_construction.export()


@pytest.fixture(scope="module")
def default() -> bytes:
    """Docker's profile as it is compiled for a container, before it is shrunk."""
    names = {rule.name for rule in parse(default_profile()).rules}
    numbers = {name: seccomp.syscall(name) for name in names}
    allowed: dict[int, list[seccomp.Comparison]] = {}
    allowed |= {number: [] for number in numbers.values() if number >= 0}
    allowed[seccomp.syscall("clone")] = [seccomp.Comparison(0, seccomp.MASKED_EQUAL, 0x7E020000, 0)]
    stub = unknown_calls_stub(
        {"X86_64": 450, "X86": 450, "X32": X32 + 547}, {"X86_64": AUDIT_X86_64, "X86": AUDIT_I386}
    )
    return stub + program(allowed, tree=True)


def test_the_default_filter_shrinks_by_a_third_at_least(default: bytes) -> None:
    assert len(shrink(default)) < len(default) * 2 / 3


@pytest.mark.parametrize("architecture", [AUDIT_X86_64, AUDIT_I386, 0xC00000B7])
@pytest.mark.parametrize("first", [0, X32, 0xFFFFFF00])
def test_every_call_comes_to_the_same_end(default: bytes, architecture: int, first: int) -> None:
    small = shrink(default)
    for number in range(first, min(first + 700, 0x100000000)):
        for arguments in ([], [0x7E020000], [17]):
            assert interpret(small, architecture, number, arguments) == interpret(
                default, architecture, number, arguments
            )


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(0, 460), st.lists(COMPARISONS, max_size=1), min_size=33, max_size=120),
    st.booleans(),
    st.lists(st.tuples(ARCHITECTURES, NUMBERS, ARGUMENTS), min_size=20, max_size=60),
)
def test_any_filter_of_the_library_says_the_same(
    rules: dict[int, list[seccomp.Comparison]], tree: bool, calls: list[tuple[int, int, list[int]]]
) -> None:
    before = program(rules, tree=tree)
    small = shrink(before)
    assert len(small) <= len(before)
    for architecture, number, arguments in calls:
        expected = interpret(before, architecture, number, arguments)
        assert interpret(small, architecture, number, arguments) == expected
    for number in rules:
        assert interpret(small, AUDIT_X86_64, number) == interpret(before, AUDIT_X86_64, number)


@pytest.mark.parametrize(
    "code",
    [
        struct.pack("=HBBI", 0x06, 0, 0, ALLOW),
        # A test of bits of the number, which is no range.
        b"".join(
            struct.pack("=HBBI", *each)
            for each in [(0x20, 0, 0, 0), (0x45, 0, 1, 1), (0x06, 0, 0, ALLOW), (0x06, 0, 0, DENY)]
        ),
    ],
)
def test_what_is_not_understood_stays_as_it_is(code: bytes) -> None:
    assert shrink(code) == code
