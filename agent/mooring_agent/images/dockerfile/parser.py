# SPDX-License-Identifier: Apache-2.0
"""A Dockerfile's bytes to its instructions as they are written: lines, comments, continuations, heredocs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from .directives import Directive, Directives
from .errors import DockerfileError, Location
from .heredocs import heredocs_of
from .syntax import Heredoc, Node, parse_line
from .words import SPACE

_BOM = b"\xef\xbb\xbf"
# The longest line that BuildKit reads (bufio.MaxScanTokenSize - 1), so the longest that is portable.
_LONGEST_LINE = 65535
_LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True, slots=True)
class DockerfileWarning:
    """What is allowed and probably not meant."""

    file: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class SyntaxTree:
    """All instructions of a Dockerfile in their order."""

    nodes: tuple[Node, ...]
    directives: tuple[Directive, ...]
    escape: str
    warnings: tuple[DockerfileWarning, ...]


def parse_syntax(text: bytes, file: str = "Dockerfile") -> SyntaxTree:
    """Read a Dockerfile. Bytes that are no UTF-8 stay as they are (surrogateescape).

    Raises DockerfileError. Whether instructions make sense is not looked at.
    """
    return _Parser(text, file).parse()


class _Parser:
    def __init__(self, text: bytes, file: str) -> None:
        decoded = text.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        self._lines: Iterator[str] = (found[0] for found in _LINE.finditer(decoded))
        self._file = file
        self._number = 0
        self._directives = Directives()
        self._nodes: list[Node] = []
        self._warnings: list[DockerfileWarning] = []

    def parse(self) -> SyntaxTree:
        while (line := self._next()) is not None:
            start = self._number
            stripped = line.rstrip("\r\n").lstrip(SPACE)
            try:
                self._directives.take(stripped, start)
            except DockerfileError as error:
                raise error.at(self._location(start, stripped)) from None
            if stripped and not stripped.startswith("#"):
                self._instruction(stripped, start)
        if not self._nodes:
            raise DockerfileError(
                "it has no instructions: expected one at least", self._location(max(self._number, 1), "")
            )
        return SyntaxTree(
            tuple(self._nodes),
            tuple(self._directives.found),
            self._directives.escape,
            tuple(self._warnings),
        )

    def _next(self) -> str | None:
        line = next(self._lines, None)
        if line is not None:
            self._number += 1
            if len(line) > _LONGEST_LINE:
                raise DockerfileError(
                    f"the line has {len(line)} characters: expected {_LONGEST_LINE} at most",
                    self._location(self._number, line),
                )
        return line

    def _instruction(self, first: str, start: int) -> None:
        line = self._logical_line(first)
        try:
            node = parse_line(line, self._directives.escape)
            heredocs = tuple(map(self._heredoc, heredocs_of(node)))
        except DockerfileError as error:
            raise error.at(self._location(start, line.strip(SPACE))) from None
        self._nodes.append(replace(node, heredocs=heredocs, start=start, end=self._number))

    def _logical_line(self, first: str) -> str:
        """The line and those that continue it; comments and empty lines between don't end it."""
        text, goes_on = self._continues(first)
        parts = [text]
        was_empty = False
        while goes_on and (line := self._next()) is not None:
            stripped = line.lstrip(SPACE)
            if stripped.startswith("#"):
                continue
            if not stripped:
                was_empty = True
                continue
            text, goes_on = self._continues(line.rstrip("\r\n"))
            parts.append(text)
        joined = "".join(parts)
        if was_empty:
            self._warnings.append(
                DockerfileWarning(
                    self._file,
                    self._number,
                    f"an empty line continues the instruction: {joined.strip(SPACE)}",
                )
            )
        return joined

    def _continues(self, line: str) -> tuple[str, bool]:
        """The line without the escape at its end, and whether there was one; a doubled one does not count."""
        escape = self._directives.escape
        stripped = line.rstrip(" \t")
        if stripped.endswith(escape) and not stripped.endswith(escape * 2):
            return stripped[:-1], True
        return line, False

    def _heredoc(self, announced: Heredoc) -> Heredoc:
        content: list[str] = []
        while (line := self._next()) is not None:
            candidate = line.rstrip("\r\n")
            if (candidate.lstrip("\t") if announced.chomp else candidate) == announced.name:
                return replace(announced, content="".join(content))
            content.append(line)
        raise DockerfileError(
            f"the heredoc <<{announced.name} does not end: expected a line that is {announced.name} alone"
        )

    def _location(self, line: int, source: str) -> Location:
        return Location(self._file, line, line, source)
