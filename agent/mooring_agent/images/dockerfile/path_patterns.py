# SPDX-License-Identifier: Apache-2.0
"""Patterns of paths: those of .dockerignore and `--exclude`, and the wildcards of COPY and ADD.

The grammar is that of Go's filepath.Match: `*` and `?` within a name, `[a-z]`, `[^a-z]`, a backslash before a
character that stands for itself; moby/patternmatcher adds `**` for any number of directories. A path has no
slash in front and none at its end. No pattern takes more time than its length times the path's square.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from .errors import DockerfileError


class _Kind(Enum):
    ONE = auto()  # what one character must be, as a regular expression
    SLASH = auto()
    STAR = auto()
    DIRECTORIES = auto()  # `**`: nothing, or anything up to a slash
    REST = auto()  # `**` at the end


@dataclass(frozen=True, slots=True)
class _Token:
    kind: _Kind
    regex: str = ""
    literal: str = ""
    takes_slash: bool = False


_SLASH = _Token(_Kind.SLASH, "/", "/")
_STAR = _Token(_Kind.STAR)


class PathPattern:
    """A pattern; with `double_star` `**` is more than two `*`. Raises DockerfileError if it is not valid."""

    def __init__(self, text: str, *, double_star: bool = True) -> None:
        self._tokens = list(_tokens(text, double_star))
        # Does this path match?
        self.matches: Callable[[str], bool] = _matcher(text, self._tokens)
        self._names = _names(self._tokens)

    def may_match_below(self, directory: str) -> bool:
        """Whether a path in this directory, at any depth, could match; "" is the root."""
        if not directory:
            return True
        parts = directory.split("/")
        for part, name in zip(parts, self._names, strict=False):
            if name is None:
                return True
            if not name.fullmatch(part):
                return False
        return len(self._names) > len(parts)


def has_wildcard(text: str) -> bool:
    """Whether a source of COPY or ADD stands for the paths that match it, and not for itself."""
    return re.search(r"^(?:[^\\]|\\.)*?[*?\[]", text, re.DOTALL) is not None


def _tokens(text: str, double_star: bool) -> Iterator[_Token]:
    position = 0
    while position < len(text):
        character = text[position]
        position += 1
        if character == "*":
            if not double_star or not text.startswith("*", position):
                yield _STAR
                continue
            position += 1
            takes_slash = text.startswith("/", position)
            position += takes_slash
            kind = _Kind.DIRECTORIES if position < len(text) else _Kind.REST
            yield _Token(kind, takes_slash=takes_slash)
        elif character == "?":
            yield _Token(_Kind.ONE, "[^/]")
        elif character == "[":
            regex, position = _class(text, position)
            yield _Token(_Kind.ONE, regex)
        elif character == "/":
            yield _SLASH
        else:
            if character == "\\":
                if position == len(text):
                    raise _invalid(text, "it ends with a backslash")
                character = text[position]
                position += 1
            yield _SLASH if character == "/" else _Token(_Kind.ONE, re.escape(character), character)


def _class(text: str, position: int) -> tuple[str, int]:
    """The regular expression of `[…]`, and the place behind it."""
    negated = text.startswith("^", position)
    position += negated
    ranges: list[str] = []
    while not (ranges and text.startswith("]", position)):
        first, position = _in_class(text, position)
        last = first
        if text.startswith("-", position):
            last, position = _in_class(text, position + 1)
        if last < first:
            raise _invalid(text, f"the range {first}-{last} ends before it begins")
        ranges.append(f"{re.escape(first)}-{re.escape(last)}")
    return f"(?!/)[{'^' * negated}{''.join(ranges)}]", position + 1


def _in_class(text: str, position: int) -> tuple[str, int]:
    character = text[position : position + 1]
    if character in ("", "-", "]"):
        raise _invalid(text, "a [ has no ], or a - or ] in it has no backslash before it")
    if character == "\\":
        position += 1
        character = text[position : position + 1]
        if not character:
            raise _invalid(text, "it ends with a backslash")
    return character, position + 1


def _invalid(text: str, why: str) -> DockerfileError:
    return DockerfileError(f"the pattern {text!r} is not valid: {why}")


def _matcher(text: str, tokens: list[_Token]) -> Callable[[str], bool]:
    """The fastest way to match, which is a comparison for most patterns that people write."""
    if all(token.literal for token in tokens):
        literal = _literal(tokens)
        return lambda path: path == literal
    if tokens[-1].kind is _Kind.REST and all(token.literal for token in tokens[:-1]):
        beginning = _literal(tokens[:-1])
        return lambda path: path.startswith(beginning)
    if tokens[0].kind is _Kind.DIRECTORIES and all(token.literal for token in tokens[1:]):
        end = _literal(tokens[1:])
        # `**name` is the end of a name too, `**/name` is a whole one.
        behind = "/" + end if tokens[0].takes_slash else end
        return lambda path: path.endswith(behind) or path == end
    if _at_names(tokens):
        compiled = re.compile(_regex(tokens), re.DOTALL)
        return lambda path: compiled.fullmatch(path) is not None
    singles = [re.compile(token.regex, re.DOTALL) if token.regex else None for token in tokens]
    return lambda path: _follow(tokens, singles, path)


def _literal(tokens: list[_Token]) -> str:
    return "".join(token.literal for token in tokens)


def _at_names(tokens: list[_Token]) -> bool:
    """Whether each `**` stands where a name begins, or at the end."""
    return all(
        token.kind is not _Kind.DIRECTORIES
        or index == 0
        or tokens[index - 1] is _SLASH
        or tokens[index - 1].takes_slash
        for index, token in enumerate(tokens)
    )


def _regex(tokens: list[_Token]) -> str:
    """A regular expression that never tries again what cannot come out differently.

    Between two `**` there is a fixed number of whole names, so their first place is as good as any later one;
    the same holds within a name for what is between two `*`.
    """
    groups: list[list[_Token]] = [[]]
    for token in tokens:
        if token.kind is _Kind.DIRECTORIES:
            groups.append([])
        else:
            groups[-1].append(token)
    parts = [_names_regex(groups[0])]
    for group in groups[1:-1]:
        # Two `**` in a row are one.
        if group:
            parts.append(f"(?>(?:|.*?/){_names_regex(group)})")
    if len(groups) > 1:
        parts.append(f"(?:|.*/){_names_regex(groups[-1])}")
    return "".join(parts)


def _names_regex(tokens: list[_Token]) -> str:
    parts: list[str] = []
    for piece in _pieces(tokens):
        inner = ["".join(token.regex for token in run) for run in _runs(piece)]
        parts.append(inner[0])
        parts += (f"(?>[^/]*?{run})" for run in inner[1:-1])
        if len(inner) > 1:
            parts.append(f"[^/]*{inner[-1]}")
        parts.append("/")
    parts.pop()
    return "".join(parts) + (".*" if tokens and tokens[-1].kind is _Kind.REST else "")


def _pieces(tokens: list[_Token]) -> list[list[_Token]]:
    """What is between slashes."""
    pieces: list[list[_Token]] = [[]]
    for token in tokens:
        if token is _SLASH:
            pieces.append([])
        else:
            pieces[-1].append(token)
    return pieces


def _runs(tokens: list[_Token]) -> list[list[_Token]]:
    """What is between stars."""
    runs: list[list[_Token]] = [[]]
    for token in tokens:
        if token is _STAR:
            runs.append([])
        elif token.kind is _Kind.ONE:
            runs[-1].append(token)
    return runs


def _names(tokens: list[_Token]) -> list[re.Pattern[str] | None]:
    """What the names of a path must be, one by one; None from the first on that a `**` is in."""
    names: list[re.Pattern[str] | None] = []
    for piece in _pieces(tokens):
        if any(token.kind in (_Kind.DIRECTORIES, _Kind.REST) for token in piece):
            return [*names, None]
        names.append(re.compile(_names_regex(piece), re.DOTALL))
    return names


def _follow(tokens: list[_Token], singles: list[re.Pattern[str] | None], path: str) -> bool:
    """Match by all places of the path that the tokens so far can lead to."""
    places = {0}
    for token, single in zip(tokens, singles, strict=True):
        if not places:
            return False
        match token.kind:
            case _Kind.REST:
                return True
            case _Kind.DIRECTORIES:
                first = min(places)
                places |= {place + 1 for place in range(first, len(path)) if path[place] == "/"}
            case _Kind.STAR:
                reached: set[int] = set()
                for place in places:
                    while place not in reached:
                        reached.add(place)
                        if place < len(path) and path[place] != "/":
                            place += 1
                places = reached
            case _:
                assert single is not None
                places = {place + 1 for place in places if single.match(path, place)}
    return len(path) in places
