# SPDX-License-Identifier: Apache-2.0
"""The raw stream of a connection that was taken over, to the last byte of a client that has left."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import sys
import termios
from collections.abc import Awaitable, Callable

from .inflow import Inflow

# How long the first raw bytes wait for the client to read the head before them, and how often we look.
HEAD_SECONDS = 1.0
HEAD_POLL_SECONDS = 0.0002


class TakenOver:
    """`messages.RawStream`: reads from `inflow`, writes with `send`. `left` is done when the client has."""

    __slots__ = ("_head_taken", "_inflow", "_send", "_transport", "left")

    def __init__(
        self,
        inflow: Inflow,
        send: Callable[[bytes], Awaitable[None]],
        transport: asyncio.Transport,
        left: asyncio.Future[None],
    ) -> None:
        self._inflow = inflow
        self._send = send
        self._transport = transport
        self._head_taken = False
        self.left = left

    async def read(self) -> bytes:
        """See `RawStream`."""
        return await self._inflow.read()

    async def write(self, data: bytes) -> None:
        """See `RawStream`."""
        if not self._head_taken:
            self._head_taken = True
            await self._until_head_is_taken()
        await self._send(data)

    def take_in_the_rest(self, most: int) -> None:
        """What the client had sent before it left, of a connection that is lost and about to be closed.

        Output that cannot be written ends a transport of asyncio at once, with the input unread.
        """
        if self._transport.get_extra_info("sslcontext") is not None:
            return  # these are no bytes of the client's, but records
        descriptor = self._transport.get_extra_info("socket").fileno()
        try:
            while most > 0 and (data := os.read(descriptor, most)):
                self._inflow.feed(data)
                most -= len(data)
        except OSError:
            pass  # no more, or a reset

    async def _until_head_is_taken(self) -> None:
        """Hold the first raw bytes back until the client has read the answer's head.

        Clients that parse the head through a buffered reader and then turn to the socket itself, as
        docker-py does, would lose what came with it. On a unix socket SIOCOUTQ is what the peer has not read.
        Over TLS there is no need: what is written apart is a record apart, and is read apart.
        """
        connected = self._transport.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:
            return
        loop = asyncio.get_running_loop()
        deadline = loop.time() + HEAD_SECONDS
        while not self.left.done() and loop.time() < deadline:
            if int.from_bytes(fcntl.ioctl(connected, termios.TIOCOUTQ, bytes(4)), sys.byteorder) == 0:
                return
            await asyncio.sleep(HEAD_POLL_SECONDS)
