# SPDX-License-Identifier: Apache-2.0
"""Reading logs: lines out of pieces, the tail, moments, and following while a container writes."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.engine.logs import (
    LINE_MAX,
    LineAssembler,
    LogChunk,
    LogReader,
    Selection,
    follow,
    read_lines,
)
from mooring_agent.keeper.logs import Log, OpenFiles
from mooring_agent.linux.inotify import DirectoryWatch

streams = st.sampled_from([1, 2])
texts = st.lists(st.sampled_from([b"\n", b"a", b"bc", b"\r\n", b"\xff\xfe", b"long " * 20]), max_size=30).map(
    b"".join
)


def assembled(chunks: list[LogChunk]) -> list[LogChunk]:
    assembler = LineAssembler()
    return [line for chunk in chunks for line in assembler.feed(chunk)] + list(assembler.rest())


def cut(text: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(text), *(place % (len(text) + 1) for place in places)})
    return [text[start:end] for start, end in itertools.pairwise(edges)]


long_texts = st.lists(
    st.sampled_from([b"\n", b"a", b"x" * (LINE_MAX - 1), b"y" * LINE_MAX, b"z" * (3 * LINE_MAX + 5)]),
    max_size=6,
).map(b"".join)


@given(texts | long_texts, st.lists(st.integers(0, 10 * LINE_MAX), max_size=20))
def test_any_cutting_gives_the_same_lines(text: bytes, places: list[int]) -> None:
    lines = [line.data for line in assembled([LogChunk(1, 1, piece) for piece in cut(text, places)])]
    assert lines == [line.data for line in assembled([LogChunk(1, 1, text)])]
    assert b"".join(lines) == text
    for line, following in itertools.pairwise(lines):
        assert line.endswith(b"\n") or len(line) == LINE_MAX, following
        assert line.count(b"\n") <= 1
        assert len(line) <= LINE_MAX


@given(st.lists(st.tuples(streams, texts), max_size=12))
def test_two_streams_do_not_mix(pieces: list[tuple[int, bytes]]) -> None:
    lines = assembled([LogChunk(number, *piece) for number, piece in enumerate(pieces)])
    for stream in (1, 2):
        written = b"".join(data for number, data in pieces if number == stream)
        assert b"".join(line.data for line in lines if line.stream == stream) == written


def test_a_line_bears_the_time_of_its_beginning() -> None:
    lines = assembled([LogChunk(1, 1, b"be"), LogChunk(2, 1, b"gin\nnext\nre"), LogChunk(3, 1, b"st")])
    assert lines == [LogChunk(1, 1, b"begin\n"), LogChunk(2, 1, b"next\n"), LogChunk(2, 1, b"rest")]


def test_output_without_an_end_of_line_is_not_held() -> None:
    """A progress bar: 64 MiB in pieces of 4 KiB."""
    assembler = LineAssembler()
    piece = LogChunk(1, 1, b"x" * 4096)
    given = sum(len(line.data) for _ in range(16_384) for line in assembler.feed(piece))
    rest = sum(len(line.data) for line in assembler.rest())
    assert given + rest == 64 << 20
    assert rest <= LINE_MAX


@pytest.mark.parametrize(
    ("since", "until", "expected"),
    [
        (None, None, True),
        (1.0, None, True),
        (1.5, None, True),
        (1.6, None, False),
        (None, 1.5, True),
        (None, 1.4, False),
        (1.4, 1.6, True),
    ],
)
def test_moments_are_inclusive(since: float | None, until: float | None, expected: bool) -> None:
    selection = Selection(since=since, until=until)
    assert selection.wants(LogChunk(1_500_000_000, 1, b"")) is expected


def log_of(directory: Path, size: int = 0, files: int = 1000) -> Log:
    return Log(str(directory / "log"), size, files, OpenFiles())


def lines_there(directory: Path, **selection: Any) -> list[tuple[int, bytes]]:
    """The lines that are there, with their streams; nothing of it is left open."""

    async def read() -> list[tuple[int, bytes]]:
        lines = read_lines(str(directory / "log"), Selection(**selection))
        return [(line.stream, line.data) async for line in lines]

    before = len(os.listdir("/proc/self/fd"))
    found = asyncio.run(read())
    assert len(os.listdir("/proc/self/fd")) == before
    return found


pieces = st.lists(
    st.tuples(streams, st.sampled_from([b"\n", b"a\n", b"be", b"gin", b"x\ny\nz", b"long " * 30 + b"\n"])),
    max_size=40,
)


@settings(max_examples=200)
@given(pieces, st.integers(0, 12), st.sampled_from([0, 1, 20, 200]), st.sampled_from([(1, 2), (1,), (2,)]))
def test_the_tail_is_the_last_of_all_lines(
    tmp_path_factory: pytest.TempPathFactory,
    pieces: list[tuple[int, bytes]],
    tail: int,
    size: int,
    wanted: tuple[int, ...],
) -> None:
    """However short the way to it is made: over pieces, streams and segments."""
    directory = tmp_path_factory.mktemp("log")
    log = log_of(directory, size)
    for stream, piece in pieces:
        log.append(piece, stream)
    log.close()
    every = lines_there(directory, streams=wanted)
    assert b"".join(data for stream, data in every if stream == 1) == b"".join(
        data for stream, data in pieces if stream == 1 and 1 in wanted
    )
    found = lines_there(directory, streams=wanted, tail=tail)
    # A line that a rotation has cut, which happens to no line shorter than 64 KiB, would be another matter.
    assert found == every[len(every) - min(tail, len(every)) :]
    shutil.rmtree(directory)


def test_the_tail_goes_on_where_the_follower_begins(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=1)
        for number in range(4):
            log.append(b"line %d\n" % number, 1)
        log.append(b"begun", 1)
        over = False

        def following(reader: LogReader) -> AsyncGenerator[LogChunk]:
            return follow(reader, str(tmp_path / "log"), watch, lambda: over, set())

        lines = read_lines(str(tmp_path / "log"), Selection(tail=2), following)
        found = [(await anext(lines)).data for _ in range(2)]
        log.append(b" and ended\nlast", 1)
        over = True
        found += [line.data async for line in lines]
        assert found == [b"line 2\n", b"line 3\n", b"begun and ended\n", b"last"]
        log.close()

    run(work)


def test_a_line_that_has_no_end_yet_is_one_of_the_tail(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    log.append(b"one\ntwo\nthr", 1)
    log.append(b"ee", 1)
    log.close()
    assert lines_there(tmp_path, tail=2) == [(1, b"two\n"), (1, b"three")]


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    for tail in (None, 0, 5):
        assert lines_there(tmp_path, tail=tail) == []


def test_the_tail_before_a_moment_is_counted_there(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    moments = []
    for number in range(6):
        moments.append(time.time())
        time.sleep(0.002)
        log.append(b"%d\n" % number, 1)
    log.close()
    assert lines_there(tmp_path, tail=2, until=moments[4]) == [(1, b"2\n"), (1, b"3\n")]
    assert lines_there(tmp_path, tail=9, since=moments[3]) == [(1, b"%d\n" % each) for each in (3, 4, 5)]
    assert lines_there(tmp_path, tail=2, since=moments[3]) == [(1, b"4\n"), (1, b"5\n")]


def test_the_tail_of_a_large_log_is_found_at_once(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    for _ in range(40):
        log.append(b"some line of a large log\n" * 40_000, 1)
    for number in range(3):
        log.append(b"%d\n" % number, 2)
    log.close()
    begun = time.process_time()
    assert [data for _, data in lines_there(tmp_path, tail=5)][-3:] == [b"0\n", b"1\n", b"2\n"]
    assert time.process_time() - begun < 0.5


def test_what_is_written_while_it_is_read_does_not_make_reading_endless(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=50, files=3)
        for number in range(10):
            log.append(b"%d\n" % number, 1)
        count = 0
        async for line in read_lines(str(tmp_path / "log"), Selection()):
            log.append(line.data, 1)
            count += 1
            assert count <= 10
        log.close()
        assert count > 0

    run(work)


def test_a_reader_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=10)
        for number in range(20):
            log.append(b"line %d\n" % number, 1)
        log.close()
        for tail in (None, 5):
            lines = read_lines(str(tmp_path / "log"), Selection(tail=tail))
            await anext(lines)
            await lines.aclose()

    run(work)


class Following:
    """A follower of one log, with what it has been given."""

    def __init__(self, directory: Path, watch: DirectoryWatch) -> None:
        self.over = False
        self.wakers: set[asyncio.Event] = set()
        self.given = b""
        self.pause = 0.0
        self._task = asyncio.ensure_future(self._collect(directory, watch))

    async def _collect(self, directory: Path, watch: DirectoryWatch) -> None:
        chunks: AsyncIterator[LogChunk] = follow(
            LogReader(str(directory / "log")), str(directory / "log"), watch, lambda: self.over, self.wakers
        )
        async for chunk in chunks:
            self.given += chunk.data
            if self.pause:
                await asyncio.sleep(self.pause)

    def end(self) -> None:
        self.over = True
        for event in self.wakers:
            event.set()

    async def wait(self) -> bytes:
        await asyncio.wait_for(self._task, 20)
        return self.given

    async def give_up(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


def run(work: Callable[[DirectoryWatch], Awaitable[None]]) -> None:
    async def watched() -> None:
        watch = DirectoryWatch()
        before = len(os.listdir("/proc/self/fd"))
        try:
            await asyncio.wait_for(work(watch), 30)
            assert len(os.listdir("/proc/self/fd")) == before
        finally:
            watch.close()

    asyncio.run(watched())


def test_a_follower_gets_what_is_written_and_ends_with_the_container(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path)
        log.append(b"before ", 1)
        following = Following(tmp_path, watch)
        for _ in range(3):
            await asyncio.sleep(0.02)
            log.append(b"x", 1)
        log.append(b" last", 2)
        following.end()
        assert await following.wait() == b"before xxx last"
        log.close()

    run(work)


def test_a_follower_of_a_container_that_has_ended_gets_all_and_ends(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path)
        log.append(b"all", 1)
        log.close()
        following = Following(tmp_path, watch)
        following.end()
        assert await following.wait() == b"all"

    run(work)


def test_a_follower_outlives_every_rotation(tmp_path: Path) -> None:
    """One segment is kept, a few bytes large: 'follow hangs at rotation' (moby#37646)."""

    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=8, files=1)
        following = Following(tmp_path, watch)
        await asyncio.sleep(0.01)
        for number in range(300):
            log.append(b"line %d\n" % number, 1)
            await asyncio.sleep(0.001)
        following.end()
        assert await following.wait() == b"".join(b"line %d\n" % number for number in range(300))
        log.close()

    run(work)


