# SPDX-License-Identifier: Apache-2.0
"""`--chmod`: octal, or symbolic as chmod(1) of POSIX has it (`u=rwX,go-w`), without a umask. Pure."""

from __future__ import annotations

import re

from mooring_agent.images.dockerfile.errors import DockerfileError

_OCTAL = re.compile(r"[0-7]{1,5}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([rwxXst]*|[ugo])")
_SHIFTS = {"u": 6, "g": 3, "o": 0}
_SPECIAL = {"u": 0o4000, "g": 0o2000}
_ALL = 0o7777


class Modes:
    """What `--chmod` says. Raises DockerfileError for what is no mode."""

    def __init__(self, text: str) -> None:
        self._octal = int(text, 8) if _OCTAL.fullmatch(text) else None
        if self._octal is not None and self._octal > _ALL:
            raise _bad(text)
        self._clauses: list[tuple[str, str, str]] = []
        if self._octal is None:
            for clause in text.split(","):
                found = _CLAUSE.fullmatch(clause)
                if found is None:
                    raise _bad(text)
                whose = "ugo" if not found[1] or "a" in found[1] else found[1]
                self._clauses += [(whose, sign, what) for sign, what in _ACTION.findall(found[2])]

    def apply(self, mode: int, *, directory: bool) -> int:
        """The mode of a file or directory that had `mode`."""
        if self._octal is not None:
            return self._octal
        for whose, sign, what in self._clauses:
            mode = _changed(mode, whose, sign, what, directory)
        return mode


def _changed(mode: int, whose: str, sign: str, what: str, directory: bool) -> int:
    bits = mask = 0
    for who in dict.fromkeys(whose):
        shift = _SHIFTS[who]
        mask |= 0o7 << shift | _SPECIAL.get(who, 0)
        bits |= _bits(mode, what, directory) << shift
        if "s" in what:
            bits |= _SPECIAL.get(who, 0)
    if "t" in what and len(set(whose)) == len(_SHIFTS):
        bits |= 0o1000
        mask |= 0o1000
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    if directory:
        mask &= ~(0o6000 & ~bits)  # a directory keeps these unless they are named, as GNU chmod has it
    return mode & ~mask | bits


def _bits(mode: int, what: str, directory: bool) -> int:
    if what in _SHIFTS and what:
        return mode >> _SHIFTS[what] & 0o7
    bits = (4 if "r" in what else 0) | (2 if "w" in what else 0) | (1 if "x" in what else 0)
    if "X" in what and (directory or mode & 0o111):
        bits |= 1
    return bits


def _bad(text: str) -> DockerfileError:
    return DockerfileError(
        f"--chmod={text} is not valid: expected an octal number up to 7777, or as u=rwX,go=rX"
    )
