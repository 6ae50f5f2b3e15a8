# SPDX-License-Identifier: Apache-2.0
"""What of a directory is left out: .dockerignore, and `COPY --exclude`.

Matching is that of moby/patternmatcher as BuildKit walks with it (MatchesUsingParentResults): the last
pattern that matches a path, or a directory that it is in, decides; one with `!` takes it back in.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable

from .errors import DockerfileError, Location
from .path_patterns import PathPattern
from .words import SPACE

_BOM = b"\xef\xbb\xbf"
_MOST_REMEMBERED = 4096  # directories


class Ignore:
    """Patterns in their order. Raises DockerfileError for one that is not valid.

    It remembers what it found for directories, so it is fast for a walk and not for use by several threads.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns: list[tuple[PathPattern, bool]] = []
        for text in patterns:
            self._add(text)
        self._directories: dict[str, tuple[bool, int]] = {}

    @classmethod
    def parse(cls, text: bytes, file: str = ".dockerignore") -> Ignore:
        """Read an ignore file: a pattern a line, `#` begins a comment. An error names file and line."""
        ignore = cls(())
        decoded = text.removeprefix(_BOM).decode("utf-8", "surrogateescape")
        for number, line in enumerate(decoded.split("\n"), 1):
            if line.startswith("#"):
                continue
            try:
                ignore._add(line)
            except DockerfileError as error:
                raise error.at(Location(file, number, number, line.strip(SPACE))) from None
        return ignore

    def _add(self, text: str) -> None:
        pattern = text.strip(SPACE)
        exception = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip(SPACE) if exception else pattern
        if not pattern:
            if exception:
                raise DockerfileError("the pattern ! takes nothing back in: expected !pattern")
            return
        # A slash in front means the root of the context, which all patterns begin at anyway.
        cleaned = posixpath.normpath(pattern).lstrip("/")
        if cleaned:
            self._patterns.append((PathPattern(cleaned), exception))

    def excludes(self, path: str) -> bool:
        """Whether the path, relative to the root and without slashes around it, is left out."""
        return self._match(path)[0]

    def skips_directory(self, path: str) -> bool:
        """Whether the directory is left out and nothing below it can be taken back in: nobody needs to
        read it.
        """
        excluded, matched = self._match(path)
        if not excluded:
            return False
        return not any(
            exception and not matched >> index & 1 and pattern.may_match_below(path)
            for index, (pattern, exception) in enumerate(self._patterns)
        )

    def _match(self, path: str) -> tuple[bool, int]:
        """Whether it is left out, and which patterns have matched it or a directory above, a bit each."""
        known = self._directories.get(path)
        if known is not None:
            return known
        cut = path.rfind("/")
        matched = self._directory(path[:cut])[1] if cut >= 0 else 0
        return self._own(path, matched)

    def _directory(self, path: str) -> tuple[bool, int]:
        """As _match, remembered."""
        # From the nearest known directory downwards: paths may be deeper than the interpreter's stack.
        end = len(path)
        while end > 0 and path[:end] not in self._directories:
            end = max(path.rfind("/", 0, end), 0)
        found = self._directories[path[:end]] if end else (False, 0)
        while end < len(path):
            end = path.find("/", end + 1) if end else path.find("/")
            end = len(path) if end < 0 else end
            found = self._own(path[:end], found[1])
            if len(self._directories) >= _MOST_REMEMBERED:
                self._directories.clear()
            self._directories[path[:end]] = found
        return found

    def _own(self, path: str, above: int) -> tuple[bool, int]:
        excluded = False
        matched = 0
        for index, (pattern, exception) in enumerate(self._patterns):
            bit = 1 << index
            if not above & bit and (exception != excluded or not pattern.matches(path)):
                continue
            matched |= bit
            excluded = not exception
        return excluded, matched
