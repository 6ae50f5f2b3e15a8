# SPDX-License-Identifier: Apache-2.0
"""Layers unpacked in a process beside the agent: the same results, the same errors, nothing left over."""

from __future__ import annotations

import errno
import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.waiting import eventually, has_died
from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images import sharing, unpacking
from mooring_agent.images.layers import Limits, apply_layer
from mooring_agent.images.sharing import SharedTurns
from mooring_agent.images.stream import Compression, decompress
from mooring_agent.images.unpacking import SMALL, unpack_layer
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle
from unit.images.archives import archive, directory, in_pieces, link, member

PIECE = 100_000
NOISE = os.urandom(SMALL)  # does not get smaller by packing
LAYER = archive(
    directory("usr"), member("usr/big", data=NOISE), link("link", "usr"), member("usr/s", data=b"1")
)


def target(place: Path) -> UnpackTarget:
    place.mkdir(exist_ok=True)
    return UnpackTarget(place, WhiteoutStyle.OVERLAY, ())


def workers() -> list[int]:
    """The processes that unpack for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and b"mooring unpacker" in (entry / "cmdline").read_bytes():
                status = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(status[1]) == os.getpid() and status[0] != "Z":
                    found.append(int(entry.name))
        except OSError:
            continue
    return found


def end_idle(processes: unpacking._Processes) -> None:
    """End those that wait for a layer, as they do when they have waited for long."""
    for process, timer in list(processes._idle):
        timer.cancel()
        processes._retire(process)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes of the test's own, which end soon after it: not before, however slow the test is."""
    processes = unpacking._Processes()
    monkeypatch.setattr(unpacking, "_processes", processes)
    yield
    end_idle(processes)
    eventually(lambda: not workers(), 10, "the end of the processes that unpacked")


@pytest.mark.parametrize("compression", [Compression.NONE, Compression.GZIP, Compression.ZSTD])
def test_it_is_the_same_wherever_it_is_unpacked(tmp_path: Path, compression: Compression) -> None:
    packed = {
        Compression.NONE: lambda: LAYER,
        Compression.GZIP: lambda: gzip.compress(LAYER, 1),
        Compression.ZSTD: lambda: subprocess.run(["zstd", "-c"], input=LAYER, capture_output=True).stdout,
    }[compression]()
    here = apply_layer(decompress(in_pieces(packed, PIECE), compression), target(tmp_path / "here"))
    there = unpack_layer(in_pieces(packed, PIECE), target(tmp_path / "there"), compression)
    assert len(workers()) == 1
    assert here == there
    looks = "find * -printf '%p %y %m %U %G %s %T@ %l\\n' | sort; sha256sum usr/big"
    listings = [
        subprocess.run(["sh", "-c", looks], cwd=tmp_path / name, capture_output=True, check=True).stdout
        for name in ("here", "there")
    ]
    assert listings[0] == listings[1]


def test_a_small_layer_needs_no_process(tmp_path: Path) -> None:
    data = gzip.compress(archive(member("a", data=b"1")))
    assert unpack_layer(iter([data]), target(tmp_path / "t"), Compression.GZIP).entries == 1
    assert workers() == []


def test_a_process_is_used_again_and_ends_when_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "one"), Compression.NONE)
    (first,) = workers()
    monkeypatch.setattr(unpacking, "_IDLE", 0.2)
    unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "two"), Compression.NONE)
    assert workers() in ([first], [])
    eventually(lambda: not workers(), 10, "the end of the idle process")
    unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "three"), Compression.NONE)
    assert workers() != [first]


def test_all_others_come_before_it(tmp_path: Path) -> None:
    unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "one"), Compression.NONE)
    (worker,) = workers()
    children = Path(f"/proc/{worker}/task/{worker}/children").read_text().split()
    assert len(children) == 1, "inflating has a process of its own"
    for pid in (worker, int(children[0])):
        assert os.getpriority(os.PRIO_PROCESS, pid) >= 15
        assert os.sched_getscheduler(pid) == os.SCHED_BATCH
    end_idle(unpacking._processes)
    eventually(lambda: has_died(int(children[0])), 10, "the end of the process that inflates")


def test_a_killed_idle_process_is_replaced(tmp_path: Path) -> None:
    unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "one"), Compression.NONE)
    (first,) = workers()
    os.kill(first, signal.SIGKILL)
    eventually(lambda: not workers(), 10, "the end of the killed process")
    assert unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "two"), Compression.NONE).entries == 4


def test_without_a_process_it_is_unpacked_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(unpacking.subprocess, "Popen", full)
        found = unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "t"), Compression.NONE)
    assert found == apply_layer(iter([LAYER]), target(tmp_path / "other"))
    assert "no process that unpacks layers comes up" in caplog.text


