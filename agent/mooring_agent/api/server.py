# SPDX-License-Identifier: Apache-2.0
"""The listening sockets of the agent: the unix socket, and a TCP address with TLS where one is configured."""

from __future__ import annotations

import asyncio
import errno
import grp
import logging
import os
import socket
import stat
from pathlib import Path

from ..errors import Conflict, InvalidSpec, MooringError
from .connection import Connection, Handler
from .tls.listener import TlsListener
from .tls.settings import TlsSettings

log = logging.getLogger(__name__)

SOCKET_MODE = 0o660
# Hundreds of clients may come at once; the kernel caps this at net.core.somaxconn.
BACKLOG = 1024
# How long the last bytes of an answer may take to reach a slow client when the server stops.
FLUSH_SECONDS = 1.0


class Server:
    """Serves a `Handler` on a unix socket, which `group` may open, and where `tls` says so on a TCP address.

    The sockets are taken when the server is made, so that of two agents the second fails before it has
    touched anything; clients that come before `start` wait.
    """

    def __init__(self, path: Path, group: str = "", tls: TlsSettings | None = None) -> None:
        """Raises Conflict if another agent answers on the socket, or if the path is no socket."""
        self._path = path
        self._listening = bind(path, group)
        status = os.lstat(path)
        self._inode = (status.st_dev, status.st_ino)
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        try:
            self.tls = None if tls is None else TlsListener(tls)
        except MooringError:
            self._remove_own_socket()
            self._listening.close()
            raise

    async def start(self, handler: Handler) -> None:
        """Answer with `handler`."""

        def accepted() -> Connection:
            return Connection(handler, self._connections)

        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(accepted, sock=self._listening, backlog=BACKLOG)
        log.info("listening socket=%s", self._path)
        if self.tls is not None:
            await self.tls.start(accepted)

    async def stop(self, grace: float = 5.0) -> None:
        """Take no new connections and cut the streams; other calls have `grace` seconds to end."""
        self._remove_own_socket()
        if self.tls is not None:
            self.tls.close()
        if self._server is None:
            self._listening.close()
            return
        self._server.close()
        for connection in list(self._connections):
            connection.close_when_idle()
            connection.abandon()
        answering = [task for connection in self._connections if (task := connection.answering)]
        if answering:
            await asyncio.wait(answering, timeout=grace)
        gone = [connection.gone for connection in self._connections]
        for connection in list(self._connections):
            connection.close()
        if gone:
            await asyncio.wait(gone, timeout=FLUSH_SECONDS)
        for connection in list(self._connections):
            connection.abort()
        self._server = None

    def _remove_own_socket(self) -> None:
        """Remove the socket, unless a newer agent has put its own in its place."""
        try:
            status = os.lstat(self._path)
        except FileNotFoundError:
            return
        if (status.st_dev, status.st_ino) == self._inode:
            self._path.unlink()


def bind(path: Path, group: str = "") -> socket.socket:
    """A listening socket at `path`, mode 0660, of `group` (a name or a number), else of the agent's own.

    A stale one is replaced; a live one is a Conflict.
    """
    owner = _group_id(group) if group else -1
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidSpec(
            f"the directory {path.parent} of the agent's socket cannot be made: {error.strerror}"
        ) from None
    _remove_stale(path)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    # bind(2) makes the file with what the umask leaves: it must not be open to others even for a moment.
    umask = os.umask(0o777 & ~SOCKET_MODE)
    try:
        listening.bind(str(path))
        if owner >= 0:
            os.chown(path, -1, owner, follow_symlinks=False)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"another agent has just taken the socket {path}; stop it or choose another --socket"
            ) from None
        raise InvalidSpec(
            f"the agent cannot listen on {path}: {error.strerror}; choose another --socket"
        ) from None
    finally:
        os.umask(umask)
    return listening


def _group_id(group: str) -> int:
    if group.isascii() and group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise InvalidSpec(
            f"socket_group is not usable: this host knows no group {group!r}; make it, or name another"
        ) from None


def _remove_stale(path: Path) -> None:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} exists and is no socket; remove it or choose another --socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except FileNotFoundError:
            return
        except BlockingIOError:
            pass  # its backlog is full: busy, hence alive
    raise Conflict(f"another agent answers on {path}; stop it, or choose another --socket and --run-root")
