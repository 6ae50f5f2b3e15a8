# SPDX-License-Identifier: Apache-2.0
"""JSON of clients: what nothing could take is no JSON; found by asking every call for it."""

from __future__ import annotations

import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.jsontext import parsed

whole = st.integers(-(1 << 63), (1 << 64) - 1)
scalars = st.none() | st.booleans() | whole | st.floats(allow_nan=False, allow_infinity=False) | st.text()
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))


@given(values)
def test_what_json_can_say_is_read_as_it_is(value: object) -> None:
    assert parsed(json.dumps(value)) == value
    assert parsed(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(text: bytes) -> None:
    try:
        json.dumps(parsed(text), ensure_ascii=False).encode()
    except ValueError:
        pass


@given(st.binary())
def test_arguments_that_are_no_utf8_pass(argument: bytes) -> None:
    text = os.fsdecode(argument)
    assert os.fsencode(parsed(json.dumps([text]))[0]) == argument


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "NaN", "[-Infinity]", "1e400", "9" * 20, "-9223372036854775809", "9" * 5000),
        *('"\\ud800"', '{"\\ud800":1}', b"\xff", b'"\xed\xa0\x80"', "[]".encode("utf-16"), "[" * 100_000),
    ],
)
def test_what_nothing_could_take_is_refused(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parsed(text)
