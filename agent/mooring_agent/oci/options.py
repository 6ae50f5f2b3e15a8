# SPDX-License-Identifier: Apache-2.0
"""The command line, read by a table. Options have the names that other runtimes give them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidSpec


@dataclass(frozen=True)
class Option:
    """One option: `names` without dashes, `value` what its argument is called, "" for a flag."""

    names: tuple[str, ...]
    help: str
    value: str = ""
    default: Any = None
    repeated: bool = False

    @property
    def key(self) -> str:
        """The attribute that the answer has for it."""
        return self.names[0].replace("-", "_")


@dataclass(frozen=True)
class Command:
    """One command: which positional arguments it takes, its options, and `module.function` that runs it.

    With `rest` everything from the second positional argument on is left alone.
    """

    name: str
    help: str
    call: str
    arguments: str = ""
    least: int = 0
    most: int = 0
    rest: bool = False
    options: tuple[Option, ...] = ()


class Parsed:
    """What was given: an attribute for each option, and `words`, the positional arguments."""

    def __init__(self, options: Sequence[Option]) -> None:
        self.words: list[str] = []
        for option in options:
            initial = [] if option.repeated else option.default if option.value else False
            setattr(self, option.key, initial)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def parse(
    options: Sequence[Option], arguments: Sequence[str], *, stop_after: int | None = None
) -> tuple[Parsed, list[str]]:
    """Read options and positional arguments; what follows `stop_after` positional arguments is answered
    unread.

    Raises InvalidSpec for an unknown option or a missing value.
    """
    by_name = {name: option for option in options for name in option.names}
    parsed = Parsed(options)
    queue = list(arguments)
    while queue:
        if stop_after and len(parsed.words) >= stop_after:
            break
        word = queue.pop(0)
        if word == "--":
            if stop_after is None:
                parsed.words += queue
                queue = []
            continue
        if not word.startswith("-") or word == "-":
            if stop_after == 0:
                return parsed, [word, *queue]
            parsed.words.append(word)
            continue
        for name, attached in _names(word, by_name):
            option = by_name.get(name)
            if option is None:
                raise InvalidSpec(f"unknown option {word.partition('=')[0]}; see --help for those there are")
            _store(parsed, option, word, attached, queue)
    return parsed, queue


def _names(word: str, by_name: dict[str, Option]) -> list[tuple[str, str | None]]:
    """The options in one word, each with the value attached to it: --name, --name=value, -x, -xVALUE,
    -xyz.
    """
    if word.startswith("--") or (word.lstrip("-").partition("=")[0] in by_name and len(word) > 2):
        name, sign, value = word.lstrip("-").partition("=")
        return [(name, value if sign else None)]
    found: list[tuple[str, str | None]] = []
    letters = word[1:]
    for place, letter in enumerate(letters):
        option = by_name.get(letter)
        if option is not None and option.value:
            found.append((letter, letters[place + 1 :].removeprefix("=") or None))
            break
        found.append((letter, None))
    return found


def _store(parsed: Parsed, option: Option, word: str, attached: str | None, queue: list[str]) -> None:
    if not option.value:
        if attached not in (None, "true", "false"):
            raise InvalidSpec(f"option {word.partition('=')[0]} takes no value")
        setattr(parsed, option.key, attached != "false")
        return
    if attached is None:
        if not queue:
            raise InvalidSpec(f"option {word} wants a value: {option.value}")
        attached = queue.pop(0)
    if option.repeated:
        getattr(parsed, option.key).append(attached)
    else:
        setattr(parsed, option.key, attached)


def describe(options: Sequence[Option]) -> str:
    """The options for --help."""
    lines = []
    for option in options:
        names = ", ".join(f"-{name}" if len(name) == 1 else f"--{name}" for name in reversed(option.names))
        lines.append((f"{names} {option.value}".rstrip(), option.help))
    width = max((len(left) for left, _ in lines), default=0)
    return "\n".join(f"  {left:<{width}}  {right}" for left, right in lines)
