# SPDX-License-Identifier: Apache-2.0
"""What a container writes comes out of its log byte for byte: the keeper's writing side and the engine's
reading side together, over rotations, crashes and full disks.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.forked import in_child
from mooring_agent.engine.logs import LogChunk, LogReader
from mooring_agent.keeper.logs import INDEX, SUFFIXES, Log, OpenFiles, segments

STREAMS = (1, 2)
MANY = 1 << 20  # segments: more than any test makes


@dataclass
class Container:
    """A log with the two pipes that fill it, and what went into each."""

    directory: str
    size: int = 0
    files: int = 3
    written: dict[int, bytes] = field(default_factory=lambda: {1: b"", 2: b""})

    def __post_init__(self) -> None:
        self.pipes = {stream: os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) for stream in STREAMS}
        self.cache = OpenFiles(limit=1)
        self.log = Log(self.directory, self.size, self.files, self.cache)
        # Another log that takes the place in the cache every now and then.
        self.other = Log(f"{self.directory}-other", 0, 3, self.cache)

    def write(self, stream: int, data: bytes) -> None:
        """What the container does."""
        self.written[stream] += data
        os.write(self.pipes[stream][1], data)

    def move(self, stream: int) -> int:
        """What the keeper does when a pipe is readable."""
        return self.log.move(self.pipes[stream][0], stream)

    def drain(self, stream: int) -> None:
        """The same until the pipe is empty."""
        while self.move(stream):
            pass

    def append(self, stream: int, data: bytes) -> None:
        """What the keeper does with a terminal's output."""
        self.written[stream] += data
        self.log.append(data, stream)

    def limits(self, size: int, files: int) -> None:
        self.size, self.files = size, files
        self.log.limit(size, files)

    def evict(self) -> None:
        self.other.append(b"x", 1)

    def crash(self) -> None:
        """The keeper is killed, and another one goes on."""
        self._let_go()
        self.cache = OpenFiles(limit=1)
        self.log = Log(self.directory, self.size, self.files, self.cache)
        self.other = Log(f"{self.directory}-other", 0, 3, self.cache)

    def crash_before_index(self, stream: int, data: bytes, torn: bytes = b"") -> None:
        """It is killed when a piece is in the file and not yet in the index, or only half of the entry."""
        last = (segments(self.directory) or [0])[-1]
        for suffix, content in ((SUFFIXES[stream], data), ("idx", torn)):
            with open(f"{self.directory}/{last}.{suffix}", "ab") as file:
                file.write(content)
        self.written[stream] += data
        self.crash()

    def finish(self, after_each: Callable[[], None]) -> None:
        for stream in STREAMS:
            while self.move(stream):
                after_each()

    def close(self) -> None:
        self._let_go()
        for pair in self.pipes.values():
            for descriptor in pair:
                os.close(descriptor)

    def _let_go(self) -> None:
        self.log.close()
        self.other.close()
        for descriptor in self.cache._scratch or ():  # a keeper has it for life
            os.close(descriptor)


class Follower:
    """A reader that has seen everything from some moment on."""

    def __init__(self, directory: str) -> None:
        self.reader = LogReader(directory)
        self.chunks: list[LogChunk] = []

    def read(self) -> None:
        self.chunks += self.reader.read()

    def seen(self, stream: int) -> bytes:
        return b"".join(chunk.data for chunk in self.chunks if chunk.stream == stream)

    def order(self) -> list[tuple[int, bytes]]:
        """The pieces, with those of one stream that follow each other put together."""
        together: list[tuple[int, bytes]] = []
        for chunk in self.chunks:
            if together and together[-1][0] == chunk.stream:
                together[-1] = (chunk.stream, together[-1][1] + chunk.data)
            else:
                together.append((chunk.stream, chunk.data))
        return together


@pytest.fixture
def container(tmp_path: Path) -> Iterator[Container]:
    made = Container(str(tmp_path / "log"))
    yield made
    made.close()


def everything(directory: str) -> Follower:
    follower = Follower(directory)
    follower.read()
    follower.reader.close()
    return follower


