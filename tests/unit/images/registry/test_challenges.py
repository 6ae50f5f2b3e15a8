# SPDX-License-Identifier: Apache-2.0
"""Challenges of RFC 9110, 11.6.1."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.registry.auth import Challenge, parse_challenges

TOKEN = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters

name = st.text(TOKEN, min_size=1, max_size=8)
value = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=20)
challenges = st.lists(
    st.builds(
        Challenge, name.map(str.lower), st.dictionaries(name.map(str.lower), value, min_size=1, max_size=4)
    ),
    max_size=4,
)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def written(challenge: Challenge) -> str:
    return f"{challenge.scheme} " + ", ".join(f"{k}={quoted(v)}" for k, v in challenge.parameters.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("Basic", [Challenge("basic")]),
        ('Basic realm="a, b"', [Challenge("basic", {"realm": "a, b"})]),
        (
            'Bearer realm="https://a/token",service="r",scope="repository:x:pull,push"',
            [
                Challenge(
                    "bearer", {"realm": "https://a/token", "service": "r", "scope": "repository:x:pull,push"}
                )
            ],
        ),
        (
            'Basic realm="x", Bearer realm = y , error=invalid_token',
            [
                Challenge("basic", {"realm": "x"}),
                Challenge("bearer", {"realm": "y", "error": "invalid_token"}),
            ],
        ),
        ("Negotiate, Basic realm=x", [Challenge("negotiate"), Challenge("basic", {"realm": "x"})]),
        (
            "Negotiate oYG2MIGz==, Basic realm=x",
            [Challenge("negotiate"), Challenge("basic", {"realm": "x"})],
        ),
        (",, Basic ,, realm=x,", [Challenge("basic", {"realm": "x"})]),
        (r'Basic realm="a\"b\\c"', [Challenge("basic", {"realm": r'a"b\c'})]),
        ('Basic realm="not closed', [Challenge("basic")]),
        ("=, Basic realm=x", []),
    ],
)
def test_challenges_are_told_apart(text: str, expected: list[Challenge]) -> None:
    assert parse_challenges([text]) == expected


@given(challenges)
def test_what_is_written_is_read(given: list[Challenge]) -> None:
    assert parse_challenges([", ".join(map(written, given))]) == given
    assert parse_challenges(map(written, given)) == given


@given(st.text(max_size=60))
def test_anything_is_read_without_an_error(text: str) -> None:
    for challenge in parse_challenges([text]):
        assert challenge.scheme == challenge.scheme.lower() != ""
