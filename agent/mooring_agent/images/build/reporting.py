# SPDX-License-Identifier: Apache-2.0
"""What a build tells on its way: its steps in order, output as it comes, and the end of it for an error."""

from __future__ import annotations

import threading
from collections import deque

from mooring_agent.images.image import Progress, ProgressEvent

STEP, OUTPUT, ERRORS, NOTE, WARNING = "step", "output", "errors", "note", "warning"
"""Kinds of events (`ProgressEvent.step`); the text is the detail."""

_LINES = 20
_LONGEST_LINE = 2000  # bytes of a line in an error
_LONGEST_TITLE = 200


class Reporting:
    """Numbers the steps of a build, whose stages tell at the same time."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress = progress
        self._total = total
        self._lock = threading.Lock()

    def step(self, number: int, title: str) -> None:
        """An instruction begins."""
        title = " ".join(title.split())
        if len(title) > _LONGEST_TITLE:
            title = title[:_LONGEST_TITLE] + "…"
        self._tell(STEP, f"Step {number}/{self._total} : {title}", number)

    def note(self, text: str) -> None:
        """Something about the instruction at hand."""
        self._tell(NOTE, text)

    def warning(self, text: str) -> None:
        """Something to look at."""
        self._tell(WARNING, text)

    def output(self, text: str, *, errors: bool = False) -> None:
        """What a command has written, to its standard error if `errors`."""
        self._tell(ERRORS if errors else OUTPUT, text)

    def _tell(self, kind: str, text: str, number: int | None = None) -> None:
        with self._lock:
            self._progress(ProgressEvent(kind, number, self._total if number else None, text))


class Tail:
    """The last lines of an output."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque(maxlen=_LINES)
        self._open = b""

    def add(self, data: bytes) -> None:
        """More of it."""
        *whole, self._open = (self._open + data).split(b"\n")
        self._lines.extend(line[:_LONGEST_LINE] for line in whole)
        self._open = self._open[:_LONGEST_LINE]

    def text(self) -> str:
        """The lines, without an empty one at the end."""
        lines = [*self._lines, *([self._open] if self._open else ())]
        return b"\n".join(lines[-_LINES:]).decode("utf-8", "replace")
