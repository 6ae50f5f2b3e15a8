# SPDX-License-Identifier: Apache-2.0
"""Streams to the agent of a host: its unix socket on this machine, or through SSH."""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from .errors import HostUnreachable
from .http import Deadline, Stream
from .inventory import DEFAULT_SOCKET, InventoryHost


class Transport(Protocol):
    """Opens streams to one agent. Safe to use from several threads at once."""

    def open(self, deadline: Deadline) -> Stream:
        """Return a new stream to the agent. Raises HostUnreachable, with a reason and without the host's
        name.
        """

    def describe(self) -> str:
        """Return in a few words where the agent is reached."""

    def close(self) -> None:
        """Give up what is kept open between streams; `open` may be called again."""


class LocalStream:
    """A connected unix socket."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    def sendall(self, data: bytes, /) -> None:
        """Write all of it."""
        self._socket.sendall(data)

    def recv(self, size: int, /) -> bytes:
        """Return some bytes, none at the end of the stream."""
        return self._socket.recv(size)

    def settimeout(self, timeout: float | None, /) -> None:
        """Set how long `recv` and `sendall` may take."""
        self._socket.settimeout(timeout)

    def close(self) -> None:
        """End the stream. Closing alone would leave a `recv` of another thread waiting."""
        with contextlib.suppress(OSError):  # the other side may have ended it
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class LocalTransport:
    """The agent of this machine."""

    def __init__(self, path: str = DEFAULT_SOCKET) -> None:
        self.path = path

    def open(self, deadline: Deadline) -> Stream:
        """Return a new stream to the agent. Raises HostUnreachable."""
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connecting.settimeout(deadline.left())
            connecting.connect(self.path)
        except OSError as error:
            connecting.close()
            raise HostUnreachable(socket_problem(self.path, error)) from None
        return LocalStream(connecting)

    def describe(self) -> str:
        """Return the path of the socket."""
        return self.path

    def close(self) -> None:
        """Nothing is kept open."""


def socket_problem(path: str, error: OSError) -> str:
    """Return why a unix socket could not be connected to, and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"there is no socket {path}: start `mooring agent` there, or set mooring_socket to its socket"
    if isinstance(error, ConnectionRefusedError):
        return f"nothing listens on {path}: the agent has ended, start `mooring agent` again"
    if isinstance(error, PermissionError):
        return f"this user may not open {path}: be root, or join the group of the socket"
    if isinstance(error, TimeoutError):
        return f"{path} did not take the connection in time"
    return f"{path} cannot be connected to: {error.strerror or error}"


def transport_to(host: InventoryHost) -> Transport:
    """Return the transport that the inventory describes. Raises InventoryError."""
    from .errors import InventoryError

    path = host.text("mooring_socket") or DEFAULT_SOCKET
    default = "local" if host.name == "localhost" and "ansible_host" not in host.variables else "ssh"
    connection = (host.text("ansible_connection") or default).rpartition(".")[2]
    if connection == "local":
        return LocalTransport(path)
    if connection in ("ssh", "smart", "paramiko", "paramiko_ssh", "fleet"):
        # paramiko takes a sixth of a second to import, which a local fleet need not pay.
        from .ssh import SshTransport
        from .ssh_settings import settings_of

        return SshTransport(settings_of(host), path)
    raise InventoryError(
        f"host {host.name}: ansible_connection is {connection!r}, and the kernel knows ssh and local only"
    )
