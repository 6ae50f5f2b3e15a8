# SPDX-License-Identifier: Apache-2.0
"""What of a log is sent: each line once, in order, whatever is read at a time, sent again, or restarted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.engine.forwarding.backlog import (
    BEGINNING,
    Backlog,
    end_of,
    load_places,
    save_places,
)
from mooring_agent.engine.forwarding.origin import Line
from mooring_agent.keeper.logs import Log, OpenFiles

PIECES = st.lists(
    st.tuples(
        st.sampled_from((1, 2)), st.lists(st.sampled_from((b"a", b"bc", b"\n", b"d" * 900)), max_size=9)
    ),
    max_size=40,
)


@pytest.fixture
def cache() -> Iterator[OpenFiles]:
    """Return open files, none of which is left open."""
    with tempfile.TemporaryDirectory():
        yield OpenFiles()


def texts(lines: list[Line], stream: int) -> bytes:
    return b"".join(
        line.text if line.partial else line.text + b"\n" for line in lines if line.stream == stream
    )


def drain(backlog: Backlog, size: int) -> list[Line]:
    lines: list[Line] = []
    while batch := backlog.read(size).lines:
        lines += batch
    return lines


@settings(max_examples=200, deadline=None)
@given(PIECES, st.integers(1, 4000), st.data())
def test_every_byte_is_sent_once_whatever_is_committed(
    pieces: list[tuple[int, list[bytes]]], size: int, data: st.DataObject
) -> None:
    """Batches are committed, taken back, or committed and read by another reader that starts there."""
    with tempfile.TemporaryDirectory() as base:
        cache = OpenFiles()
        log = Log(f"{base}/log", 4096, 1000, cache)
        written = {1: b"", 2: b""}
        taken: list[Line] = []
        backlog = Backlog(f"{base}/log", f"{base}/sent")
        for stream, parts in [*pieces, (1, [b"\n"]), (2, [b"\n"])]:
            piece = b"".join(parts)
            log.append(piece, stream)
            written[stream] += piece
            batch = backlog.read(size)
            fate = data.draw(st.sampled_from(("commit", "rewind", "restart")))
            if fate == "rewind":
                backlog.rewind()
                continue
            taken += batch.lines
            backlog.commit(batch.after)
            if fate == "restart":
                backlog = Backlog(f"{base}/log", f"{base}/sent")
        while (batch := backlog.read(size)).lines:
            taken += batch.lines
            backlog.commit(batch.after)
        log.close()
        assert {stream: texts(taken, stream) for stream in (1, 2)} == written


@pytest.mark.parametrize("taken", [10, 1023, 1024, 2500, 4000])
def test_what_is_sent_of_a_long_segment_is_passed_by(tmp_path: Path, taken: int) -> None:
    log = Log(f"{tmp_path}/log", 1 << 20, 3, OpenFiles())
    lines = [(number % 3 // 2 + 1, b"%d" % number) for number in range(4000)]
    for stream, text in lines:
        log.append(text + b"\n", stream)
    log.close()
    backlog = Backlog(f"{tmp_path}/log", f"{tmp_path}/sent")
    sent: list[Line] = []
    while len(sent) < taken:
        batch = backlog.read(1)
        sent += batch.lines
        backlog.commit(batch.after)
    for reader in (backlog, Backlog(f"{tmp_path}/log", f"{tmp_path}/sent")):
        reader.rewind()
        assert [(line.stream, line.text) for line in drain(reader, 100)] == lines[len(sent) :]
        assert reader.read(100).after == end_of(f"{tmp_path}/log")


def test_a_line_without_its_end_is_sent_when_nobody_goes_on_with_it(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log", 0, 3, OpenFiles())
    log.append(b"one\ntwo", 1)
    log.append(b"err", 2)
    backlog = Backlog(f"{tmp_path}/log", f"{tmp_path}/sent")
    first = backlog.read(1000)
    assert [line.text for line in first.lines] == [b"one"]
    rest = backlog.rest()
    assert [(line.stream, line.text, line.partial) for line in rest.lines] == [
        (1, b"two", False),
        (2, b"err", False),
    ]
    backlog.commit(rest.after)
    assert rest.after == end_of(f"{tmp_path}/log")
    log.append(b"more\n", 1)
    log.close()
    assert [line.text for line in drain(Backlog(f"{tmp_path}/log", f"{tmp_path}/sent"), 100)] == [b"more"]


def test_a_long_line_comes_in_parts_that_say_so(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log", 0, 3, OpenFiles())
    log.append(b"x" * 40_000 + b"\n", 1)
    log.close()
    parts = drain(Backlog(f"{tmp_path}/log", f"{tmp_path}/sent"), 1 << 20)
    assert [len(part.text) for part in parts] == [16384, 16384, 40_000 - 32768]
    assert [part.partial for part in parts] == [True, True, False]


def test_what_was_rotated_away_is_told_and_the_rest_is_sent(tmp_path: Path) -> None:
    log = Log(f"{tmp_path}/log", 4096, 2, OpenFiles())
    backlog = Backlog(f"{tmp_path}/log", f"{tmp_path}/sent")
    log.append(b"%0100d\n" % 0, 1)
    assert len(drain(backlog, 1000)) == 1
    for number in range(1, 400):
        log.append(b"%0100d\n" % number, 1)
    log.close()
    numbers = [int(line.text) for line in drain(backlog, 1000)]
    assert backlog.lost > 0
    assert numbers == list(range(numbers[0], 400))
    assert 0 < len(numbers) < 100


def test_places_that_are_not_whole_are_none(tmp_path: Path) -> None:
    path = f"{tmp_path}/sent"
    assert load_places(path) == BEGINNING
    save_places(path, ((3, 4), (5, 6)))
    assert load_places(path) == ((3, 4), (5, 6))
    with open(path, "r+b") as file:
        file.write(b"x")
    assert load_places(path) == BEGINNING
    os.truncate(path, 10)
    assert load_places(path) == BEGINNING


def test_a_container_that_has_written_nothing_has_nothing_to_send(tmp_path: Path) -> None:
    backlog = Backlog(f"{tmp_path}/log", f"{tmp_path}/sent")
    assert backlog.read(1000).lines == []
    assert backlog.rest().lines == []
    assert end_of(f"{tmp_path}/log") == BEGINNING
