# SPDX-License-Identifier: Apache-2.0
"""Who is at the other end: what the kernel knows of a unix socket's peer, or a verified certificate."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# linux: include/uapi/asm-generic/socket.h; Python has no name for it.
_SO_PEERGROUPS = 59
# linux: include/uapi/linux/limits.h, NGROUPS_MAX
_MOST_GROUPS = 65536
_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_GID = struct.Struct("I")

# Python's own getsockopt takes at most 1024 bytes, and a user may be in more than 256 groups.
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Peer:
    """A user of this host with the groups that their process had, or the common name of a certificate."""

    uid: int | None = None
    gids: frozenset[int] = frozenset()
    common_name: str | None = None

    def described(self, name: str | None = None) -> str:
        """As a message and the log name them; `name` is that of the user, if one is known."""
        if self.uid is None:
            return f"the certificate CN={self.common_name}" if self.common_name else "an unnamed certificate"
        return f"the user with uid {self.uid}" if name is None else f"user {name} (uid {self.uid})"


def identified(transport: asyncio.BaseTransport) -> Peer:
    """Who has connected; for a unix socket, who they were when they did (unix(7), SO_PEERCRED)."""
    certificate = transport.get_extra_info("peercert")
    if certificate is not None:
        return Peer(common_name=common_name(certificate))
    connected: socket.socket = transport.get_extra_info("socket")
    _, uid, gid = _CREDENTIALS.unpack(
        connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return Peer(uid, frozenset({gid, *_groups(connected.fileno())}))


def common_name(certificate: Mapping[str, Any]) -> str | None:
    """The common name of the subject, in a certificate as `ssl` tells it; None unless there is one. Pure."""
    names = [
        value
        for relative in certificate.get("subject", ())
        for attribute, value in relative
        if attribute == "commonName"
    ]
    return names[0] if len(names) == 1 and names[0] else None


def _groups(descriptor: int) -> tuple[int, ...]:
    """The supplementary groups of a unix socket's peer. Raises OSError."""
    size = 64 * _GID.size
    while True:
        buffer = ctypes.create_string_buffer(size)
        length = ctypes.c_uint32(size)
        if _libc.getsockopt(descriptor, socket.SOL_SOCKET, _SO_PEERGROUPS, buffer, ctypes.byref(length)) == 0:
            return tuple(gid for (gid,) in _GID.iter_unpack(buffer.raw[: length.value]))
        error = ctypes.get_errno()
        if not size < length.value <= _MOST_GROUPS * _GID.size:
            raise OSError(error, f"getsockopt SO_PEERGROUPS: {os.strerror(error)}")
        size = length.value  # ERANGE: the kernel has said how much it takes
