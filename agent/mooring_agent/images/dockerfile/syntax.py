# SPDX-License-Identifier: Apache-2.0
"""The syntax of one instruction: a logical line of text to a Node, as BuildKit's line parsers read it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from .errors import DockerfileError
from .words import SPACE

_BLANKS = re.compile(r"[\t\v\f\r ]+")
_SPACES = frozenset(SPACE)


@dataclass(frozen=True, slots=True)
class Heredoc:
    """A heredoc of an instruction: the word behind `<<` without its quotes, and the lines up to that word.

    `expand`: the word was not quoted, so variables in the content are the reader's to expand. `chomp`: it was
    `<<-`, so leading tabs of each line are to go; `content` still has them.
    """

    name: str
    expand: bool
    chomp: bool
    content: str = ""

    @property
    def chomped(self) -> str:
        """The content without what `<<-` takes away."""
        return re.sub(r"^\t+", "", self.content, flags=re.MULTILINE) if self.chomp else self.content


@dataclass(frozen=True, slots=True)
class Node:
    """An instruction as it is written: its name, its flags, and its arguments, unexpanded.

    Of ENV and LABEL the arguments are name, value and separator ("=" or "" for the old form) in turns;
    ONBUILD has the instruction that it triggers as `child`, and no arguments. `json`: the arguments were a
    JSON list. `original` is the logical line, `start` and `end` are its first and last line, heredocs
    included, from 1.
    """

    name: str
    original: str
    flags: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    json: bool = False
    child: Node | None = None
    heredocs: tuple[Heredoc, ...] = ()
    start: int = 0
    end: int = 0


def parse_line(line: str, escape: str) -> Node:
    """Read a logical line. An instruction that is not known gets its arguments dropped: to refuse it is not
    this step's. Raises DockerfileError.
    """
    name, *rest = _BLANKS.split(line.strip(SPACE), maxsplit=1)
    flags, arguments = _split_flags(rest[0], escape) if rest else ((), "")
    arguments = arguments.strip(SPACE)
    keyword = name.lower()
    if keyword == "onbuild":
        if not arguments:
            return Node(name, line, flags)
        if arguments.split(maxsplit=1)[0].lower() == "onbuild":
            raise DockerfileError("ONBUILD ONBUILD is not allowed: a trigger cannot set another")
        return Node(name, line, flags, child=parse_line(arguments, escape))
    read = _FORMS.get(keyword)
    if read is None:
        return Node(name, line, flags, ("",))
    words, is_json = read(arguments, escape)
    return Node(name, line, flags, tuple(words), is_json)


def _split_flags(text: str, escape: str) -> tuple[tuple[str, ...], str]:
    """The words that begin with `--` in front, quotes and escapes taken away, and the rest of the text."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position] in _SPACES:
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), text[position:]
        word, position = _flag(text, position, escape)
        if word == "--":
            return tuple(flags), text[position:]
        flags.append(word)


def _flag(text: str, position: int, escape: str) -> tuple[str, int]:
    word: list[str] = []
    quote = ""
    while position < len(text):
        character = text[position]
        position += 1
        if not quote and character in _SPACES:
            break
        if quote and character == quote:
            quote = ""
            continue
        if not quote and character in "'\"":
            quote = character
            continue
        if character == escape:
            if position == len(text):
                break
            character = text[position]
            position += 1
        word.append(character)
    return "".join(word), position


def split_words(text: str, escape: str) -> list[str]:
    """Words between blanks; blanks in quotes and behind an escape belong to a word, which keeps both."""
    words: list[str] = []
    word: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if not quote and character in _SPACES:
            if word:
                words.append("".join(word))
                word.clear()
            continue
        if character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        # In single quotes an escape is a letter.
        if character == escape and quote != "'":
            if position == len(text):
                break
            word.append(character)
            character = text[position]
            position += 1
        word.append(character)
    if word:
        words.append("".join(word))
    return words


def _pairs(keyword: str) -> Callable[[str, str], tuple[list[str], bool]]:
    def read(text: str, escape: str) -> tuple[list[str], bool]:
        words = split_words(text, escape)
        if not words:
            return [], False
        if "=" not in words[0]:
            old = _BLANKS.split(text, maxsplit=1)
            if len(old) < 2:
                raise DockerfileError(f"{keyword} {text} has no value: expected {keyword} name=value")
            return [*old, ""], False
        arguments: list[str] = []
        for word in words:
            name, equals, value = word.partition("=")
            if not equals:
                raise DockerfileError(
                    f"{keyword}: {word!r} has no =, expected name=value (quote a value that has blanks)"
                )
            arguments += (name, value, equals)
        return arguments, False

    return read


def _words(text: str, escape: str) -> tuple[list[str], bool]:
    return split_words(text, escape), False


def _blank_separated(text: str, _escape: str) -> tuple[list[str], bool]:
    return (_BLANKS.split(text) if text else []), False


def _whole(text: str, _escape: str) -> tuple[list[str], bool]:
    return ([text] if text else []), False


def _json_or_whole(text: str, escape: str) -> tuple[list[str], bool]:
    words = _json_list(text)
    return _whole(text, escape) if words is None else (words, True)


def _json_or_words(text: str, escape: str) -> tuple[list[str], bool]:
    words = _json_list(text)
    return _blank_separated(text, escape) if words is None else (words, True)


def _health(text: str, escape: str) -> tuple[list[str], bool]:
    """The kind of check, then a command."""
    kind = next((text[:place] for place, character in enumerate(text) if character in _SPACES), text)
    if not kind:
        return [], False
    command, is_json = _json_or_whole(text[len(kind) :].lstrip(SPACE), escape)
    return [kind, *command], is_json


def _json_list(text: str) -> list[str] | None:
    """The strings of a JSON list, None if the text is no JSON list; what looks like one and is not is a
    command for the shell, as it always was.
    """
    if not text.startswith("["):
        return None
    try:
        # Numbers need not be converted to be refused.
        found = json.loads(
            text, parse_int=lambda _: None, parse_float=lambda _: None, parse_constant=_no_json
        )
    except ValueError:
        return None
    except RecursionError:
        found = [None]
    if not all(isinstance(item, str) for item in found):
        raise DockerfileError('a list in JSON form may have strings only: expected ["word", "word"]')
    # Half of a surrogate pair is no character.
    return [re.sub("[\ud800-\udbff\udc00-\udc7f\udd00-\udfff]", "\ufffd", item) for item in found]


def _no_json(_name: str) -> None:
    raise ValueError("NaN and Infinity are no JSON")


_FORMS: dict[str, Callable[[str, str], tuple[list[str], bool]]] = {
    "add": _json_or_words,
    "arg": _words,
    "cmd": _json_or_whole,
    "copy": _json_or_words,
    "entrypoint": _json_or_whole,
    "env": _pairs("ENV"),
    "expose": _blank_separated,
    "from": _blank_separated,
    "healthcheck": _health,
    "label": _pairs("LABEL"),
    "maintainer": _whole,
    "run": _json_or_whole,
    "shell": _json_or_whole,
    "stopsignal": _whole,
    "user": _whole,
    "volume": _json_or_words,
    "workdir": _whole,
}
KEYWORDS = frozenset((*_FORMS, "onbuild"))
