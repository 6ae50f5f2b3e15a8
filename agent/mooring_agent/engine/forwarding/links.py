# SPDX-License-Identifier: Apache-2.0
"""Ways to those who receive logs: datagrams, streams, streams with TLS, and the journal's socket.

A link is connected when it is made, by the functions `datagrams`, `stream` and `journal`. What it raises is
an OSError (ssl.SSLError and TimeoutError are such), after which it is to be closed.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
import ssl
import struct
import termios
from abc import ABC, abstractmethod
from collections import deque

from ..resources.logdrivers import SyslogAddress

CONNECT_WITHIN = 10.0
# A receiver that takes nothing for so long is taken for gone.
SEND_WITHIN = 30.0
_RECORD = 16 << 10
# Datagrams between two looks of the event loop at everybody else.
_SENT_A_TURN = 256
_ADD_SEALS = 1024 + 9  # linux/fcntl.h
_ALL_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # seal, shrink, grow, write
_TOO_LONG = (errno.EMSGSIZE, errno.ENOBUFS)
_SIOCOUTQ = termios.TIOCOUTQ  # tcp(7): the bytes that the other end has not acknowledged


class Link(ABC):
    """A connected socket over which messages go."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.over = asyncio.Event()
        """Set when the other end has left."""
        self.error: OSError | None = None
        """What it has left with, if not in good order."""
        self.dropped = 0
        """Messages that were too long to be sent, until somebody takes note of them."""
        asyncio.get_running_loop().add_reader(connected.fileno(), self._readable)

    @abstractmethod
    async def send(self, messages: deque[bytes]) -> int:
        """Take messages from the left and send them. Returns how much has been sent in all, in units of
        `acknowledged`.
        """

    @abstractmethod
    def acknowledged(self) -> int:
        """How much of what was sent has arrived."""

    def received(self, data: bytes) -> bool:
        """Take what a receiver says, which in syslog is nothing; whether it goes on."""
        return True

    def close(self) -> None:
        """Give the socket up."""
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.socket.close()

    def _readable(self) -> None:
        try:
            received = self.socket.recv(_RECORD)
        except BlockingIOError:
            return
        except OSError as error:
            self.error, received = error, b""
        open_still = received or self.socket.type == socket.SOCK_DGRAM
        if self.error is None and open_still and self.received(received):
            return
        asyncio.get_running_loop().remove_reader(self.socket.fileno())
        self.over.set()


class Datagrams(Link):
    """A message a datagram. Of what the kernel has taken nothing more is known."""

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self._sent = 0

    async def send(self, messages: deque[bytes]) -> int:
        """See `Link.send`."""
        loop = asyncio.get_running_loop()
        while messages:
            if self._sent % _SENT_A_TURN == 0:
                await asyncio.sleep(0)
            try:
                self.socket.send(messages[0])
            except BlockingIOError:
                async with asyncio.timeout(SEND_WITHIN):
                    await loop.sock_sendall(self.socket, messages[0])
            except OSError as error:
                if error.errno not in _TOO_LONG:
                    raise
                self.too_long(messages[0], error)
            messages.popleft()
            self._sent += 1
        return self._sent

    def too_long(self, message: bytes, error: OSError) -> None:
        """Do what can be done with a message that is too long for a datagram."""
        self.dropped += 1

    def acknowledged(self) -> int:
        """See `Link.acknowledged`."""
        return self._sent


class Journal(Datagrams):
    """The journal, which takes what is too long as a sealed file in memory."""

    def too_long(self, message: bytes, error: OSError) -> None:
        """See `Datagrams.too_long`."""
        file = os.memfd_create("mooring-log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(file, "wb", closefd=False) as writer:
                writer.write(message)
            fcntl.fcntl(file, _ADD_SEALS, _ALL_SEALS)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))]
            self.socket.sendmsg([b""], rights)
        finally:
            os.close(file)


