# SPDX-License-Identifier: Apache-2.0
"""The agents that are connected to a keeper: packets in, packets out, and no waiting for a slow one."""

from __future__ import annotations

import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence

from . import messages
from .diagnostics import complain
from .eventloop import HANGUP, READ, WRITE, EventLoop
from .messages import Message

Request = Callable[["Client", bytes, list[int]], None]
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): process, user, group


class Client:
    """One connection, with what could not be sent on it yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.queue: deque[tuple[bytes, list[int]]] = deque()
        self.waits = False  # until it can be written to again

    @property
    def connected(self) -> bool:
        """Whether it is there."""
        return self.connection.fileno() >= 0


class Connections:
    """Accepts clients and hands their packets on. `changed` is called whenever one has come or gone."""

    def __init__(
        self,
        loop: EventLoop,
        listener: socket.socket,
        request: Request,
        gone: Callable[[Client], None],
        changed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._request = request
        self._gone = gone
        self._changed = changed
        self._clients: dict[int, Client] = {}
        listener.setblocking(False)
        loop.add(listener.fileno(), lambda _: self._accept())

    def __len__(self) -> int:
        return len(self._clients)

    def reply(self, client: Client, seq: int, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Answer a request; the descriptors stay the caller's."""
        self._send(client, messages.encode(message, seq), descriptors)

    def tell_all(self, event: Message) -> None:
        """Send an event to everybody."""
        for client in list(self._clients.values()):
            self._send(client, messages.encode(event), ())

    def hand_over(self) -> list[int]:
        """The connections, for a successor. One that has not taken all that was sent to it ends here, and its
        client connects again.
        """
        for client in list(self._clients.values()):
            if client.queue:
                self._disconnect(client)
        return list(self._clients)

    def take_over(self, descriptor: int) -> Client:
        """Serve a connection that a predecessor has accepted."""
        return self._serve_on(socket.socket(fileno=descriptor))

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        if _user_of(connection) != os.geteuid():
            # The modes of the socket and its directory say so too; whoever opened them has made a mistake.
            complain("keeper turns away a client of another user: only its own is answered")
            connection.close()
            return
        self._serve_on(connection)
        self._changed()

    def _serve_on(self, connection: socket.socket) -> Client:
        connection.setblocking(False)
        client = Client(connection)
        self._clients[connection.fileno()] = client
        self._loop.add(connection.fileno(), lambda mask: self._serve(client, mask))
        return client

    def _serve(self, client: Client, mask: int) -> None:
        if mask & WRITE:
            self._flush(client)
        if not mask & (READ | HANGUP):
            return
        try:
            packet, descriptors, _, _ = socket.recv_fds(
                client.connection, messages.PACKET_MAX, messages.DESCRIPTORS_MAX
            )
        except BlockingIOError:
            return
        except OSError:
            packet, descriptors = b"", []
        if not packet:
            self._disconnect(client)
            return
        try:
            self._request(client, packet, descriptors)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _send(self, client: Client, packet: bytes, descriptors: Sequence[int]) -> None:
        if client.connection.fileno() < 0:
            return
        client.queue.append((packet, [os.dup(descriptor) for descriptor in descriptors]))
        self._flush(client)

    def _flush(self, client: Client) -> None:
        while client.queue:
            packet, descriptors = client.queue[0]
            try:
                if descriptors:
                    socket.send_fds(client.connection, [packet], descriptors)
                else:
                    client.connection.send(packet)
            except BlockingIOError:
                self._loop.change(client.connection.fileno(), READ | WRITE)
                client.waits = True
                return
            except OSError:
                self._disconnect(client)
                return
            client.queue.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        if client.waits:
            self._loop.change(client.connection.fileno(), READ)
            client.waits = False

    def _disconnect(self, client: Client) -> None:
        number = client.connection.fileno()
        if self._clients.pop(number, None) is None:
            return
        self._loop.remove(number)
        client.connection.close()
        for _, descriptors in client.queue:
            for descriptor in descriptors:
                os.close(descriptor)
        client.queue.clear()
        self._gone(client)
        self._changed()


def _user_of(connection: socket.socket) -> int:
    """Who was at the other end when it connected, SO_PEERCRED of unix(7)."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(credentials)[1]
    return user
