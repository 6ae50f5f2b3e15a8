# SPDX-License-Identifier: Apache-2.0
"""Parser directives: the comments `# syntax=…`, `# escape=…` and `# check=…` at the top of a Dockerfile."""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import DockerfileError
from .words import SPACE

_NAMES = ("syntax", "escape", "check")
_BLANK = "\t\n\f\r "  # \s of Go's regular expressions
_BEGINNING = re.compile(r"([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=")


@dataclass(frozen=True, slots=True)
class Directive:
    """A parser directive: its name in lower case, its value without blanks around it, its line from 1."""

    name: str
    value: str
    line: int


class Directives:
    """Reads the lines of a file in turn until one is no directive: none counts behind it."""

    def __init__(self) -> None:
        self.found: list[Directive] = []
        self.escape = "\\"
        self._over = False

    def take(self, line: str, number: int) -> None:
        """Look at a line, without its end. Raises DockerfileError for a directive that is there twice, and
        for an escape that is neither a backslash nor a backtick.
        """
        if self._over:
            return
        directive = _parse(line, number)
        if directive is None:
            self._over = True
            return
        if any(directive.name == earlier.name for earlier in self.found):
            raise DockerfileError(
                f"the parser directive {directive.name} is there twice: expected it once at most"
            )
        if directive.name == "escape":
            if directive.value not in ("\\", "`"):
                raise DockerfileError(f"the escape {directive.value!r} is not known: expected \\ or `")
            self.escape = directive.value
        self.found.append(directive)


def _parse(line: str, number: int) -> Directive | None:
    if not line.startswith("#"):
        return None
    text = line[1:].lstrip(SPACE)
    beginning = _BEGINNING.match(text)
    if beginning is None or beginning[1].lower() not in _NAMES:
        return None
    rest = text[beginning.end() :]
    # A value of blanks is one.
    value = rest.strip(_BLANK) or rest[-1:]
    return Directive(beginning[1].lower(), value, number) if value else None
