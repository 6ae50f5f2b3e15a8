# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.marks import Clear, Event, FullScreen, Mark, MarkParser, Text

NONCE = "00ff00ff"


def mark(letter: str, value: str = "", detail: str = "", nonce: str = NONCE) -> bytes:
    return f"\x1b]133;{letter};{value};{nonce};{detail}\x07".encode()


def parsed(*chunks: bytes, nonce: str = NONCE) -> list[Event]:
    """All events of the chunks, with adjacent text made one."""
    parser = MarkParser(nonce)
    events = [event for chunk in chunks for event in parser.feed(chunk)] + parser.flush()
    joined: list[Event] = []
    for event in events:
        if isinstance(event, Text) and joined and isinstance(joined[-1], Text):
            joined[-1] = Text(joined[-1].data + event.data)
        else:
            joined.append(event)
    return joined


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(bounds)]


# Bytes as terminals see them: everything, but with far more of what a parser stumbles over.
fragments = (
    *(
        b"\x1b",
        b"\x1b[",
        b"\x1b]",
        b"\x1b]133;",
        b"\x1b\\",
        b"\x07",
        b"\x1bP",
        b"\x1b[?1049h",
        b"\x1b[2J",
        b"\x1b[H",
    ),
    *(
        b"\x1b[J",
        b"\x1b[31m",
        b"\x1b[0;1m",
        b"\x1b[K",
        b"\x1b]0;title\x07",
        b"\r\n",
        "ü€😀".encode(),
        b";",
        b"x" * 99,
    ),
    *(mark("C"), mark("D", "0", "/tmp"), mark("D", "130"), mark("D", "0", "/", nonce="feed")),
)
pieces = st.one_of(st.binary(max_size=12), st.sampled_from(fragments))
streams = st.lists(pieces, max_size=30).map(b"".join)


@given(streams, st.lists(st.integers(min_value=0), max_size=12))
def test_events_do_not_depend_on_where_the_stream_is_cut(data: bytes, places: list[int]) -> None:
    assert parsed(*cut(data, places)) == parsed(data)


@pytest.mark.parametrize("length", [8185, 8186, 8187, 8188, 8189, 8190, 8191, 8192])
def test_the_longest_sequence_is_the_same_however_it_comes(length: int) -> None:
    data = b"a\x1b]" + b"t" * length + b"\x07" + mark("D", "0")
    single = [data[place : place + 1] for place in range(8150, len(data))]
    assert parsed(data[:8150], *single) == parsed(data)


@given(streams)
def test_a_mark_of_ours_is_found_behind_anything(noise: bytes) -> None:
    events = parsed(noise + mark("D", "3", "/var/lib;x"))
    assert events[-1] == Mark("D", "3", "/var/lib;x")


@given(st.text().map(lambda text: text.encode("utf-8", "ignore").replace(b"\x1b", b"")))
def test_text_without_escapes_passes_unchanged(data: bytes) -> None:
    assert b"".join(event.data for event in parsed(data) if isinstance(event, Text)) == data


def test_marks_tell_their_parts() -> None:
    assert parsed(mark("A", "base64 stty", "/bin/sh") + mark("C") + b"out" + mark("D", "0", "/a;b")) == [
        Mark("A", "base64 stty", "/bin/sh"),
        Mark("C", "", ""),
        Text(b"out"),
        Mark("D", "0", "/a;b"),
    ]


@pytest.mark.parametrize(
    "foreign",
    [
        mark("D", "0", nonce="other"),
        b"\x1b]133;D;0\x07",
        b"\x1b]133;A\x1b\\",
        b"\x1b]0;title\x07",
        b"\x1b]8;;http://x\x1b\\",
    ],
)
def test_marks_of_others_are_taken_out_and_mean_nothing(foreign: bytes) -> None:
    assert parsed(b"a" + foreign + b"b") == [Text(b"ab")]


@pytest.mark.parametrize("mode", [b"47", b"1047", b"1049", b"25;1049"])
def test_the_alternate_screen_is_told(mode: bytes) -> None:
    assert parsed(b"\x1b[?" + mode + b"h") == [FullScreen()]
    assert parsed(b"\x1b[?" + mode + b"l") == []


@pytest.mark.parametrize("sequence", [b"\x1b[2J", b"\x1b[H\x1b[J", b"\x1b[1;1H\x1b[0J", b"\x1b[3J"])
def test_clearing_the_screen_is_told(sequence: bytes) -> None:
    assert parsed(b"a" + sequence + b"b") == [Text(b"a"), Clear(), Text(b"b")]


def test_erasing_below_is_no_clearing_unless_the_cursor_is_at_home() -> None:
    assert parsed(b"\x1b[Ha\x1b[Jb") == [Text(b"ab")]


def test_colours_stay_and_cursor_movements_go() -> None:
    data = b"\x1b[1;31mred\x1b[0m\x1b[5;10H\x1b[?25l\x1b[2A\x1b(B\x1b=done\x1b[K"
    assert parsed(data) == [Text(b"\x1b[1;31mred\x1b[0mdone\x1b[K")]


def test_what_never_ends_is_text_after_all() -> None:
    assert parsed(b"\x1b]" + b"t" * 9000) == [Text(b"\x1b]" + b"t" * 9000)]
    assert parsed(b"a\x1b[3") == [Text(b"a\x1b[3")]


def test_text_is_not_held_back_by_a_sequence_that_has_only_begun() -> None:
    parser = MarkParser(NONCE)
    assert parser.feed(b"50%\x1b[3") == [Text(b"50%")]
    assert parser.feed(b"1mred") == [Text(b"\x1b[31mred")]
