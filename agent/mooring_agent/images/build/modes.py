# SPDX-License-Identifier: Apache-2.0
"""`--chmod`: octal, or symbolic as chmod(1) has it (`u=rwX,go-w`), without a umask. Pure."""

from __future__ import annotations

import re

from mooring_agent.images.dockerfile.errors import DockerfileError

_OCTAL = re.compile(r"[0-7]{1,5}")
_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[rwxXst]*|[ugo]))+)")
_ACTION = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_AFFECTED = {"u": 0o4700, "g": 0o2070, "o": 0o1007, "a": 0o7777}
_BITS = {"r": 0o444, "w": 0o222, "x": 0o111, "X": 0, "s": 0o6000, "t": 0o1000}
_COPIED = {"u": 6, "g": 3, "o": 0}  # how far the bits of a class are from those of others
_EXECUTE = 0o111
_SET_IDS = 0o6000
_ALL = 0o7777


class Modes:
    """What `--chmod` says. Raises DockerfileError for what is no mode."""

    def __init__(self, text: str) -> None:
        self._octal = int(text, 8) if _OCTAL.fullmatch(text) else None
        if self._octal is not None and self._octal > _ALL:
            raise _bad(text)
        self._changes: list[tuple[int, str, str]] = []
        if self._octal is None:
            for clause in text.split(","):
                found = _CLAUSE.fullmatch(clause)
                if found is None:
                    raise _bad(text)
                affected = 0
                for who in found[1] or "a":
                    affected |= _AFFECTED[who]
                self._changes += [(affected, sign, what) for sign, what in _ACTION.findall(found[2])]

    def apply(self, mode: int, *, directory: bool) -> int:
        """The mode of a file or directory that had `mode`."""
        if self._octal is not None:
            return self._octal
        for affected, sign, what in self._changes:
            mode = _changed(mode, affected, sign, what, directory)
        return mode


def _changed(mode: int, affected: int, sign: str, what: str, directory: bool) -> int:
    if what in _COPIED:
        bits = (mode >> _COPIED[what] & 0o7) * _EXECUTE
    else:
        bits = sum(_BITS[letter] for letter in dict.fromkeys(what))
    # A directory keeps these bits unless they are named, as GNU chmod has it.
    kept = _SET_IDS & ~(bits & affected) if directory else 0
    if "X" in what and (directory or mode & _EXECUTE):
        bits |= _EXECUTE
    bits &= affected & ~kept
    if sign == "+":
        return mode | bits
    if sign == "-":
        return mode & ~bits
    return mode & (~affected | kept) | bits


def _bad(text: str) -> DockerfileError:
    return DockerfileError(
        f"--chmod={text} is not valid: expected an octal number up to 7777, or as u=rwX,go=rX"
    )
