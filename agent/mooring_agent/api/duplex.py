# SPDX-License-Identifier: Apache-2.0
"""Carrying bytes between a hijacked connection and a process: an attachment to a container, or an exec."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from typing import Protocol

from .messages import ClientDisconnected, RawStream

# Stream type, three zero bytes, length: "Attach to a container", stream format, of the Docker Engine API.
_FRAME = struct.Struct(">BxxxI")
# How long a process may take to read what a client had sent that has left.
_REST_SECONDS = 5.0


class ProcessStreams(Protocol):
    """What attachments and execs have in common."""

    tty: bool

    def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """Stream 1 or 2 and raw bytes; ends when the process has ended and all is delivered."""
        ...

    async def write(self, data: bytes) -> None:
        """Bytes for its standard input; waits while it does not read."""
        ...

    async def close_stdin(self) -> None:
        """It gets end-of-file."""
        ...

    def close(self) -> None:
        """Nobody listens any more."""
        ...


class Detach(Protocol):
    """Looks for the keys that detach a terminal."""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were typed."""
        ...


def frame(stream: int, data: bytes) -> bytes:
    """One frame of the multiplexed stream: 1 is stdout, 2 stderr."""
    return _FRAME.pack(stream, len(data)) + data


async def carry(
    raw: RawStream,
    process: ProcessStreams,
    *,
    framed: bool,
    stdin: bool,
    close_stdin: bool = True,
    detach: Detach | None = None,
    listens: Callable[[], bool] = lambda: True,
) -> bool:
    """Carry until the process ends, the client leaves, or what `detach` looks for is typed.

    `listens` tells of a client whose input has ended whether it still takes output.

    True if the process has said everything.

    The client's end-of-file closes the process's standard input (with `close_stdin`) and leaves its output
    flowing, so that `echo x | docker run -i … cat` gets its answer.
    """
    outward = asyncio.create_task(_outward(raw, process, framed))
    inward = asyncio.create_task(_inward(raw, process if stdin else None, close_stdin, detach, listens))
    try:
        await asyncio.wait((outward, inward, raw.left), return_when=asyncio.FIRST_COMPLETED)
        if not outward.done() and inward.done() and not inward.result():
            await asyncio.wait((outward, raw.left), return_when=asyncio.FIRST_COMPLETED)
        if outward.done() and not isinstance(outward.exception(), ClientDisconnected):
            await outward
            return True
        # The client detaches or has left. What it had sent before that is delivered.
        await asyncio.wait((inward,), timeout=_REST_SECONDS)
        return False
    finally:
        outward.cancel()
        inward.cancel()
        process.close()
        await asyncio.gather(outward, inward, return_exceptions=True)


async def _outward(raw: RawStream, process: ProcessStreams, framed: bool) -> None:
    async for stream, data in process.output():
        await raw.write(frame(stream, data) if framed else data)


async def _inward(
    raw: RawStream,
    process: ProcessStreams | None,
    close_stdin: bool,
    detach: Detach | None,
    listens: Callable[[], bool],
) -> bool:
    """Read the client to its end; without `process` only to notice that. True when it is done with all."""
    try:
        while data := await raw.read():
            detached = False
            if detach is not None:
                data, detached = detach.feed(data)
            if process is not None and data:
                await process.write(data)
            if detached:
                return True
        if process is not None and close_stdin:
            await process.close_stdin()
    except ClientDisconnected:
        return True
    return not listens()
