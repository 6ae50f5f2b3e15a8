# SPDX-License-Identifier: Apache-2.0
"""The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/replacement}`.

`*` stands for any characters and `?` for one, neither for a line's end; a backslash makes `*`, `?`, a
backslash, and what would end the pattern (`}` and `/`), stand for itself. There are no bracket expressions.
POSIX "Pattern Matching Notation" without those, as BuildKit has it. No pattern takes more time than its
length times the value's.
"""

from __future__ import annotations

import re

from .errors import DockerfileError

_ANY = ("*", False)


def trim_prefix(pattern: str, value: str, longest: bool) -> str:
    """The value without the shortest or longest beginning that the pattern matches."""
    end = _Pattern(_tokens(pattern)).end(value, 0, longest)
    return value if end is None else value[end:]


def trim_suffix(pattern: str, value: str, longest: bool) -> str:
    """The value without the shortest or longest end that the pattern matches."""
    # A search goes from left to right, so both are turned round.
    backwards = value[::-1]
    end = _Pattern(_tokens(pattern)[::-1]).end(backwards, 0, longest)
    return value if end is None else backwards[end:][::-1]


def replace(pattern: str, replacement: str, value: str, everywhere: bool) -> str:
    """The value with the first match of the pattern (the longest at that place), or each, replaced."""
    compiled = _Pattern(_tokens(pattern))
    parts: list[str] = []
    copied = position = 0
    after_match = -1
    while position <= len(value) and (found := compiled.search(value, position)) is not None:
        start, end = found
        # Nothing, right behind what was just replaced, is no match of its own.
        if start != end or start != after_match:
            parts += (value[copied:start], replacement)
            copied = after_match = end
        if not everywhere:
            break
        position = end if end > start else start + 1
    return "".join((*parts, value[copied:]))


def _tokens(pattern: str) -> list[tuple[str, bool]]:
    """The pattern's characters, each with whether it stands for itself."""
    tokens: list[tuple[str, bool]] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        position += 1
        if character != "\\":
            tokens.append((character, character not in "*?"))
            continue
        escaped = pattern[position : position + 1]
        if escaped == "" or escaped not in "*?\\}/":
            raise DockerfileError(
                f"the pattern {pattern!r} has a backslash before {repr(escaped) if escaped else 'its end'}: "
                "expected one of * ? \\ } / there"
            )
        tokens.append((escaped, True))
        position += 1
    return tokens


class _Pattern:
    """Pieces without `*`: the first stands where the match begins, each other somewhere behind the last."""

    def __init__(self, tokens: list[tuple[str, bool]]) -> None:
        pieces = [""]
        for token in tokens:
            if token == _ANY:
                pieces.append("")
            else:
                pieces[-1] += re.escape(token[0]) if token[1] else "."
        self._first = re.compile(pieces[0])
        # For the shortest match each piece is taken at its first place; for the longest the last piece is
        # taken at its last place. No choice is ever revised, so time is linear.
        self._soonest = [re.compile(".*?" + piece) for piece in pieces[1:]]
        self._latest = re.compile(".*" + pieces[-1]) if len(pieces) > 1 else None
        self._spans_lines = ("\n", True) in tokens

    def end(self, value: str, start: int, longest: bool) -> int | None:
        """Where a match that begins at `start` ends."""
        position, matched = self._follow(value, start, longest)
        return position if matched else None

    def search(self, value: str, position: int) -> tuple[int, int] | None:
        """The first place from `position` on where it matches, and where the longest match there ends."""
        while (first := self._first.search(value, position)) is not None:
            end, matched = self._follow(value, first.start(), longest=True)
            if matched:
                return first.start(), end
            if self._spans_lines:
                position = first.start() + 1
                continue
            # What is missing behind this place up to the line's end is missing behind every later one too.
            line_end = value.find("\n", end)
            if line_end < 0:
                return None
            position = line_end + 1
        return None

    def _follow(self, value: str, start: int, longest: bool) -> tuple[int, bool]:
        """How far a match from `start` on comes, and whether that is all of the pattern."""
        found = self._first.match(value, start)
        if found is None:
            return start, False
        position = found.end()
        rest = self._soonest
        if longest and self._latest is not None:
            rest = [*rest[:-1], self._latest]
        for piece in rest:
            found = piece.match(value, position)
            if found is None:
                return position, False
            position = found.end()
        return position, True
