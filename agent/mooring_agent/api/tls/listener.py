# SPDX-License-Identifier: Apache-2.0
"""The listening TCP socket, and the handshakes of those who come."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

from ...serving import listen
from ..sparingly import SparingLog
from .certificates import Certificates
from .settings import TlsSettings
from .transport import Handshake

log = logging.getLogger(__name__)

# Who is in the handshake; one more, and the one that has been at it for longest is given up. So clients
# that do nothing keep none out that take their milliseconds.
MAX_HANDSHAKES = 256
BACKLOG = 1024

# A client whose host has gone is noticed after two minutes, in seconds and probes; tcp(7).
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4))


class TlsListener:
    """Listens from when it is made on; clients that come before `start` wait."""

    def __init__(self, settings: TlsSettings) -> None:
        """Raises InvalidSpec for files or an address that are no use, Conflict for an address in use."""
        self._certificates = Certificates(settings)
        self._listening = _listen(settings)
        self._refusals = SparingLog(log)
        self._handshakes: dict[Handshake, None] = {}  # the oldest first
        self._server: asyncio.Server | None = None
        self.address: tuple[str, int] = self._listening.getsockname()[:2]

    async def start(self, accepted: Callable[[], asyncio.Protocol]) -> None:
        """Give each client that has shown a certificate of the CA a protocol of its own."""

        def begin() -> Handshake:
            while len(self._handshakes) >= MAX_HANDSHAKES:
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.abort()
            handshake = Handshake(self._certificates.context(), accepted, self._ended)
            self._handshakes[handshake] = None
            return handshake

        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(begin, sock=self._listening, backlog=BACKLOG)
        log.info("listening address=%s:%d tls=client-certificates", *self.address)

    def close(self) -> None:
        """Listen no more, and give up who is in the handshake; connections are the protocols' business."""
        if self._server is None:
            self._listening.close()
        else:
            self._server.close()
        for handshake in list(self._handshakes):
            handshake.abort()

    def _ended(self, handshake: Handshake, reason: str | None) -> None:
        self._handshakes.pop(handshake, None)
        if reason is not None:
            self._refusals.warning("tls_refused client=%s reason=%r", handshake.client, reason)


def _listen(settings: TlsSettings) -> socket.socket:
    listening = listen(settings.address, BACKLOG, "tls.listen")
    listening.setblocking(False)
    # Whoever is accepted inherits these.
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    return listening