class Stream(Link):
    """Messages one after the other. What the other end's kernel has not acknowledged is known, and sent again
    when the connection is lost.
    """

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected)
        self._sent = 0
        self._counts = connected.family != socket.AF_UNIX

    async def send(self, messages: deque[bytes]) -> int:
        """See `Link.send`."""
        data = b"".join(messages)
        messages.clear()
        await self._send(data)
        return self._sent

    async def _send(self, data: bytes) -> None:
        view = memoryview(data)
        loop = asyncio.get_running_loop()
        while view:
            if self.over.is_set():
                raise ConnectionResetError(errno.ECONNRESET, "the receiver has closed the connection")
            try:
                count = self.socket.send(view)
            except BlockingIOError:
                async with asyncio.timeout(SEND_WITHIN):
                    # A single byte says when there is room for more.
                    await loop.sock_sendall(self.socket, view[:1])
                count = 1
            self._sent += count
            view = view[count:]

    def acknowledged(self) -> int:
        """See `Link.acknowledged`."""
        left: int = struct.unpack("i", fcntl.ioctl(self.socket.fileno(), _SIOCOUTQ, b"\0" * 4))[0]
        if self._counts:
            return self._sent - left
        return 0 if left else self._sent  # of a socket of this host the kernel counts its buffers


class SecureStream(Stream):
    """The same with TLS. Here, since only so it is known how many bytes messages have become."""

    def __init__(
        self, connected: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        super().__init__(connected)
        self._tls, self._incoming, self._outgoing = tls, incoming, outgoing

    async def send(self, messages: deque[bytes]) -> int:
        """See `Link.send`."""
        view = memoryview(b"".join(messages))
        messages.clear()
        while view:
            view = view[self._tls.write(view) :]
        await self._send(self._outgoing.read())
        return self._sent

    def received(self, data: bytes) -> bool:
        """See `Link.received`: of what a server says TLS has some for itself, and the end for us."""
        self._incoming.write(data)
        try:
            return bool(self._tls.read(_RECORD))
        except ssl.SSLWantReadError:
            return True
        except ssl.SSLError:
            return False


async def journal(path: str) -> Link:
    """A link to the journal of this host."""
    return Journal(await _local(path, socket.SOCK_DGRAM))


async def connect(address: SyslogAddress, tls: ssl.SSLContext | None) -> Link:
    """A link to a syslog server."""
    if address.transport == "unixgram":
        return Datagrams(await _local(address.path, socket.SOCK_DGRAM))
    if address.transport == "unix":
        return Stream(await _local(address.path, socket.SOCK_STREAM))
    if address.transport == "udp":
        return Datagrams(await _remote(address, socket.SOCK_DGRAM))
    connected = await _remote(address, socket.SOCK_STREAM)
    if tls is None:
        return Stream(connected)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            return await _secured(connected, address.host, tls)
    except BaseException:
        connected.close()
        raise


async def _local(path: str, kind: socket.SocketKind) -> socket.socket:
    return await _connected(socket.AF_UNIX, kind, path)


async def _remote(address: SyslogAddress, kind: socket.SocketKind) -> socket.socket:
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_WITHIN):
        found = await loop.getaddrinfo(address.host, address.port, type=kind)
    failure: OSError = OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
    for family, _, _, _, place in found:
        try:
            return await _connected(family, kind, place)
        except OSError as error:
            failure = error
    raise failure


async def _connected(
    family: socket.AddressFamily | int, kind: socket.SocketKind, place: object
) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        async with asyncio.timeout(CONNECT_WITHIN):
            await asyncio.get_running_loop().sock_connect(made, place)  # type: ignore[arg-type]
    except BaseException:
        made.close()
        raise
    return made


async def _secured(connected: socket.socket, host: str, context: ssl.SSLContext) -> SecureStream:
    loop = asyncio.get_running_loop()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=host)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            await loop.sock_sendall(connected, outgoing.read())
            received = await loop.sock_recv(connected, _RECORD)
            if not received:
                raise ConnectionResetError(
                    errno.ECONNRESET, "the receiver has closed the connection within the handshake of TLS"
                ) from None
            incoming.write(received)
        else:
            break
    await loop.sock_sendall(connected, outgoing.read())
    return SecureStream(connected, tls, incoming, outgoing)
