# SPDX-License-Identifier: Apache-2.0
"""A websocket as a raw stream of bytes, over the raw stream of a connection that was taken over."""

from __future__ import annotations

import asyncio
import codecs

from ..messages import ClientDisconnected, RawStream
from .frames import Close, CloseCode, Data, Decoder, Opcode, Ping, ProtocolError, close_frame, frame


class Channel:
    """Reads what the client's messages say, one after the other, and writes messages: binary ones, or with
    `text` such whose bytes are UTF-8, in which what is none is the replacement character.

    A websocket ends as a whole: a client that sends a Close listens no longer, and `listens` is false then.
    One that merely ends its side of the connection does.
    """

    def __init__(self, raw: RawStream, *, text: bool = False) -> None:
        self._raw = raw
        self._text = codecs.getincrementaldecoder("utf-8")("replace") if text else None
        self._decoder = Decoder()
        # One writes at a time: output, or the answer to a Ping or a Close.
        self._writing = asyncio.Lock()
        self._closed = False

    @property
    def left(self) -> asyncio.Future[None]:
        """See `RawStream`."""
        return self._raw.left

    def listens(self) -> bool:
        """Whether the client still takes what is written."""
        return not self._closed

    async def read(self) -> bytes:
        """The next bytes from the client, b"" when it will send no more; Pings are answered on the way.

        Raises ClientDisconnected, also where the client has broken the protocol and was told so.
        """
        said: list[bytes] = []
        while not said and not self._closed:
            received = await self._raw.read()
            if not received:
                break
            try:
                for event in self._decoder.feed(received):
                    if isinstance(event, Data):
                        said.append(event.data)
                    elif isinstance(event, Ping):
                        await self._answer(event)
                    elif isinstance(event, Close):
                        await self.close(event.code or CloseCode.NORMAL)
            except ProtocolError as error:
                await self.close(error.code, error.reason)
                raise ClientDisconnected(f"the client has broken RFC 6455: {error.reason}") from None
        return b"".join(said)

    async def write(self, data: bytes) -> None:
        """Send bytes as a message; waits while the client is slow. Raises ClientDisconnected."""
        async with self._writing:
            if self._closed:
                raise ClientDisconnected("the client has closed its websocket")
            if self._text is None:
                await self._raw.write(frame(Opcode.BINARY, data))
            elif said := self._text.decode(data):  # a character may go on in the next piece
                await self._raw.write(frame(Opcode.TEXT, said.encode()))

    async def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Say that nothing more comes, once."""
        async with self._writing:
            if not self._closed:
                self._closed = True
                if self._text is not None and (rest := self._text.decode(b"", final=True)):
                    await self._raw.write(frame(Opcode.TEXT, rest.encode()))
                await self._raw.write(close_frame(code, reason))

    async def _answer(self, ping: Ping) -> None:
        async with self._writing:
            if not self._closed:
                await self._raw.write(frame(Opcode.PONG, ping.data))