streams = st.sampled_from(STREAMS)
data = st.one_of(
    st.binary(min_size=1, max_size=40),
    st.lists(st.sampled_from([b"\n", b"a", b"line\n", b"\xff"]), min_size=1, max_size=20).map(b"".join),
    st.integers(1, 5000).map(lambda count: (b"0123456789\n" * 500)[:count]),
)
limits = st.tuples(st.sampled_from([0, 1, 2, 10, 64, 1000]), st.integers(1, 4))
actions = st.one_of(
    st.tuples(st.just("write"), streams, data),
    st.tuples(st.just("write"), streams, data),
    st.tuples(st.just("move"), streams),
    st.tuples(st.just("move"), streams),
    st.tuples(st.just("append"), streams, data),
    st.tuples(st.just("limits"), limits.map(lambda pair: pair[0]), st.integers(1, 4)),
    st.tuples(st.just("evict")),
    st.tuples(st.just("crash")),
    st.tuples(st.just("crash_before_index"), streams, data, st.binary(max_size=INDEX.size - 1)),
)


@settings(max_examples=250)
@given(limits, st.lists(actions, max_size=40))
def test_every_byte_is_read_in_order_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, limit: tuple[int, int], steps: list[tuple[Any, ...]]
) -> None:
    """The follower reads after every step, so no rotation takes anything from it."""
    directory = tmp_path_factory.mktemp("logs")
    container = Container(str(directory / "log"))
    follower = Follower(container.directory)
    try:
        container.append(1, b"begin")
        follower.read()
        container.limits(*limit)
        for name, *arguments in steps:
            if name in ("append", "crash_before_index"):
                # What goes to the files straight away comes before what is still in a pipe.
                container.finish(follower.read)
            if name == "append":
                stream, piece = arguments
                for line in piece.splitlines(keepends=True):  # each may fill a segment
                    container.append(stream, line)
                    follower.read()
            else:
                getattr(container, name)(*arguments)
            follower.read()
        container.finish(follower.read)
        follower.read()
        for stream in STREAMS:
            assert follower.seen(stream) == container.written[stream]
        late = everything(container.directory)
        for stream in STREAMS:
            assert container.written[stream].endswith(late.seen(stream))
        assert len(segments(container.directory)) <= container.files
        assert container.log.lost == 0
    finally:
        follower.reader.close()
        container.close()
        shutil.rmtree(directory)


@given(st.lists(st.tuples(streams, data), max_size=30))
def test_both_streams_keep_their_order_among_each_other(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[tuple[int, bytes]]
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    container = Container(str(directory / "log"), 100, MANY)
    expected: list[tuple[int, bytes]] = []
    for stream, piece in pieces:
        container.write(stream, piece)
        container.drain(stream)
        if expected and expected[-1][0] == stream:
            expected[-1] = (stream, expected[-1][1] + piece)
        else:
            expected.append((stream, piece))
    follower = everything(container.directory)
    assert follower.order() == expected
    assert [chunk.time_ns for chunk in follower.chunks] == sorted(chunk.time_ns for chunk in follower.chunks)
    container.close()
    shutil.rmtree(directory)


@given(st.lists(data, min_size=1, max_size=30), st.integers(1, 200), st.integers(1, 4))
def test_a_log_is_bounded_and_holds_the_latest(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], size: int, files: int
) -> None:
    directory = tmp_path_factory.mktemp("logs")
    container = Container(str(directory / "log"), size, files)
    for piece in pieces:
        container.write(1, piece)
        container.drain(1)
    late = everything(container.directory).seen(1)
    assert container.written[1].endswith(late)
    assert len(late) >= min(len(container.written[1]), size * (files - 1))
    assert len(segments(container.directory)) <= files
    container.close()
    shutil.rmtree(directory)


@given(
    st.lists(st.tuples(streams, st.integers(1, 3000)), min_size=1, max_size=60),
    st.integers(1, 2000),
    st.integers(1, 5),
    st.booleans(),
)
def test_sizes_and_counts_are_exact(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[tuple[int, int]],
    size: int,
    files: int,
    terminal: bool,
) -> None:
    """Whatever the pieces are: each segment but the last ends with the very line that fills it."""
    directory = tmp_path_factory.mktemp("logs")
    container = Container(str(directory / "log"), size, files)
    for stream, length in lines:
        line = b"x" * (length - 1) + b"\n"
        if terminal:
            container.append(1, line)
        else:
            container.write(stream, line)
            if length % 3:
                container.finish(lambda: None)
    container.finish(lambda: None)
    numbers = segments(container.directory)
    total = sum(length for _, length in lines)
    assert len(numbers) <= files
    for number in numbers[:-1]:
        contents = [
            Path(f"{container.directory}/{number}.{SUFFIXES[stream]}").read_bytes() for stream in STREAMS
        ]
        written = sum(map(len, contents))
        longest = max(len(line) for content in contents for line in content.splitlines(keepends=True))
        assert size <= written < size + longest
        assert any(content.endswith(b"\n") for content in contents)
    kept = sum(
        os.path.getsize(f"{container.directory}/{numbers[-1]}.{SUFFIXES[stream]}") for stream in STREAMS
    )
    assert kept < size or total < size
    container.close()
    shutil.rmtree(directory)