@pytest.mark.parametrize(
    ("data", "compression", "limits", "words"),
    [
        (LAYER[:-100_000], Compression.NONE, None, "truncated"),
        (archive(member("x", data=NOISE), member("../y", data=NOISE)), Compression.NONE, None, "leads out"),
        (gzip.compress(LAYER, 1)[:-500], Compression.GZIP, None, "truncated"),
        (gzip.compress(LAYER, 1)[:-4] + b"1234", Compression.GZIP, None, "damaged"),
        (LAYER, Compression.NONE, Limits(file_bytes=1000), "more than the limit of 1000"),
        (gzip.compress(bytes(64 << 20)) * 20, Compression.GZIP, Limits(trailing_bytes=1), "follow the end"),
    ],
)
def test_errors_are_the_same(
    tmp_path: Path, data: bytes, compression: Compression, limits: Limits | None, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=words):
        unpack_layer(in_pieces(data, PIECE), target(tmp_path / "t"), compression, limits)
    eventually(lambda: not workers(), 10, "the end of a process that met an error")


def test_an_error_of_the_source_comes_through_and_ends_the_process(tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield from in_pieces(LAYER[: SMALL + 1000], PIECE)
        raise Unavailable("the registry is gone")

    with pytest.raises(Unavailable, match="the registry is gone"):
        unpack_layer(source(), target(tmp_path / "t"), Compression.NONE)
    assert workers() == []


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    def source() -> Iterator[bytes]:
        yield from in_pieces(LAYER[: SMALL + 1000], PIECE)
        (worker,) = workers()
        os.kill(worker, signal.SIGKILL)
        yield from in_pieces(LAYER[SMALL + 1000 :], PIECE)

    with pytest.raises(Unavailable, match=r"ended with -9.*try again"):
        unpack_layer(source(), target(tmp_path / "t"), Compression.NONE)
    assert workers() == []


def test_a_process_that_is_stuck_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "_STALL", 0.5)
    stopped = []

    def source() -> Iterator[bytes]:
        yield from in_pieces(LAYER[: SMALL + 1000], PIECE)
        stopped.extend(workers())
        os.kill(stopped[0], signal.SIGSTOP)
        yield from in_pieces(NOISE * 4, PIECE)

    with pytest.raises(Unavailable, match="got nowhere for"):
        unpack_layer(source(), target(tmp_path / "t"), Compression.NONE)
    assert workers() == []


def test_it_goes_when_the_agent_is_killed(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from mooring_agent.images.unpacking import unpack_layer
from mooring_agent.images.stream import Compression
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

def source():
    yield open(sys.argv[1], "rb").read()
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    print(*children, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

unpack_layer(source(), UnpackTarget(Path(sys.argv[2]), WhiteoutStyle.OVERLAY, ()), Compression.NONE)
"""
    (tmp_path / "layer").write_bytes(LAYER[: SMALL + 1000])
    (tmp_path / "t").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "layer"), str(tmp_path / "t")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    (worker,) = done.stdout.split()

    def gone() -> bool:
        try:
            return "mooring unpacker" not in Path(f"/proc/{worker}/cmdline").read_text()
        except OSError:
            return True

    eventually(gone, 10, "the end of the process that unpacked for a killed agent")


def test_several_layers_at_once(tmp_path: Path) -> None:
    results = []

    def work(number: int) -> None:
        found = unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / str(number)), Compression.NONE)
        results.append(found.diff_id)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert len(set(results)) == 1


class Stalling:
    """A layer whose bytes stop coming until `go` is set; `stalls` is set by then."""

    def __init__(self) -> None:
        self.stalls, self.go = threading.Event(), threading.Event()

    def pieces(self) -> Iterator[bytes]:
        pieces = list(in_pieces(LAYER, PIECE))
        yield from pieces[:-1]
        self.stalls.set()
        assert self.go.wait(60)
        yield pieces[-1]


def test_layers_that_do_not_come_are_in_nobodys_way(tmp_path: Path) -> None:
    stalling = [Stalling() for _ in range((os.cpu_count() or 1) + 1)]
    with ThreadPoolExecutor() as pool:
        try:
            works = [
                pool.submit(unpack_layer, each.pieces(), target(tmp_path / f"s{number}"), Compression.NONE)
                for number, each in enumerate(stalling)
            ]
            for each in stalling:
                assert each.stalls.wait(30), "each has had a turn, though none has come to its end"
            there = unpack_layer(in_pieces(LAYER, PIECE), target(tmp_path / "whole"), Compression.NONE)
            assert not any(work.done() for work in works)
        finally:
            for each in stalling:
                each.go.set()
        assert [work.result(30) for work in works] == [there] * len(works)


def test_who_works_keeps_the_turn() -> None:
    turns = SharedTurns(1, 0.3)
    with turns.turn(), pytest.raises(Unavailable, match="try again later"), turns.turn():
        pass
    with turns.turn() as first:
        chunks = first.watched(iter([b"1", b"2"]))
        assert next(chunks) == b"1"
        with pytest.raises(Unavailable), turns.turn():
            pass
        assert next(chunks) == b"2", "it has kept it"


def test_a_turn_that_was_taken_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_STALLED", 0.0)
    turns, comes = SharedTurns(1, 30.0), threading.Event()

    def slow() -> Iterator[bytes]:
        assert comes.wait(30)
        yield b"1"

    got: list[bytes] = []

    def read() -> None:
        with turns.turn() as turn:
            got.extend(turn.watched(slow()))

    reader = threading.Thread(target=read)
    reader.start()
    with turns.turn():
        comes.set()
        reader.join(0.3)
        assert got == [], "it has to wait for its turn"
    reader.join(30)
    assert got == [b"1"]
