# SPDX-License-Identifier: Apache-2.0
"""Terminals as Docker's clients handle them: their size, and the keys that detach from them."""

from __future__ import annotations

import string

from ...errors import InvalidSpec
from ..messages import Request

_MAX_WINDOW = 65535  # struct winsize holds unsigned shorts, ioctl_tty(2)
DEFAULT_DETACH_KEYS = "ctrl-p,ctrl-q"
_CONTROLS = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31} | {
    letter: number for number, letter in enumerate(string.ascii_lowercase, 1)
}


def window(request: Request) -> tuple[int, int]:
    """Rows and columns from the query."""
    size = []
    for name in ("h", "w"):
        value = request.query.integer(name, minimum=0)
        if value is None or value > _MAX_WINDOW:
            raise InvalidSpec(
                f"{name}={request.query.text(name)!r} is no size of a terminal: expected 0 to {_MAX_WINDOW}"
            )
        size.append(value)
    return size[0], size[1]


def detach_keys(given: str) -> bytes:
    """The bytes of "ctrl-p,ctrl-q" or "ctrl-x,q"; raises InvalidSpec for other words."""
    keys = bytearray()
    for word in (given or DEFAULT_DETACH_KEYS).split(","):
        if len(word) == 1 and word.isascii():
            keys.append(ord(word))
        elif word.startswith("ctrl-") and word[5:] in _CONTROLS:
            keys.append(_CONTROLS[word[5:]])
        else:
            raise InvalidSpec(
                f'detachKeys has {word!r}: expected a character or "ctrl-" and one of a-z @ [ \\ ] ^ _'
            )
    return bytes(keys)


class DetachFilter:
    """Finds the detach keys in what is typed, and holds back what may be their beginning."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._matched = 0

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What is to be passed on, and whether the keys were typed; after them nothing is passed."""
        passed = bytearray()
        for byte in data:
            if byte == self._keys[self._matched]:
                self._matched += 1
                if self._matched == len(self._keys):
                    return bytes(passed), True
                continue
            passed += self._keys[: self._matched]
            self._matched = 0
            if byte == self._keys[0]:
                self._matched = 1
            else:
                passed.append(byte)
        return bytes(passed), False
