# SPDX-License-Identifier: Apache-2.0
"""The streams of an exec over plain pipes, with stand-ins for the process and the keeper."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress

from mooring_agent.engine.streams import DescriptorWriter, ExecStreams

LIMIT = 15.0
LARGE = 3 << 20


class Process:
    """What a process has of an exec: the other ends of its pipes."""

    def __init__(self, *, stdin: bool = False) -> None:
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        out, self.stdout = os.pipe()
        err, self.stderr = os.pipe()
        self.stdin, writer = os.pipe() if stdin else (-1, -1)
        self.told_of_stdin = 0
        self.streams = ExecStreams(
            tty=False,
            stdin=writer,
            outputs={1: out, 2: err},
            ended=self.ended,
            on_stdin_closed=self._stdin_closed,
        )

    async def _stdin_closed(self) -> None:
        self.told_of_stdin += 1

    def end(self, code: int = 0, *, close: bool = True) -> None:
        """Its pipes are closed before its end is known, unless somebody else has them open."""
        if close:
            self.close()
        self.ended.set_result(code)

    def close(self) -> None:
        for name in ("stdin", "stdout", "stderr"):
            if getattr(self, name) >= 0:
                os.close(getattr(self, name))
                setattr(self, name, -1)

    async def output(self) -> dict[int, bytes]:
        found = {1: b"", 2: b""}
        async for stream, piece in self.streams.output():
            found[stream] += piece
        return found


def run(work: Callable[[], Awaitable[None]]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    asyncio.run(asyncio.wait_for(work(), LIMIT))
    assert len(os.listdir("/proc/self/fd")) == before


def test_both_streams_come_apart_and_whole() -> None:
    async def work() -> None:
        process = Process()
        os.write(process.stdout, b"out")
        os.write(process.stderr, b"err")
        process.end(7)
        assert await process.output() == {1: b"out", 2: b"err"}
        assert await process.streams.wait() == 7
        process.streams.close()

    run(work)


def test_output_is_read_while_it_is_written() -> None:
    async def work() -> None:
        process = Process()
        collecting = asyncio.ensure_future(process.output())
        for _ in range(3):
            os.write(process.stdout, b"x")
            await asyncio.sleep(0.01)
        assert not collecting.done()
        process.end()
        assert (await collecting)[1] == b"xxx"

    run(work)


def test_nothing_is_lost_to_a_slow_reader() -> None:
    async def work() -> None:
        process = Process()
        writing = threading.Thread(target=fill, args=(process.stdout, LARGE))
        writing.start()
        size = 0
        async for _, piece in process.streams.output():
            size += len(piece)
            await asyncio.sleep(0.001)
            if not process.ended.done() and not writing.is_alive():
                process.end()
        writing.join()
        assert size == LARGE

    run(work)


def fill(descriptor: int, size: int) -> None:
    while size:
        size -= os.write(descriptor, b"x" * min(size, 1 << 16))


def test_streams_that_end_first_wait_for_the_exit_code() -> None:
    async def work() -> None:
        process = Process()
        process.close()
        collecting = asyncio.ensure_future(process.output())
        await asyncio.sleep(0.02)
        assert not collecting.done()
        process.end(5, close=False)
        await collecting
        assert await process.streams.wait() == 5

    run(work)


def test_what_was_written_before_the_end_is_read_after_it() -> None:
    async def work() -> None:
        process = Process()
        os.write(process.stdout, b"o" * 65536)
        os.write(process.stderr, b"e" * 65536)
        process.end(close=False)
        found = await process.output()
        assert {stream: len(data) for stream, data in found.items()} == {1: 65536, 2: 65536}
        process.streams.close()
        process.close()

    run(work)


def test_a_process_left_in_the_background_does_not_hold_the_end_up() -> None:
    """`sh -c 'sleep 1000 &'`: it has the pipes open, and says nothing."""

    async def work() -> None:
        process = Process()
        os.write(process.stdout, b"last words")
        process.end(close=False)
        assert (await process.output())[1] == b"last words"
        process.streams.close()
        process.close()

    run(work)


def test_a_process_left_in_the_background_that_floods_does_not_either() -> None:
    """`sh -c 'yes &'`: what the exec itself has written is in the pipe when it ends, and that is all."""

    async def work() -> None:
        process = Process()
        stop = threading.Event()

        def flood() -> None:
            with suppress(BrokenPipeError):
                while not stop.is_set():
                    os.write(process.stdout, b"y\n" * 2048)

        os.write(process.stdout, b"last words")
        flooding = threading.Thread(target=flood)
        flooding.start()
        try:
            process.end(close=False)
            found = await asyncio.wait_for(process.output(), 5)
            assert found[1].startswith(b"last words")
        finally:
            stop.set()
            process.streams.close()
            flooding.join()
            process.close()

    run(work)


def test_input_goes_through_and_its_end_is_told() -> None:
    async def work() -> None:
        process = Process(stdin=True)
        reading = asyncio.get_running_loop().run_in_executor(None, drain, process.stdin)
        await process.streams.write(b"x" * LARGE)
        await process.streams.close_stdin()
        await process.streams.close_stdin()
        assert await reading == LARGE
        assert process.told_of_stdin == 1
        process.end()
        await process.output()
        process.streams.close()

    run(work)


def drain(descriptor: int) -> int:
    size = 0
    while piece := os.read(descriptor, 1 << 16):
        size += len(piece)
    return size


def test_input_to_a_process_that_has_gone_is_dropped() -> None:
    async def work() -> None:
        process = Process(stdin=True)
        process.end()
        await process.streams.write(b"x" * LARGE)
        await process.streams.close_stdin()
        process.streams.close()

    run(work)


def test_a_write_that_waits_can_be_given_up() -> None:
    async def work() -> None:
        process = Process(stdin=True)
        writing = asyncio.ensure_future(process.streams.write(b"x" * LARGE))
        await asyncio.sleep(0.02)
        assert not writing.done()
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        process.end()
        process.streams.close()

    run(work)


def test_a_follower_that_waits_can_be_given_up() -> None:
    async def work() -> None:
        process = Process()
        collecting = asyncio.ensure_future(process.output())
        await asyncio.sleep(0.02)
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
        process.streams.close()
        process.streams.close()
        process.end()

    run(work)


def test_a_writer_that_is_closed_writes_nothing() -> None:
    async def work() -> None:
        reader, writer = os.pipe()
        stream = DescriptorWriter(writer)
        stream.close()
        stream.close()
        await stream.write(b"x")
        assert os.read(reader, 1) == b""
        os.close(reader)

    run(work)