def test_fewer_segments_are_kept_as_soon_as_that_is_said(container: Container) -> None:
    container.limits(10, MANY)
    for number in range(20):
        container.append(1, b"line number %d\n" % number)
    assert len(segments(container.directory)) == 21
    container.limits(10, 4)
    assert len(segments(container.directory)) == 4
    assert everything(container.directory).seen(1) == b"".join(b"line number %d\n" % n for n in (17, 18, 19))


def test_what_a_killed_keeper_has_not_removed_goes_with_the_next(container: Container) -> None:
    container.limits(10, MANY)
    for number in range(20):
        container.append(1, b"line number %d\n" % number)
    container.files = 4
    container.crash()
    container.log.mend()
    assert len(segments(container.directory)) == 4


def test_a_segment_ends_with_a_line(container: Container) -> None:
    container.limits(100, MANY)
    for _ in range(50):
        container.write(1, b"a line that is cut in ")
        container.drain(1)
        container.write(1, b"two\n")
        container.drain(1)
    numbers = segments(container.directory)
    assert len(numbers) > 5
    for number in numbers:
        content = Path(f"{container.directory}/{number}.out").read_bytes()
        assert content == b"" or content.endswith(b"\n")


def test_a_line_without_an_end_does_not_grow_a_segment_for_ever(container: Container) -> None:
    container.limits(1000, 2)
    for _ in range(300):
        container.write(1, b"x" * 4096)
        container.drain(1)
    kept = sum(path.stat().st_size for path in Path(container.directory).iterdir())
    assert kept < 2 * (1000 + (64 << 10) + 4096) + 4096


def test_an_empty_pipe_moves_nothing(container: Container) -> None:
    assert container.move(1) == 0
    assert everything(container.directory).chunks == []


def test_a_closed_pipe_moves_nothing(container: Container) -> None:
    container.write(1, b"last")
    os.close(container.pipes[1][1])
    assert container.move(1) == 4
    assert container.move(1) == 0
    container.pipes[1] = (container.pipes[1][0], os.open("/dev/null", os.O_WRONLY))


def test_a_reader_that_skips_to_the_end_sees_what_follows(container: Container) -> None:
    container.limits(10, MANY)
    container.append(1, b"before\n")
    container.append(2, b"also before")
    follower = Follower(container.directory)
    follower.reader.skip_to_end()
    follower.read()
    assert follower.chunks == []
    container.append(1, b"after 1\n")
    container.append(2, b"after 2\n")
    container.append(1, b"after 3\n")
    follower.read()
    follower.reader.close()
    assert follower.order() == [(1, b"after 1\n"), (2, b"after 2\n"), (1, b"after 3\n")]


def test_a_reader_may_come_before_the_log(tmp_path: Path) -> None:
    follower = Follower(str(tmp_path / "later"))
    follower.reader.skip_to_end()
    follower.read()
    assert follower.chunks == []
    container = Container(str(tmp_path / "later"))
    container.append(2, b"first")
    follower.read()
    follower.reader.close()
    container.close()
    assert follower.order() == [(2, b"first")]


def test_a_reader_that_is_too_slow_goes_on_with_what_is_there(container: Container) -> None:
    container.limits(10, 2)
    follower = Follower(container.directory)
    container.append(1, b"begin\n")
    follower.read()
    for number in range(40):
        container.append(1, b"line %d here\n" % number)
    follower.read()
    follower.reader.close()
    seen = follower.seen(1).splitlines()
    assert seen[0] == b"begin"
    assert seen[-1] == b"line 39 here"
    rest = [int(line.split()[1]) for line in seen[1:]]
    assert rest == sorted(rest)


