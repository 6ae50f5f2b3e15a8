# SPDX-License-Identifier: Apache-2.0
"""Carrying bytes between a hijacked connection and a process: an attachment to a container, or an exec."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from typing import Protocol

from .messages import ClientDisconnected, RawStream

# Stream type, three zero bytes, length: "Attach to a container", stream format, of the Docker Engine API.
_FRAME = struct.Struct(">BxxxI")


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


def frame(stream: int, data: bytes) -> bytes:
    """One frame of the multiplexed stream: 1 is stdout, 2 stderr."""
    return _FRAME.pack(stream, len(data)) + data


async def carry(raw: RawStream, process: ProcessStreams, *, framed: bool, stdin: bool) -> None:
    """Carry until the process ends or the client leaves.

    The client's end-of-file closes the process's standard input and leaves its output flowing, so that
    `echo x | docker run -i … cat` gets its answer.
    """
    inward = asyncio.create_task(_inward(raw, process if stdin else None))
    try:
        async for stream, data in process.output():
            await raw.write(frame(stream, data) if framed else data)
    finally:
        inward.cancel()
        process.close()
        await asyncio.gather(inward, return_exceptions=True)


async def _inward(raw: RawStream, process: ProcessStreams | None) -> None:
    """Read the client to its end; without `process` only to notice that it went away."""
    try:
        while data := await raw.read():
            if process is not None:
                await process.write(data)
        if process is not None:
            await process.close_stdin()
    except (ClientDisconnected, BrokenPipeError):
        return  # the other direction notices for itself
