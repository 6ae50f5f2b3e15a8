# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a Dockerfile, and where."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from mooring_agent.errors import InvalidSpec

_LONGEST_SOURCE = 200  # characters of a source line in a message


@dataclass(frozen=True, slots=True)
class Location:
    """Where an instruction stands: its file as the user named it, its first and last line (from 1), and its
    text with continuation lines joined.
    """

    file: str
    start: int
    end: int
    source: str

    @property
    def instruction(self) -> str:
        """The instruction's name, in capitals as it is shown."""
        return self.source.split(maxsplit=1)[0].upper() if self.source.split() else ""


class DockerfileError(InvalidSpec):
    """A Dockerfile breaks the language's rules.

    Raised without a location where only a word or a flag is known; whoever knows the instruction calls `at`.
    """

    def __init__(self, problem: str, location: Location | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.location: Location | None = None
        if location is not None:
            self.at(location)

    def at(self, location: Location) -> DockerfileError:
        """Say where it is, unless that is known already; the error itself is returned."""
        if self.location is None:
            self.location = location
            source = location.source
            if len(source) > _LONGEST_SOURCE:
                source = source[:_LONGEST_SOURCE] + "…"
            self.message = f"{location.file}:{location.start}: {self.problem}"
            if source:
                self.message += f" (in: {source})"
            self.args = (self.message,)
        return self


def nearest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: the known word that was probably meant, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(names)}"
