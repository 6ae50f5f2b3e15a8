# SPDX-License-Identifier: Apache-2.0
"""Lines as messages of syslog and as entries of the journal, byte by byte and by properties."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.syslog_server import parse
from mooring_agent.engine.forwarding import journal, syslog
from mooring_agent.engine.forwarding.origin import Line, Origin

MOMENT = 1_795_699_382_723_602_123
ORIGIN = Origin("a" * 64, "web1", "web:1", "web1/tag", "host", 42, {"com.example": "x"})
LINES = st.builds(
    Line,
    st.integers(0, 2**62),
    st.sampled_from((1, 2)),
    st.binary(max_size=50).map(lambda text: text.replace(b"\n", b"")),
)


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that sets the time zone of this test."""

    def choose(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield choose
    monkeypatch.undo()
    time.tzset()


def encode(options: dict[str, str], line: Line, *, stream: bool = False, secured: bool = False) -> bytes:
    return syslog.encoder(options, ORIGIN, stream=stream, secured=secured)(line)


def test_times_are_local_and_say_so_where_they_can(zone: Callable[[str], None]) -> None:
    zone("UTC-5:30")
    line = Line(MOMENT, 1, b"hello")
    assert b"Nov 26 18:53:02 " in encode({}, line)
    assert b" 2026-11-26T18:53:02+05:30 " in encode({"syslog-format": "rfc5424"}, line)


def test_syslog_by_bytes(zone: Callable[[str], None]) -> None:
    zone("UTC")
    line = Line(MOMENT, 2, b"hello")
    micros = encode({"syslog-format": "rfc5424micro", "syslog-facility": "user"}, line)
    assert micros == b"<11>1 2026-11-26T13:23:02.723602Z host web1/tag 42 web1/tag - hello"
    assert encode({}, line) == b"<27>Nov 26 13:23:02 web1/tag[42]: hello"
    assert encode({"syslog-format": "rfc3164"}, line) == b"<27>Nov 26 13:23:02 host web1/tag[42]: hello"
    assert encode({}, line, stream=True)[-6:] == b"hello\n"
    counted = encode({"syslog-format": "rfc5424"}, line, stream=True, secured=True)
    length, _, message = counted.partition(b" ")
    assert int(length) == len(message)
    assert not message.endswith(b"\n")


@given(
    LINES, st.sampled_from(("rfc5424", "rfc5424micro")), st.text(min_size=1, max_size=80), st.integers(0, 23)
)
def test_any_line_and_tag_make_a_message_of_rfc_5424(
    line: Line, format: str, tag: str, facility: int
) -> None:
    options = {"syslog-format": format, "syslog-facility": str(facility)}
    origin = Origin("a" * 64, "web1", "web:1", tag, "host with spaces", 42, {})
    message = syslog.encoder(options, origin, stream=False, secured=False)(line)
    assert message.endswith(b" - " + line.text)
    read = parse(message[: len(message) - len(line.text)] + b"x", modern=True)
    assert (read.facility, read.severity) == (facility, 6 if line.stream == 1 else 3)


def fields(entry: bytes) -> dict[str, bytes]:
    """Read an entry as the protocol's description has it."""
    found = {}
    while entry:
        head, _, entry = entry.partition(b"\n")
        name, mark, value = head.partition(b"=")
        if not mark:
            (length,) = struct.unpack("<Q", entry[:8])
            value, entry = entry[8 : 8 + length], entry[8 + length :]
            assert entry[:1] == b"\n"
            entry = entry[1:]
        found[name.decode()] = value
    return found


@given(LINES, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), st.booleans())
def test_any_line_is_an_entry_of_the_journal(line: Line, attributes: dict[str, str], partial: bool) -> None:
    origin = Origin("a" * 64, "web1", "web:1", "a\ntag", "host", 42, attributes)
    read = fields(journal.encoder(origin)(Line(line.time_ns, line.stream, line.text, partial)))
    assert read["MESSAGE"] == line.text
    assert read["PRIORITY"] == (b"6" if line.stream == 1 else b"3")
    assert read["CONTAINER_TAG"] == b"a\ntag"
    assert (read.get("CONTAINER_PARTIAL_MESSAGE") == b"true") == partial
    for name in read:
        assert name[0].isalnum()
        assert all(sign.isdigit() or sign.isupper() or sign == "_" for sign in name)


def test_the_fields_of_an_entry() -> None:
    read = fields(journal.encoder(ORIGIN)(Line(MOMENT, 1, b"hello")))
    assert read == {
        "MESSAGE": b"hello",
        "PRIORITY": b"6",
        "SYSLOG_TIMESTAMP": b"2026-11-26T13:23:02.723602123Z",
        "CONTAINER_ID": b"a" * 12,
        "CONTAINER_ID_FULL": b"a" * 64,
        "CONTAINER_NAME": b"web1",
        "CONTAINER_TAG": b"web1/tag",
        "IMAGE_NAME": b"web:1",
        "SYSLOG_IDENTIFIER": b"web1/tag",
        "COM_EXAMPLE": b"x",
    }
