# SPDX-License-Identifier: Apache-2.0
"""Who a process becomes: "name|uid[:group|gid]" looked up in the container's own passwd(5) and group(5)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

# A container's passwd file is input from outside: more than this is not read.
_FILE_MAX = 4 << 20


@dataclass(frozen=True)
class Identity:
    """Numeric user, group and supplementary groups, and the home directory."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str


class UnknownUser(Exception):
    """The user or group is not known in the container."""


def resolve(user: str, passwd: str, group: str) -> Identity:
    """Find `user` in the texts of /etc/passwd and /etc/group.

    A number needs no entry; a name does (UnknownUser). Without an explicit group the supplementary groups are
    those that list the user, as `docker run --user` has it.
    """
    wanted_user, _, wanted_group = user.partition(":")
    wanted_user = wanted_user or "0"
    uid, gid, home, name = _find_user(wanted_user, passwd)
    if wanted_group:
        return Identity(uid, _find_group(wanted_group, group), (), home)
    members = tuple(
        int(fields[2])
        for fields in _entries(group, 4)
        if name and name in fields[3].split(",") and fields[2].isdigit() and int(fields[2]) != gid
    )
    return Identity(uid, gid, members, home)


def read_identity(user: str, additional: tuple[int, ...] = ()) -> Identity:
    """`resolve` with the files of the current root directory; missing ones count as empty."""
    identity = resolve(user, _read("/etc/passwd"), _read("/etc/group"))
    if not additional:
        return identity
    return Identity(identity.uid, identity.gid, (*identity.groups, *additional), identity.home)


def _find_user(wanted: str, passwd: str) -> tuple[int, int, str, str]:
    numeric = wanted.isdigit()
    for fields in _entries(passwd, 7):
        if not (fields[2].isdigit() and fields[3].isdigit()):
            continue
        if fields[0] == wanted or (numeric and int(fields[2]) == int(wanted)):
            return int(fields[2]), int(fields[3]), fields[5] or "/", fields[0]
    if numeric:
        return int(wanted), 0, "/", ""
    raise UnknownUser(f"unable to find user {wanted}: no matching entries in passwd file of the container")


def _find_group(wanted: str, group: str) -> int:
    if wanted.isdigit():
        return int(wanted)
    for fields in _entries(group, 4):
        if fields[0] == wanted and fields[2].isdigit():
            return int(fields[2])
    raise UnknownUser(f"unable to find group {wanted}: no matching entries in group file of the container")


def _entries(text: str, count: int) -> list[list[str]]:
    return [fields for line in text.split("\n") if len(fields := line.split(":")) >= count]


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return os.read(descriptor, _FILE_MAX).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
