# SPDX-License-Identifier: Apache-2.0
"""Quotes, escapes and variables in the words of a Dockerfile, as BuildKit's shell lexer treats them.

It resembles a POSIX shell and is not one: there is no command substitution, no arithmetic, and `${name=word}`
is an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

from .errors import DockerfileError
from .shell_patterns import replace, trim_prefix, trim_suffix

# The value of a variable, None if it is not set.
Lookup = Callable[[str], str | None]
# What becomes of quotes: they go, as in a shell; they do their work and stay; they are letters like others.
Quotes = Literal["strip", "keep", "literal"]

# Go's unicode.IsSpace, which is not Python's str.isspace.
SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006"
    "\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_SPACES = frozenset(SPACE)
# Never special, so taken in runs.
_PLAIN = re.compile(r"[\w.:=,@+-]+")
_SPECIAL_PARAMETERS = frozenset("@*#?-$!0")
_DEEPEST = 50  # ${a:-${b:-…}}


def process_word(
    word: str, lookup: Lookup, *, escape: str = "\\", quotes: Quotes = "strip", keep_unset: bool = False
) -> str:
    """The word with its variables replaced and its quotes and escapes taken away; blanks stay as they are.

    With `keep_unset` a variable that is not set stays as it was written. Raises DockerfileError.
    """
    return _Reader(word, lookup, escape, quotes, keep_unset).read("", False)[0]


def process_words(
    text: str,
    lookup: Lookup,
    *,
    escape: str = "\\",
    quotes: Quotes = "strip",
    keep_escapes: bool = False,
    keep_unset: bool = False,
) -> list[str]:
    """As `process_word`, and split where blanks are outside of quotes, also at those out of variables.

    An empty word is none, even in quotes.
    """
    return _Reader(text, lookup, escape, quotes, keep_unset).read("", keep_escapes)[1]


class _Words:
    """Collects the words of one text."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._words: list[str] = []

    def add(self, text: str) -> None:
        """Text in which blanks separate."""
        for character in text:
            if character not in _SPACES:
                self._parts.append(character)
            elif self._parts:
                self._flush()

    def add_raw(self, text: str) -> None:
        """Text in which they don't."""
        if text:
            self._parts.append(text)

    def _flush(self) -> None:
        self._words.append("".join(self._parts))
        self._parts.clear()

    def finish(self) -> list[str]:
        if self._parts:
            self._flush()
        return self._words


class _Reader:
    def __init__(self, text: str, lookup: Lookup, escape: str, quotes: Quotes, keep_unset: bool) -> None:
        self._text = text
        self._at = 0
        self._lookup = lookup
        self._escape = escape
        self._quotes = quotes
        self._keep_unset = keep_unset
        self._keep_escapes = False
        self._depth = 0

    def read(self, stop: str, keep_escapes: bool) -> tuple[str, list[str]]:
        """Up to the character `stop`, which is taken too, or to the end if it is ""."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise DockerfileError(f"substitutions are nested more than {_DEEPEST} deep")
        outer, self._keep_escapes = self._keep_escapes, keep_escapes
        result: list[str] = []
        words = _Words()
        while self._at < len(self._text):
            character = self._text[self._at]
            if character == stop:
                self._at += 1
                break
            if plain := _PLAIN.match(self._text, self._at):
                self._at = plain.end()
                result.append(plain[0])
                words.add_raw(plain[0])
            elif character == "$":
                value = self._dollar()
                result.append(value)
                words.add(value)
            elif character == "<":
                value = self._less_than()
                result.append(value)
                words.add_raw(value)
            elif character in "'\"" and self._quotes != "literal":
                value = self._single_quoted() if character == "'" else self._double_quoted()
                result.append(value)
                words.add_raw(value)
            elif character == self._escape:
                self._at += 1
                # An escape at the end escapes nothing and goes.
                value = (character if self._keep_escapes else "") + self._next()
                result.append(value)
                words.add_raw(value)
            else:
                self._at += 1
                result.append(character)
                words.add(character)
        else:
            if stop:
                raise DockerfileError(f"the substitution has no closing {stop!r}")
        self._keep_escapes = outer
        self._depth -= 1
        return "".join(result), words.finish()

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        character = self._peek()
        self._at += 1
        return character

    def _quoted(self, text: str, quote: str) -> str:
        return f"{quote}{text}{quote}" if self._quotes == "keep" else text

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise DockerfileError("a single quote is not closed")
        text = self._text[self._at + 1 : end]
        self._at = end + 1
        return self._quoted(text, "'")

    def _double_quoted(self) -> str:
        self._at += 1
        result: list[str] = []
        while character := self._peek():
            if character == '"':
                self._at += 1
                return self._quoted("".join(result), '"')
            if character == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if character == self._escape:
                following = self._peek()
                if self._keep_escapes:
                    result.append(character)
                # Any other character that follows has the escape before it stay.
                if following and following in f'"${self._escape}':
                    character = self._next()
                elif not following:
                    break
            result.append(character)
        raise DockerfileError("a double quote is not closed")

    def _less_than(self) -> str:
        """`<`, or the `<<` of a heredoc with the blanks before its word."""
        start = self._at
        self._at += 1
        if self._peek() == "<":
            self._at += 1
            while self._peek() and self._peek() in "\t\r ":
                self._at += 1
        return self._text[start : self._at]

    def _name(self) -> str:
        start = self._at
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._at += 1
        elif first in _SPECIAL_PARAMETERS:
            self._at += 1
        else:
            while (character := self._peek()) == "_" or character.isalpha() or character.isdecimal():
                self._at += 1
        return self._text[start : self._at]

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._lookup(name)
            return (f"${name}" if self._keep_unset else "") if value is None else value
        self._at += 1
        following = self._peek()
        if not following:
            raise DockerfileError("the substitution ${ has no closing '}'")
        if following in "{}:":
            raise DockerfileError(f"bad substitution: ${{{following} where a variable's name was expected")
        return self._braces(self._name())

    def _braces(self, name: str) -> str:
        operator = self._next()
        match operator:
            case "}":
                value = self._lookup(name)
                return (f"${{{name}}}" if self._keep_unset else "") if value is None else value
            case "/":
                return self._replacement(name)
            case "#" | "%":
                return self._trimmed(name, operator)
            case ":":
                operator += self._next()
        if operator not in ("-", "+", "?", ":-", ":+", ":?"):
            raise DockerfileError(
                f"the substitution ${{{name}{operator} is not known: "
                "expected one of - + ? :- :+ :? # ## % %% / // or } behind the name"
            )
        word, _ = self.read("}", False)
        value = self._lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}{operator}{word}}}"
        missing = value is None or (operator[0] == ":" and not value)
        if operator[-1] == "+":
            return "" if missing else word
        if value is not None and not missing:
            return value
        if operator[-1] == "-":
            return word
        raise DockerfileError(
            f"{name}: {word or 'is not allowed to be ' + ('unset' if value is None else 'empty')}"
        )

    def _trimmed(self, name: str, operator: str) -> str:
        pattern, _ = self.read("}", True)
        value = self._lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}{operator}{pattern}}}"
        longest = pattern.startswith(operator)
        trim = trim_prefix if operator == "#" else trim_suffix
        return trim(pattern.removeprefix(operator), value or "", longest)

    def _replacement(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern, _ = self.read("/", True)
        replacement, _ = self.read("}", True)
        value = self._lookup(name)
        if value is None and self._keep_unset:
            return f"${{{name}/{'/' * everywhere}{pattern}/{replacement}}}"
        return replace(pattern, replacement, value or "", everywhere)
