# SPDX-License-Identifier: Apache-2.0
"""Who a process becomes: "name|uid[:group|gid]" looked up in the container's own passwd(5) and group(5)."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

# A container's passwd file is input from outside: more than this is not read.
_FILE_MAX = 4 << 20
# docker's bound. The one that setresuid(2) has is higher, but its highest number means "leave it as it is".
_ID_MAX = (1 << 31) - 1
_ID_DIGITS = len(str(_ID_MAX))


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
    listed = (_number(fields[2]) for fields in _entries(group, 4) if name and name in fields[3].split(","))
    members = dict.fromkeys(number for number in listed if number is not None and number != gid)
    return Identity(uid, gid, tuple(members), home)


def read_identity(user: str, additional: tuple[int, ...] = (), groups: tuple[str, ...] = ()) -> Identity:
    """`resolve` with the files of the current root directory; missing ones count as empty.

    `groups` are further ones by name or number.
    """
    group = _read("/etc/group")
    identity = resolve(user, _read("/etc/passwd"), group)
    if not additional and not groups:
        return identity
    more = (*identity.groups, *additional, *(_find_group(name, group) for name in groups))
    return Identity(identity.uid, identity.gid, tuple(dict.fromkeys(more)), identity.home)


def sources() -> list[tuple[int, ...]]:
    """What tells the files of `read_identity` from others, or from themselves after a change."""
    found: list[tuple[int, ...]] = []
    for path in ("/etc/passwd", "/etc/group"):
        try:
            status = os.stat(path)
        except OSError:
            found.append(())
        else:
            found.append(
                (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            )
    return found


def _find_user(wanted: str, passwd: str) -> tuple[int, int, str, str]:
    number = _number(wanted)
    for fields in _entries(passwd, 6):
        uid, gid = _number(fields[2]), _number(fields[3])
        if uid is None or gid is None:
            continue  # a number that is none must not become 0, which is root
        if fields[0] == wanted or uid == number:
            return uid, gid, fields[5] or "/", fields[0]
    if number is not None:
        return number, 0, "/", ""
    raise UnknownUser(_unknown("user", wanted, "passwd"))


def _find_group(wanted: str, group: str) -> int:
    number = _number(wanted)
    for fields in _entries(group, 3):
        gid = _number(fields[2])
        if gid is not None and (fields[0] == wanted or gid == number):
            return gid
    if number is not None:
        return number
    raise UnknownUser(_unknown("group", wanted, "group"))


def _unknown(kind: str, wanted: str, file: str) -> str:
    if wanted.isascii() and wanted.isdigit():
        return f"{kind} {wanted[:20]} is out of range: expected a number from 0 to {_ID_MAX}"
    return f"unable to find {kind} {wanted}: no matching entries in {file} file of the container"


def _number(text: str) -> int | None:
    """A user's or group's number; None for anything else, also for one that setresuid(2) would not take as
    such.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS):
        return None
    number = int(text)
    return number if number <= _ID_MAX else None


def _entries(text: str, count: int) -> list[list[str]]:
    """The entries of a passwd(5) or group(5) text, filled up to `count` fields: the last may be missing."""
    return [
        [*fields, *[""] * count] for line in text.split("\n") if len(fields := line.strip().split(":")) > 2
    ]


def _read(path: str) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError:
        return ""
    return read_accounts(descriptor)


def read_accounts(descriptor: int) -> str:
    """The text of an open passwd(5) or group(5), which is closed; "" for what is no file."""
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            return ""
        return os.read(descriptor, min(found.st_size, _FILE_MAX)).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
