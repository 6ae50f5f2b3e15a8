# SPDX-License-Identifier: Apache-2.0
"""Messages between agent and keeper: each comes back as it went, and nothing else is taken for one."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.keeper import messages
from mooring_agent.keeper.messages import BadMessage, decode, encode

values = {
    "str": st.text(max_size=20),
    "int": st.integers(-(2**63), 2**64),
    "bool": st.booleans(),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "list[str]": st.lists(st.text(max_size=5), max_size=3),
    "list[int]": st.lists(st.integers(), max_size=3),
    "dict[str, Any]": st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=3),
}
# What becomes a part of a path.
names = st.text(st.characters(codec="utf-8", exclude_characters="/\0."), min_size=1, max_size=20)
every = st.one_of(
    *(
        st.builds(
            kind,
            **{
                name: names if name in ("id", "container", "slot") else values[annotation]
                for name, annotation in kind.__annotations__.items()
            },
        )
        for kind in messages.Message.__args__
    )
)
json_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
almost = st.tuples(
    st.sampled_from([kind.__name__ for kind in messages.Message.__args__]) | json_data,
    json_data,
    json_data | st.dictionaries(st.sampled_from(["id", "slot", "pid", "number", "protocol"]), json_data),
)


@given(every, st.integers(0, 2**62))
def test_a_message_comes_back_as_it_went(message: messages.Message, seq: int) -> None:
    assert decode(encode(message, seq)) == (seq, message)


def test_a_field_at_its_default_is_not_sent() -> None:
    assert json.loads(encode(messages.Hello(version="1"), 3)) == ["Hello", 3, {"version": "1"}]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"id": 5, "number": 9}, "id is of type int, expected str"),
        ({"id": "x", "number": "9"}, "number is of type str, expected int"),
        ({"id": "x", "number": True}, "number is of type bool, expected int"),
        ({"id": "../../etc/passwd", "number": 9}, "expected a name"),
        ({"id": "..", "number": 9}, "expected a name"),
        ({"id": "", "number": 9}, "expected a name"),
    ],
)
def test_a_field_of_the_wrong_type_and_a_name_that_is_a_path_are_refused(
    content: dict[str, Any], what: str
) -> None:
    with pytest.raises(BadMessage, match=what):
        decode(json.dumps(["Signal", 4, content]).encode())


def test_what_a_newer_side_has_added_is_passed_over() -> None:
    packet = b'["Signal", 4, {"id": "x", "number": 9, "gently": true}]'
    assert decode(packet) == (4, messages.Signal("x", 9))


def test_a_message_of_a_newer_side_is_refused_by_its_number() -> None:
    with pytest.raises(BadMessage, match="'Fold', which this side does not know") as refused:
        decode(b'["Fold", 7, {}]')
    assert refused.value.seq == 7


@given(
    st.one_of(
        st.binary(), almost.map(lambda value: json.dumps(value).encode()), json_data.map(str).map(str.encode)
    )
)
def test_anything_else_is_a_bad_message(packet: bytes) -> None:
    try:
        seq, message = decode(packet)
    except BadMessage:
        return
    assert type(seq) is int
    assert isinstance(message, messages.Message.__args__)


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"[]",
        b"null",
        b'["Hello", 0]',
        b'["Nobody", 0, {}]',
        b'["Hello", "x", {}]',
        b'["Hello", 1e999, {}]',
        b'["Hello", NaN, {}]',
        b'["Hello", 0, []]',
        b'["Release", 0, {}]',
        b'[["Hello"], 0, {}]',
        b"\xff\xfe",
        b"[" * 60_000,
        b'["Hello", ' + b"1" * 10_000 + b", {}]",
    ],
    ids=lambda packet: repr(packet[:24]),
)
def test_these_are_bad_messages(packet: bytes) -> None:
    with pytest.raises(BadMessage, match=f"packet of {len(packet)} bytes"):
        decode(packet)


def test_a_memory_file_is_read_from_its_start_and_closed() -> None:
    content = os.urandom(3 << 20)
    descriptor = messages.memory_file(content)
    assert messages.read_memory_file(descriptor) == content
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_an_exec_of_the_largest_size_fits_into_a_packet() -> None:
    """Only plans and lists may be long; they travel beside the packet."""
    longest: dict[str, Any] = {"id": "f" * 64, "container": "f" * 64}
    packet = encode(messages.Exec(**longest, terminal=True, stdin=True, stdout=True, stderr=True), 2**62)
    assert len(packet) < messages.PACKET_MAX
