# SPDX-License-Identifier: Apache-2.0
"""Descriptors of pipes and terminals as asynchronous streams, read no faster than their reader takes it."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable

from ..linux.inotify import DirectoryWatch
from .container import Container
from .logs import LogReader, begun, follow

_PIECE = 64 << 10
_PIPE_CAPACITY = 64 << 10  # pipe(7)
# How long output of processes left in the background is waited for once the main one has ended.
_LINGER = 0.2
# How long after its start a container may take to say something before its log is shown empty.
_FIRST_WORDS = 0.25


async def first_words(container: Container, directory: str, watch: DirectoryWatch) -> None:
    """Wait for the first output of a container that has just been started, or its end, but not for long.

    A start is answered as soon as the process runs. Whoever asks for the log then, as clients of slower
    engines do, wants what a process writes at once, and would come too early by some milliseconds.
    """
    if not container.running or container.started_at is None:
        return
    left = container.started_at + _FIRST_WORDS - time.time()
    if 0 < left <= _FIRST_WORDS:
        await begun(directory, watch, lambda: not container.running, container.wakers, left)


class DescriptorWriter:
    """Writes to a descriptor without blocking the event loop."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        os.set_blocking(descriptor, False)

    async def write(self, data: bytes) -> None:
        """Write all of it, as fast as the other side takes it; silently nothing once the other side
        is gone.
        """
        view = memoryview(data)
        while view and self.descriptor >= 0:
            try:
                view = view[os.write(self.descriptor, view) :]
            except BlockingIOError:
                await _ready(self.descriptor, write=True)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO, errno.EBADF):
                    return
                raise

    def close(self) -> None:
        """Close it, once."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class ExecStreams:
    """The streams of an exec. `ended` resolves to the exit code."""

    def __init__(
        self,
        *,
        tty: bool,
        stdin: int,
        outputs: dict[int, int],
        ended: asyncio.Future[int],
        on_stdin_closed: Callable[[], Awaitable[None]],
    ) -> None:
        self.tty = tty
        self._writer = DescriptorWriter(stdin) if stdin >= 0 else None
        self._outputs = outputs
        self._ended = ended
        self._on_stdin_closed = on_stdin_closed
        self.closed = False
        for descriptor in outputs.values():
            os.set_blocking(descriptor, False)

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(stream, bytes) until the process has ended and its output is read.

        What it has written is in the pipes when it ends: not more than they hold is read after that, so that
        processes which it has left in the background cannot make this endless. Its exit code is known at the
        end, for whoever asks for it then.
        """
        left = _PIPE_CAPACITY * len(self._outputs)
        while self._outputs and left > 0:
            over = self._ended.done()
            got = False
            for stream, descriptor in list(self._outputs.items()):
                piece = _read(descriptor)
                if piece:
                    got = True
                    left -= len(piece) if over else 0
                    yield stream, piece
                elif piece is not None:
                    os.close(self._outputs.pop(stream))
            if got:
                continue
            if over and not await self._more_soon():
                return
            if self._outputs and not over:
                await self._readable_or_ended(None)
        await self.wait()

    async def write(self, data: bytes) -> None:
        """Write to its standard input."""
        if self._writer is not None:
            await self._writer.write(data)

    async def close_stdin(self) -> None:
        """Let it read the end of its standard input. A terminal has no such end."""
        if self._writer is not None and not self.tty:
            self._writer.close()
            self._writer = None
            await self._on_stdin_closed()

    async def wait(self) -> int:
        """The exit code."""
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        """Give up all descriptors; the process goes on."""
        self.closed = True
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        for descriptor in self._outputs.values():
            os.close(descriptor)
        self._outputs.clear()

    async def _until_ended(self) -> None:
        await asyncio.shield(self._ended)

    async def _more_soon(self) -> bool:
        return bool(self._outputs) and await self._readable_or_ended(_LINGER)

    async def _readable_or_ended(self, timeout: float | None) -> bool:
        waits = [asyncio.ensure_future(_ready(descriptor)) for descriptor in self._outputs.values()]
        if not self._ended.done():
            waits.append(asyncio.ensure_future(self._until_ended()))
        try:
            done, _ = await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return bool(done)
        finally:
            for one in waits:
                one.cancel()
            await asyncio.gather(*waits, return_exceptions=True)


class Attachment:
    """A client attached to a container: output by following the log, input straight to its pipe or
    terminal.
    """

    def __init__(
        self,
        container: Container,
        directory: str,
        watch: DirectoryWatch,
        *,
        logs: bool,
        stream: bool,
        streams: tuple[int, ...],
        stdin: Callable[[], Awaitable[int]] | None,
        close_stdin: Callable[[], Awaitable[None]],
    ) -> None:
        self.tty = container.spec.tty
        self._container = container
        self._directory = directory
        self._watch = watch
        self._logs, self._stream = logs, stream
        self._streams = streams
        self._open_stdin = stdin
        self._close_stdin = close_stdin
        self._writer: DescriptorWriter | None = None
        self._closed = False
        self._reader = LogReader(directory)
        # A container that has yet to start is attached to so that nothing of what it will write is missed.
        self._awaits_start = container.status == "created"
        if not logs:
            self._reader.skip_to_end()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """(1 or 2, bytes) until the container has ended and all is delivered."""
        if self._logs and not self._stream:
            await first_words(self._container, self._directory, self._watch)
        async for chunk in follow(
            self._reader, self._directory, self._watch, self._over, self._container.wakers
        ):
            if chunk.stream in self._streams:
                yield chunk.stream, chunk.data

    async def write(self, data: bytes) -> None:
        """Write to the container's standard input; nothing happens where it has none."""
        if self._writer is None and self._open_stdin is not None:
            await self._started()
            descriptor = await self._open_stdin()
            self._writer = DescriptorWriter(descriptor) if descriptor >= 0 else None
            if self._closed and self._writer is not None:
                self._writer.close()  # the client has left while the descriptor was on its way
        if self._writer is not None:
            await self._writer.write(data)

    async def close_stdin(self) -> None:
        """Let the container read the end of its standard input, unless that is a terminal."""
        if self._open_stdin is None or self.tty:
            return
        await self._started()
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._open_stdin = None
        await self._close_stdin()

    def close(self) -> None:
        """Detach; the container goes on."""
        self._closed = True
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _over(self) -> bool:
        if self._awaits_start and self._container.status != "created":
            self._awaits_start = False
        if self._awaits_start and not self._container.removed:
            return not self._stream
        return not self._stream or self._container.status not in ("running", "paused", "restarting")

    async def _started(self) -> None:
        """Wait for a start that is under way or to come."""
        container = self._container
        if container.status == "created":
            await container.until(lambda: container.status != "created" or container.removed)


def _read(descriptor: int) -> bytes | None:
    """A piece; empty at the end; None when there is nothing at the moment."""
    try:
        return os.read(descriptor, _PIECE)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno == errno.EIO:  # every slave of the terminal is closed, pty(7)
            return b""
        raise


async def _ready(descriptor: int, *, write: bool = False) -> None:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def ready() -> None:
        if not future.done():
            future.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if write else (loop.add_reader, loop.remove_reader)
    add(descriptor, ready)
    try:
        await future
    finally:
        remove(descriptor)
