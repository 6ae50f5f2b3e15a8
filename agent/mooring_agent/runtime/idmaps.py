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

from ..linux import kernelfiles, syscalls

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
    group = syscalls.setfsgid(gid)
    user = syscalls.setfsuid(uid)
    try:
        # The kernel takes the file system's capabilities from whoever leaves fsuid 0, capabilities(7).
        syscalls.capset(*sets)
        yield
    finally:
        syscalls.setfsuid(user)
        syscalls.setfsgid(group)
        syscalls.capset(*sets)


def maps_of(namespace: int) -> tuple[IdMap, IdMap]:
    """The maps of the user namespace open as `namespace`, for users and groups, as this process sees them."""
    waiting, go = os.pipe2(os.O_CLOEXEC)
    entered, say = os.pipe2(os.O_CLOEXEC)
    child = syscalls.clone(signal.SIGCHLD)
    if child == 0:
        os.close(go)
        syscalls.setns(namespace, syscalls.CLONE_NEWUSER)
        os.write(say, b".")
        os.read(waiting, 1)
        os._exit(0)
    os.close(waiting)
    os.close(say)
    try:
        os.read(entered, 1)  # ends without a word where the child could not enter
        uids, gids = (_read_map(f"/proc/{child}/{file}") for file in ("uid_map", "gid_map"))
        return uids, gids
    finally:
        os.close(entered)
        os.close(go)
        os.waitpid(child, 0)


def _read_map(path: str) -> IdMap:
    lines = kernelfiles.read(path).splitlines()
    rows = [[int(number) for number in line.split()] for line in lines]
    return tuple((row[0], row[1], row[2]) for row in rows)


def map_of_process(pid: int, kind: str) -> IdMap:
    """The map of users ("uid") or groups ("gid") of a process, as this process's namespace sees it."""
    return _read_map(f"/proc/{pid}/{kind}_map")


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
