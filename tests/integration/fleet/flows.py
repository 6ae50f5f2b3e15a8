# SPDX-License-Identifier: Apache-2.0
"""Traffic between containers of which every packet is counted."""

from __future__ import annotations

import socket
import threading
import time
from types import TracebackType

from harness.waiting import NotInTime, eventually
from integration.network.topology import Namespace

RATE = 200  # packets a second
PORT = 7000
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
_ROOM = 4 << 20  # bytes: a test that has no processor for a while loses nothing by itself
_LONGEST = 300.0  # seconds, in case that nobody ends it
_LATE = 5.0  # how long an answer may take


class Flow:
    """Datagrams with numbers from one namespace to another, `RATE` a second, each of which comes back."""

    def __init__(self, client: Namespace, server: Namespace, address: str) -> None:
        self.sent = 0
        self._back: set[int] = set()
        self._over = threading.Event()
        self._far = server.open_socket(socket.SOCK_DGRAM, address)
        self._near = client.open_socket(socket.SOCK_DGRAM, address)
        for end in (self._far, self._near):
            end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _ROOM)
            end.settimeout(0.2)  # how often it is looked whether all is over
        self._far.bind((address, PORT))
        self._near.connect((address, PORT))
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._echo, self._receive, self._send)
        ]

    def __enter__(self) -> Flow:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self._back, 10, "the first datagram to come back")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(5)
        self._far.close()
        self._near.close()

    def lost(self) -> list[int]:
        """The numbers of those that have not come back so far; the last ones have some time."""
        sent = self.sent
        try:
            eventually(lambda: all(number in self._back for number in range(sent)), _LATE)
        except NotInTime:
            return [number for number in range(sent) if number not in self._back]
        return []

    def _send(self) -> None:
        end = time.monotonic() + _LONGEST
        while not self._over.wait(1 / RATE) and time.monotonic() < end:
            try:
                self._near.send(self.sent.to_bytes(8))
            except OSError:
                pass  # it counts as lost
            self.sent += 1

    def _receive(self) -> None:
        while not self._over.is_set():
            try:
                self._back.add(int.from_bytes(self._near.recv(8)))
            except OSError:
                continue

    def _echo(self) -> None:
        while not self._over.is_set():
            try:
                data, client = self._far.recvfrom(8)
                self._far.sendto(data, client)
            except OSError:
                continue
