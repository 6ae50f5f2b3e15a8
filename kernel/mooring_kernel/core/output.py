# SPDX-License-Identifier: Apache-2.0
"""The output of one cell on its way to the notebook: decoded, gathered, and kept from flooding it.

A Jupyter server drops messages beyond 1 MB/s or 1,000 messages/s (`iopub_data_rate_limit`,
`iopub_msg_rate_limit`), and a notebook of many megabytes opens in no browser. So text is gathered for some
milliseconds or some kilobytes, and what goes beyond the cell's allowance goes to a file; its end is shown
when the cell is over.
"""

from __future__ import annotations

import codecs
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from .render import human_bytes


@dataclass(frozen=True)
class Limits:
    """How much of a cell's output goes where; bytes and seconds."""

    gather_time: float = 0.05
    gather_bytes: int = 64 << 10
    shown_bytes: int = 1 << 20
    file_bytes: int = 1 << 30
    tail_bytes: int = 2 << 10


class Display(Protocol):
    """Where a cell's output is shown."""

    def text(self, stream: str, text: str) -> None:
        """Show text on `stdout` or `stderr`."""

    def clear(self, *, wait: bool) -> None:
        """Clear what the cell has shown so far, with `wait` only when the next text comes."""


class TerminalText:
    """Turns a terminal's bytes into text: UTF-8, wherever it was cut, with LF where the terminal had made CR
    LF of it.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._return_held = False

    def decode(self, data: bytes, *, final: bool = False) -> str:
        """Return the text that `data` completes; with `final` also what was waiting for more."""
        text = self._decoder.decode(data, final)
        if self._return_held:
            text = "\r" + text
        self._return_held = not final and text.endswith("\r")
        if self._return_held:
            text = text[:-1]
        return text.replace("\r\n", "\n")


class CellOutput:
    """Gathers the output of one cell. Whoever runs the cell calls `flush_if_due` after `due` seconds."""

    def __init__(
        self,
        display: Display,
        limits: Limits | None = None,
        *,
        directory: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._display = display
        self._limits = limits or Limits()
        self._directory = directory
        self._clock = clock
        self._decoder = TerminalText()
        self._gathered: list[str] = []
        self._gathered_size = 0
        self._gathered_since: float | None = None
        self._clear_first = False
        self._shown = 0
        self._overflow: Overflow | None = None

    def write(self, data: bytes) -> None:
        """Take bytes of the terminal."""
        self._gather(self._decoder.decode(data))

    def clear(self) -> None:
        """Forget what was not shown yet, and clear the rest with the next flush."""
        self._gather(self._decoder.decode(b"", final=True))
        self._gathered.clear()
        self._gathered_size = 0
        self._clear_first = True
        self._start_clock()

    def notice(self, text: str) -> None:
        """Say something of our own, on stderr, after all output that came before."""
        self.flush()
        self._display.text("stderr", f"mooring: {text}\n")

    def due(self) -> float | None:
        """Return in how many seconds `flush_if_due` has something to do, None if nothing waits."""
        if self._gathered_since is None:
            return None
        return max(0.0, self._gathered_since + self._limits.gather_time - self._clock())

    def flush_if_due(self) -> None:
        """Show what has waited long enough."""
        if self.due() == 0.0:
            self.flush()

    def flush(self) -> None:
        """Show what was gathered, now."""
        text = "".join(self._gathered)
        self._gathered.clear()
        self._gathered_size = 0
        self._gathered_since = None
        if self._clear_first:
            self._clear_first = False
            self._display.clear(wait=bool(text))
        if text:
            self._show(text)

    def finish(self) -> None:
        """Show the rest; if there was too much, say where it is and show its end."""
        self._gather(self._decoder.decode(b"", final=True))
        self.flush()
        if self._overflow is not None:
            overflow, self._overflow = self._overflow, None
            self._display.text("stdout", overflow.close())
            self._display.text("stderr", f"mooring: {overflow.summary()}\n")

    def _gather(self, text: str) -> None:
        if not text:
            return
        self._gathered.append(text)
        self._gathered_size += len(text)
        self._start_clock()
        if self._gathered_size >= self._limits.gather_bytes:
            self.flush()

    def _start_clock(self) -> None:
        if self._gathered_since is None:
            self._gathered_since = self._clock()

    def _show(self, text: str) -> None:
        if self._overflow is None:
            room = self._limits.shown_bytes - self._shown
            shown, text = text[:room], text[room:]
            self._shown += len(shown)
            if shown:
                self._display.text("stdout", shown)
            if not text:
                return
            self._overflow = Overflow(self._limits, self._directory)
            self._display.text("stderr", f"\nmooring: {self._overflow.announcement()}\n")
        self._overflow.write(text)


class Overflow:
    """The part of a cell's output that is not shown: a file, up to a limit, and the end of the text."""

    def __init__(self, limits: Limits, directory: Path | None) -> None:
        self._limits = limits
        self._tail = ""
        self._written = 0
        self._lost = 0
        self._problem = ""
        self._file: BinaryIO | None = None
        self.path: Path | None = None
        try:
            descriptor, name = tempfile.mkstemp(prefix="mooring-output-", suffix=".txt", dir=directory)
        except OSError as error:
            self._problem = f"no file could be made for it ({error.strerror})"
        else:
            self._file = os.fdopen(descriptor, "wb")
            self.path = Path(name)

    def announcement(self) -> str:
        """Return what to tell the user at the moment when the allowance is used up."""
        where = f"the rest goes to {self.path}" if self.path else f"the rest is lost: {self._problem}"
        return f"this cell has shown {human_bytes(self._limits.shown_bytes)}; {where}"

    def write(self, text: str) -> None:
        """Take more of the output."""
        self._tail = (self._tail + text)[-self._limits.tail_bytes :]
        data = text.encode("utf-8", "replace")
        room = self._limits.file_bytes - self._written if self._file else 0
        kept = data[:room]
        if kept and self._file:
            try:
                self._file.write(kept)
            except OSError as error:
                self._problem = f"{self.path} could not be written ({error.strerror})"
                self._file.close()
                self._file = None
                kept = b""
        self._written += len(kept)
        self._lost += len(data) - len(kept)

    def close(self) -> str:
        """Close the file and return the end of the output, from a line's start if it holds one."""
        if self._file:
            self._file.close()
        if self._written + self._lost <= len(self._tail.encode("utf-8", "replace")):
            return self._tail
        return f"…\n{self._tail.partition(chr(10))[2] or self._tail}"

    def summary(self) -> str:
        """Return what to tell the user at the end of the cell."""
        text = (
            f"{human_bytes(self._written)} more of the output is in {self.path}, the lines above are its end"
        )
        if self._lost:
            reason = self._problem or f"the file may hold {human_bytes(self._limits.file_bytes)} at most"
            text += f"; {human_bytes(self._lost)} are lost: {reason}"
        return text
