# SPDX-License-Identifier: Apache-2.0
"""A shell session with what its last cell has shown."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.waiting import PATIENCE
from mooring_kernel.core.cell import Ask, CellResult, Timing
from mooring_kernel.core.output import CellOutput, Limits
from mooring_kernel.core.shell import ShellSession
from unit.kernel.recorder import Recorder

# Short, since each case is waited for.
TIMING = Timing(interrupt_patience=0.6 * PATIENCE, stop_patience=0.5 * PATIENCE)


class Shell:
    """A session with what its last cell has shown."""

    def __init__(self, session: ShellSession) -> None:
        self.session = session
        self.display = Recorder()

    def run(self, code: str, ask: Ask | None = None, limits: Limits | None = None) -> CellResult:
        self.display = Recorder()
        return self.session.run(code, CellOutput(self.display, limits), ask)

    def output(self, code: str) -> str:
        """Run a cell that must succeed, and return its output."""
        assert self.run(code) == CellResult(0, False), self.display.shown
        return self.display.stdout()

    def interrupted_after(self, seconds: float, code: str) -> CellResult:
        """Run a cell, and interrupt it so long after it has said `begun`, which it does first unless its code
        says when.
        """
        timer = threading.Timer(seconds, self.session.interrupt)
        self.display = _Watched("begun", timer.start)
        try:
            code = code if "begun" in code else f"echo begun; {code}"
            return self.session.run(code, CellOutput(self.display), None)
        finally:
            timer.cancel()
            if timer.ident is not None:
                timer.join()


class _Watched(Recorder):
    """A display that tells once when it shows a word."""

    def __init__(self, word: str, shown: Callable[[], None]) -> None:
        super().__init__()
        self._word = word
        self._tell: Callable[[], None] | None = shown

    def text(self, stream: str, text: str) -> None:
        super().text(stream, text)
        if self._tell is not None and self._word in self.stdout():
            tell, self._tell = self._tell, None
            tell()


Open = Callable[[], Shell]


def answering(*lines: str | None) -> tuple[Ask, list[bool]]:
    """An `ask` that gives these lines (None: end of input), and a list of what it was asked."""
    asked: list[bool] = []
    pending = list(lines)

    def ask(*, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        asked.append(password)
        assert still_wanted()
        line = pending.pop(0)
        if line is None:
            raise EOFError
        return line

    return ask, asked
