# SPDX-License-Identifier: Apache-2.0
"""The process that inflates: what comes out of it, its errors, its end."""

from __future__ import annotations

import gzip
import hashlib
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images.pipeline import Inflater
from mooring_agent.images.stream import CHUNK, Compression

PLAIN = os.urandom(CHUNK) * 40 + b"the end"  # more than all slots hold


@contextmanager
def fed(data: bytes) -> Iterator[int]:
    """A pipe that `data` comes through."""
    source, sink = os.pipe()

    def feed() -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(sink, view) :]
        except BrokenPipeError:
            pass
        os.close(sink)

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield source
    finally:
        os.close(source)
        thread.join()


@pytest.fixture
def inflater() -> Iterator[Inflater]:
    inflater = Inflater(os.open("/dev/null", os.O_RDONLY))
    yield inflater
    inflater.close()
    _, status = os.waitpid(inflater.pid, 0)
    assert status in (0, 1 << 8, signal.SIGKILL)


@pytest.mark.parametrize("compression", [Compression.GZIP, Compression.NONE])
def test_stream_after_stream(inflater: Inflater, compression: Compression) -> None:
    for plain in (PLAIN, b"", b"short", PLAIN[:-3]):
        with fed(gzip.compress(plain, 1) if compression is Compression.GZIP else plain) as source:
            assert b"".join(map(bytes, inflater.read(source, compression))) == plain
        assert inflater.hexdigest() == hashlib.sha256(plain).hexdigest()


def test_a_piece_stays_as_it_is_until_the_next_is_asked_for(inflater: Inflater) -> None:
    with fed(PLAIN) as source:
        position = 0
        for piece in inflater.read(source, Compression.NONE):
            assert piece == PLAIN[position : position + len(piece)]
            position += len(piece)
    assert position == len(PLAIN)


def test_damaged_data_are_told_behind_what_came_before_them(inflater: Inflater) -> None:
    packed = gzip.compress(PLAIN, 1)[:-4] + b"1234"
    found: list[int] = []
    with fed(packed) as source, pytest.raises(InvalidSpec, match="gzip data is damaged"):
        found.extend(map(len, inflater.read(source, Compression.GZIP)))
    assert sum(found) > len(PLAIN) // 2


def test_a_source_that_cannot_be_read_is_told(inflater: Inflater) -> None:
    directory = os.open("/", os.O_RDONLY)
    with pytest.raises(IsADirectoryError):
        list(inflater.read(directory, Compression.NONE))
    os.close(directory)


def test_a_killed_process_is_told(inflater: Inflater) -> None:
    with fed(PLAIN) as source, pytest.raises(Unavailable, match=rf"{inflater.pid}, was killed"):
        [os.kill(inflater.pid, signal.SIGKILL) for piece in inflater.read(source, Compression.NONE)]
