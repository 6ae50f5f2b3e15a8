# SPDX-License-Identifier: Apache-2.0
"""Slow work beside the event loop: shared by who asks for it, given up when all have left."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from harness.waiting import PATIENCE
from mooring_agent.engine import uploads
from mooring_agent.engine.imageworkers import ImageWorkers, SharedWork, streamed
from mooring_agent.engine.uploads import Upload, taken_in
from mooring_agent.errors import NotFound, Unavailable
from mooring_agent.images.image import Progress, ProgressEvent

_LIMIT = 10.0


def test_two_who_ask_for_the_same_share_the_work_and_its_progress() -> None:
    async def scenario() -> None:
        shared: SharedWork[str] = SharedWork()
        begun, go = asyncio.Event(), asyncio.Event()
        runs = 0

        async def work(tell: Progress) -> str:
            nonlocal runs
            runs += 1
            begun.set()
            await go.wait()
            tell(ProgressEvent("download", 1, 2))
            return "done"

        seen: list[list[ProgressEvent]] = [[], []]
        both = [asyncio.ensure_future(shared.run("key", work, events.append)) for events in seen]
        await asyncio.wait_for(begun.wait(), _LIMIT)
        go.set()
        assert await asyncio.gather(*both) == ["done", "done"]
        assert runs == 1
        assert seen == [[ProgressEvent("download", 1, 2)]] * 2
        assert await shared.run("key", work) == "done"
        assert runs == 2

    asyncio.run(scenario())


def test_shared_work_ends_when_the_last_has_left() -> None:
    async def scenario() -> None:
        shared: SharedWork[None] = SharedWork()
        begun, ended = asyncio.Event(), asyncio.Event()

        async def work(tell: Progress) -> None:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()

        first, second = (asyncio.ensure_future(shared.run("key", work)) for _ in range(2))
        await asyncio.wait_for(begun.wait(), _LIMIT)
        first.cancel()
        await asyncio.wait([first], timeout=_LIMIT)
        assert not ended.is_set()
        second.cancel()
        await asyncio.wait_for(ended.wait(), _LIMIT)

    asyncio.run(scenario())


def test_each_who_waits_gets_an_error_of_its_own() -> None:
    async def scenario() -> None:
        shared: SharedWork[None] = SharedWork()

        async def work(tell: Progress) -> None:
            await asyncio.sleep(0)  # so that both wait
            raise NotFound("no such image: web", code="unknown")

        both = [shared.run("key", work) for _ in range(2)]
        first, second = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(first, NotFound)
        assert isinstance(second, NotFound)
        first.put_before("container web1: ")
        second.put_before("container web2: ")
        assert (first.message, first.code) == ("container web1: no such image: web", "unknown")
        assert (str(second), second.code) == ("container web2: no such image: web", "unknown")

    asyncio.run(scenario())


def test_a_thread_is_told_that_nobody_waits_any_more() -> None:
    async def scenario() -> None:
        workers = ImageWorkers()
        begun, told = threading.Event(), threading.Event()

        def work(cancelled: threading.Event) -> None:
            begun.set()
            if cancelled.wait(_LIMIT):
                told.set()

        waiting = asyncio.ensure_future(workers.run(work))
        assert await asyncio.to_thread(begun.wait, _LIMIT)
        waiting.cancel()
        assert await asyncio.to_thread(told.wait, _LIMIT)
        begun.clear()
        told.clear()
        other = asyncio.ensure_future(workers.run(work))
        assert await asyncio.to_thread(begun.wait, _LIMIT)
        await workers.close()
        assert told.is_set()
        await other

    asyncio.run(scenario())


def test_a_stream_is_closed_when_its_reader_leaves() -> None:
    async def scenario() -> None:
        closed = threading.Event()

        def chunks() -> Iterator[bytes]:
            try:
                while True:
                    yield bytes(1 << 20)
            finally:
                closed.set()

        pieces = streamed(chunks())
        assert len(await anext(pieces)) == 1 << 20
        await pieces.aclose()  # type: ignore[attr-defined]
        assert closed.is_set()

    asyncio.run(scenario())


def test_an_upload_reaches_its_reader_or_tells_why_not() -> None:
    async def scenario() -> None:
        async def chunks(fail: bool) -> AsyncIterator[bytes]:
            for number in range(100):
                yield bytes([number])
            if fail:
                raise ConnectionError("the client went away")

        def read(upload: Upload) -> bytes:
            return b"".join(upload.pieces())

        async def reader(upload: Upload) -> bytes:
            return await asyncio.to_thread(read, upload)

        assert await taken_in(chunks(False), reader) == bytes(range(100))
        with pytest.raises(ConnectionError):
            await taken_in(chunks(True), reader)

    asyncio.run(scenario())


async def stalling(*pieces: bytes) -> AsyncIterator[bytes]:
    """An upload that brings nothing any more, and does not end."""
    for piece in pieces:
        yield piece
    await asyncio.Event().wait()


def test_an_upload_that_brings_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "_STALLED", 0.2)
    got: list[bytes] = []

    def read(upload: Upload) -> None:
        for piece in upload.pieces():
            got.append(piece)

    async def scenario() -> None:
        with pytest.raises(Unavailable, match="brought nothing"):
            await asyncio.wait_for(taken_in(stalling(b"1"), lambda it: asyncio.to_thread(read, it)), _LIMIT)

    asyncio.run(scenario())
    assert got == [b"1"]


def test_only_the_time_without_a_byte_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow upload, and one whose reader takes its time, last as long as they last."""
    monkeypatch.setattr(uploads, "_STALLED", 0.4 * PATIENCE)

    async def slowly() -> AsyncIterator[bytes]:
        for _ in range(6):
            await asyncio.sleep(0.1 * PATIENCE)
            yield b"1"
        for _ in range(64):
            yield b"2"

    def read(upload: Upload) -> int:
        count = 0
        for piece in upload.pieces():
            if piece == b"2" and not count:
                threading.Event().wait(0.8 * PATIENCE)
            count += piece == b"2"
        return count

    async def scenario() -> None:
        assert (
            await asyncio.wait_for(taken_in(slowly(), lambda it: asyncio.to_thread(read, it)), _LIMIT) == 64
        )

    asyncio.run(scenario())


def test_a_reader_that_has_failed_waits_for_no_more_of_the_upload() -> None:
    async def scenario() -> None:
        def read(upload: Upload) -> None:
            assert next(upload.pieces()) == b"1"
            raise NotFound("no such thing")

        with pytest.raises(NotFound):
            await asyncio.wait_for(taken_in(stalling(b"1"), lambda it: asyncio.to_thread(read, it)), _LIMIT)

    asyncio.run(scenario())


def test_a_reader_that_ends_with_the_last_piece_leaves_no_error_behind() -> None:
    wrong: list[dict[str, object]] = []

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: wrong.append(context))
        work: asyncio.Future[None] = loop.create_future()

        async def chunks() -> AsyncIterator[bytes]:
            yield b"1"
            work.set_result(None)

        await Upload().feed(chunks(), work)
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert wrong == []
