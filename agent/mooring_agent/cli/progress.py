# SPDX-License-Identifier: Apache-2.0
"""How far a long call is: one line on standard error, rewritten where that is a terminal."""

from __future__ import annotations

import os
import sys
import time

from .output import size

_REDRAW_SECONDS = 0.1


class ProgressLine:
    """Use it in a `with` block; the line is gone afterwards."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._drawn = 0.0
        self._last = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._terminal and self._last:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def show(self, what: str, current: int | None, total: int | None) -> None:
        """Tell what is being done, and how much of it is done; beside a terminal only what is new."""
        if not self._terminal:
            if what != self._last:
                print(what, file=sys.stderr)
                self._last = what
            return
        now = time.monotonic()
        if what == self._last and now - self._drawn < _REDRAW_SECONDS:
            return
        self._last, self._drawn = what, now
        text = what
        if current is not None:
            text += f"  {size(current)}" + (
                f" of {size(total)} ({100 * current // total} %)" if total else ""
            )
        width = os.get_terminal_size(2).columns
        sys.stderr.write(f"\r\x1b[K{text[: max(width - 1, 1)]}")
        sys.stderr.flush()