@pytest.mark.parametrize("missing", ["idx", "out", "err"])
def test_segments_that_vanish_while_they_are_opened_are_passed_over(
    container: Container, missing: str
) -> None:
    """Rotation takes the three files of a segment one after the other."""
    container.limits(1, MANY)
    for number in range(3):
        container.append(1, b"%d\n" % number)
    container.limits(0, MANY)
    for number in range(3, 6):
        container.append(1, b"%d\n" % number)
    follower = Follower(container.directory)
    os.unlink(f"{container.directory}/0.{missing}")
    last = f"{container.directory}/{segments(container.directory)[-1]}.{missing}"
    os.rename(last, f"{container.directory}/aside")
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        follower.read()
    assert follower.seen(1) == b"1\n2\n"
    assert len(os.listdir("/proc/self/fd")) == descriptors + 3
    os.rename(f"{container.directory}/aside", last)
    follower.read()
    follower.reader.close()
    assert follower.seen(1) == b"1\n2\n3\n4\n5\n"


@pytest.mark.parametrize("left", ["out", "err", "idx"])
def test_a_rotation_that_was_cut_off_is_finished_by_the_next(container: Container, left: str) -> None:
    container.limits(1, MANY)
    for number in range(2):
        container.append(1, b"%d\n" % number)
    container.files = 2
    for suffix in {"out", "err", "idx"} - {left}:
        os.unlink(f"{container.directory}/0.{suffix}")
    container.crash()
    for number in range(4):
        container.append(1, b"%d\n" % number)
    names = {name.split(".")[0] for name in os.listdir(container.directory)}
    assert len(names) == 2
    assert "0" not in names


@pytest.mark.parametrize("torn", [b"", b"\0" * 5])
def test_what_a_killed_keeper_had_moved_is_shown_before_more_comes(container: Container, torn: bytes) -> None:
    container.append(1, b"before\n")
    container.crash_before_index(2, b"moved, not indexed\n", torn)
    container.log.mend()
    assert everything(container.directory).order() == [(1, b"before\n"), (2, b"moved, not indexed\n")]


def test_a_log_holds_no_more_descriptors_than_its_cache(tmp_path: Path) -> None:
    cache = OpenFiles(limit=4)
    logs = [Log(str(tmp_path / str(number)), 10, 2, cache) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        for log in logs:
            log.append(b"some line\n", 1)
    assert len(os.listdir("/proc/self/fd")) == before + 4 * 3
    for log in logs:
        log.close()
    assert len(os.listdir("/proc/self/fd")) == before
    for number in range(20):
        assert everything(str(tmp_path / str(number))).seen(1).endswith(b"some line\n")


@pytest.mark.parametrize("room", [0, 5, 16, 40, 47, 48, 100, 400])
@pytest.mark.parametrize("way", ["move", "append"])
def test_a_full_disk_loses_pieces_and_nothing_else(tmp_path: Path, room: int, way: str) -> None:
    """No file may grow beyond `room` bytes for a while; the keeper must go on, and say what was lost."""

    def work() -> list[Any]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        container = Container(str(tmp_path / "log"))
        container.append(1, b"before\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        pieces = [b"piece %d\n" % number for number in range(60)]
        for piece in pieces:
            if way == "move":
                os.write(container.pipes[1][1], piece)
                while container.move(1):
                    pass
            else:
                container.log.append(piece, 1)
        lost = container.log.lost
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        container.append(1, b"after\n")
        container.crash()
        container.append(1, b"and after a crash\n")
        seen = everything(container.directory).seen(1)
        return [seen.decode(), lost, sum(map(len, pieces))]

    seen, lost, offered = in_child(work)
    assert seen.startswith("before\n")
    assert seen.endswith("after\nand after a crash\n")
    kept = len(seen) - len("before\nafter\nand after a crash\n")
    assert kept + lost == offered
    assert lost > 0
    whole = "".join(f"piece {number}\n" for number in range(60))
    assert seen[len("before\n") :][: kept // 2] in whole


def test_a_log_whose_directory_was_taken_away_stops_nobody(container: Container) -> None:
    container.append(1, b"before\n")
    container.log.close()
    shutil.rmtree(container.directory)
    container.write(1, b"to nowhere\n")
    assert container.move(1) == len(b"to nowhere\n")
    container.log.append(b"to nowhere\n", 2)
    assert container.log.lost == 2 * len(b"to nowhere\n")