def test_a_follower_that_is_slow_loses_nothing(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=100, files=2)
        following = Following(tmp_path, watch)
        following.pause = 0.002
        for number in range(400):
            log.append(b"line %d\n" % number, 1)
            await asyncio.sleep(0.0002)
        following.end()
        following.pause = 0
        assert await following.wait() == b"".join(b"line %d\n" % number for number in range(400))
        log.close()

    run(work)


def test_a_follower_that_leaves_leaves_nothing(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path)
        log.append(b"x", 1)
        followings = [Following(tmp_path, watch) for _ in range(3)]
        await asyncio.sleep(0.02)
        assert all(following.wakers for following in followings)
        for following in followings:
            await following.give_up()
        assert not any(following.wakers for following in followings)
        log.close()

    run(work)


def test_many_followers_of_one_log_all_get_it(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        log = log_of(tmp_path, size=1000, files=2)
        followings = [Following(tmp_path, watch) for _ in range(10)]
        await asyncio.sleep(0.02)
        expected = b""
        for number in range(200):
            line = b"a line with the number %d\n" % number
            log.append(line, 1 + number % 2)
            expected += line
            await asyncio.sleep(0.001)
        for following in followings:
            following.end()
        assert [await following.wait() for following in followings] == [expected] * 10
        log.close()

    run(work)
