# SPDX-License-Identifier: Apache-2.0
"""Cells taken apart into magics and what is for the shell, and magics into their arguments. Everything here
is pure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .core.errors import UsageError

# A shell's job is named %1, %+ or %-: a cell may begin with one.
_MAGIC = re.compile(r"%(%?[A-Za-z]\w*)(?:[ \t]+(.*))?\Z", re.DOTALL)


@dataclass(frozen=True)
class MagicCall:
    """A line `%name rest`."""

    name: str
    rest: str


@dataclass(frozen=True)
class CellParts:
    """The magics at the head of a cell, and what follows them; `body` is empty if that is no command."""

    magics: tuple[MagicCall, ...]
    body: str


def split_cell(code: str) -> CellParts:
    """Take the magics off the head of a cell. Empty lines and comments before and between them belong to
    nobody.
    """
    lines = code.split("\n")
    magics: list[MagicCall] = []
    for number, line in enumerate(lines):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        match = _MAGIC.match(stripped)
        if match is None:
            return CellParts(tuple(magics), "\n" * number + "\n".join(lines[number:]))
        magics.append(MagicCall(match[1], (match[2] or "").strip()))
    return CellParts(tuple(magics), "")


@dataclass(frozen=True)
class Option:
    """An option of a magic: its names, and what its value is called (nothing for a switch)."""

    names: tuple[str, ...]
    value: str = ""


@dataclass(frozen=True)
class Arguments:
    """The arguments of one call: what has no name, the options by their first name, and what stands behind
    `--`.
    """

    words: tuple[str, ...]
    options: Mapping[str, str]
    rest: tuple[str, ...] = field(default_factory=tuple)

    def text(self, name: str) -> str | None:
        """Return the value of an option, None if it was not given."""
        return self.options.get(name)

    def number(self, name: str, default: int) -> int:
        """Return the value of an option as a whole number. Raises UsageError."""
        text = self.options.get(name)
        if text is None:
            return default
        if not text.isdigit() or int(text) == 0:
            raise UsageError(f"{name} is {text!r}, expected a whole number above 0")
        return int(text)

    def given(self, name: str) -> bool:
        """Return whether a switch was given."""
        return name in self.options


def parse_arguments(rest: str, options: Sequence[Option], usage: str) -> Arguments:
    """Take the rest of a magic's line apart. Raises UsageError, with the usage."""
    try:
        pending = shlex.split(rest)
    except ValueError as error:
        raise UsageError(f"{str(error).lower()} in {rest!r}: the usage is {usage}") from None
    known = {name: option for option in options for name in option.names}
    words: list[str] = []
    found: dict[str, str] = {}
    behind: tuple[str, ...] = ()
    while pending:
        word = pending.pop(0)
        if word == "--":
            behind = tuple(pending)
            break
        if not word.startswith("-") or word == "-":
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        option = known.get(name)
        if option is None:
            raise UsageError(f"{name} is no option here: the usage is {usage}")
        if option.value and not equals:
            if not pending:
                raise UsageError(f"{name} lacks its {option.value}: the usage is {usage}")
            value = pending.pop(0)
        elif equals and not option.value:
            raise UsageError(f"{name} takes no value: the usage is {usage}")
        found[option.names[0]] = value
    return Arguments(tuple(words), found, behind)
