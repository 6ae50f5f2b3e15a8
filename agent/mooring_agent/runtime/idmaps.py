# SPDX-License-Identifier: Apache-2.0
"""User namespaces made for their id maps alone: what mount_setattr(2) wants for an idmapped mount, and what a
container's own user namespace can be joined from.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from ..linux import syscalls

# (first id inside, first id outside, how many): user_namespaces(7), "User and group ID mappings".
IdMap = tuple[tuple[int, int, int], ...]

_made: dict[tuple[IdMap, IdMap], int] = {}


def user_namespace(uids: IdMap, gids: IdMap) -> int:
    """A descriptor of a user namespace with these maps, close-on-exec and the caller's to keep open.

    Asked again for the same maps, this process gets the same one: what is mounted for a container's ids and
    the container itself can then share theirs. Single-threaded callers only. Raises OSError that names the
    map the kernel refused.
    """
    found = _made.get((uids, gids))
    if found is None:
        found = _made[uids, gids] = _make(uids, gids)
    return found


def outside(ids: IdMap, inside: int = 0) -> int:
    """What `inside` is on the host; the first mapped id where it has no place in the map."""
    for first, host, count in ids:
        if first <= inside < first + count:
            return host + inside - first
    return ids[0][1]


@contextmanager
def acting_as(uid: int, gid: int) -> Iterator[None]:
    """Make files as `uid` and `gid` of the host, with the capabilities of before.

    Root's own id has no place in the map of an idmapped mount, so that it could not make a file there
    (EOVERFLOW).
    """
    sets = syscalls.capget()
    syscalls.setfsgid(gid)
    syscalls.setfsuid(uid)
    try:
        # The kernel takes the file system's capabilities from whoever leaves fsuid 0, capabilities(7).
        syscalls.capset(*sets)
        yield
    finally:
        syscalls.setfsuid(0)
        syscalls.setfsgid(0)
        syscalls.capset(*sets)


def map_text(ids: IdMap) -> str:
    """The maps as /proc/PID/uid_map takes them."""
    return "".join(f"{inside} {host} {count}\n" for inside, host, count in ids)


def _make(uids: IdMap, gids: IdMap) -> int:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = syscalls.clone(syscalls.CLONE_NEWUSER | signal.SIGCHLD)
    if child == 0:
        ours.close()
        # Its number may be that of a pid namespace that the /proc here does not show, so it says itself who
        # it is.
        socket.send_fds(theirs, [b"self"], [os.open("/proc/self", os.O_RDONLY | os.O_DIRECTORY)])
        theirs.recv(1)  # ends with the parent's end of the socket, however that comes about
        os._exit(0)
    theirs.close()
    place = -1
    try:
        _, (place,), _, _ = socket.recv_fds(ours, 16, 1)
        for file, ids in (("uid_map", uids), ("gid_map", gids)):
            _write(place, file, map_text(ids))
        return os.open("ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
    finally:
        ours.close()
        if place >= 0:
            os.close(place)
        os.waitpid(child, 0)


def _write(place: int, name: str, text: str) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=place)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"{name} {text.split()}: {error.strerror}") from None
    finally:
        os.close(descriptor)
