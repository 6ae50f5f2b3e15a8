# SPDX-License-Identifier: Apache-2.0
"""What the terminal of a shell says, taken apart: text, the shell's own marks, and a few things that a screen
does.

The marks are those of "semantic prompts" (OSC 133, freedesktop.org's terminal-wg), with a nonce as their
third part so that a program which prints marks of its own (or a file that holds some) is not taken for the
shell:

    ESC ] 133 ; LETTER ; VALUE ; NONCE ; DETAIL BEL        DETAIL goes on to the end, and may hold semicolons

Control sequences are those of ECMA-48, section 5.4. A notebook's cell has lines and colours but no cursor, so
only SGR (colours) and EL (erase in line, which progress bars use) stay in the text; the others are taken out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

ESC = 0x1B
# Longer than this no sequence is waited for: the escape character is then text like any other.
MAX_SEQUENCE = 8192

# Whole control sequences, from the escape character on.
_CSI = re.compile(rb"\x1b\[([0-?]*)([ -/]*)([@-~])")
# An OSC ends with BEL or ST; it holds no control characters, so a truncated one ends at the next line break.
_OSC = re.compile(rb"\x1b\]([^\x00-\x1f\x7f]*)(?:\x07|\x1b\\)")
# DCS, SOS, PM and APC end with ST only.
_STRING = re.compile(rb"\x1b[PX^_][^\x1b]*\x1b\\")
_SHORT = re.compile(rb"\x1b[ -/]*[0-~]")
# The beginnings of sequences that more bytes may complete.
_CSI_BEGUN = re.compile(rb"\x1b\[[0-?]*[ -/]*\Z")
_OSC_BEGUN = re.compile(rb"\x1b\][^\x00-\x1f\x7f]*(?:\x1b)?\Z")
_STRING_BEGUN = re.compile(rb"\x1b[PX^_][^\x1b]*(?:\x1b)?\Z")
_SHORT_BEGUN = re.compile(rb"\x1b[ -/]*\Z")

# DEC private modes 47, 1047 and 1049 switch to the alternate screen (xterm's ctlseqs, "DECSET").
_ALTERNATE_SCREEN = {b"47", b"1047", b"1049"}


@dataclass(frozen=True)
class Text:
    """Output as bytes, still with the terminal's line ends (CR LF)."""

    data: bytes


@dataclass(frozen=True)
class Mark:
    """A mark of our own shell; `value` and `detail` mean what the letter says (see `script.py`)."""

    letter: str
    value: str
    detail: str


@dataclass(frozen=True)
class FullScreen:
    """A program has switched to the alternate screen."""


@dataclass(frozen=True)
class Clear:
    """A program has cleared the screen, as `clear` does."""


Event = Text | Mark | FullScreen | Clear


class MarkParser:
    """Takes the bytes of a terminal in chunks; the events do not depend on where those were cut."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce
        self._pending = b""
        self._at_home = False
        self._run = bytearray()  # text that no event has ended yet
        self._events: list[Event] = []

    def feed(self, data: bytes) -> list[Event]:
        """Return the events that `data` completes. Adjacent text comes as one event."""
        data = self._pending + data
        position = 0
        while True:
            escape = data.find(ESC, position)
            if escape < 0:
                self._text(data[position:])
                self._pending = b""
                break
            self._text(data[position:escape])
            end = self._sequence(data, escape)
            if end is None:
                self._pending = data[escape:]
                break
            position = end
        return self._take()

    def flush(self) -> list[Event]:
        """Return what was held back for a sequence that never came to its end, as text."""
        self._text(self._pending)
        self._pending = b""
        return self._take()

    def _take(self) -> list[Event]:
        self._end_run()
        events, self._events = self._events, []
        return events

    def _text(self, data: bytes) -> None:
        if data:
            self._at_home = False
            self._run += data

    def _end_run(self) -> None:
        if self._run:
            self._events.append(Text(bytes(self._run)))
            self._run.clear()

    def _event(self, event: Event) -> None:
        self._end_run()
        self._events.append(event)

    def _sequence(self, data: bytes, start: int) -> int | None:
        """Handle the sequence at `start` and return where it ends, or None if more bytes may complete it."""
        window = data[start : start + MAX_SEQUENCE]
        kind = window[1:2]
        if kind == b"[":
            whole, begun = _CSI, _CSI_BEGUN
        elif kind == b"]":
            whole, begun = _OSC, _OSC_BEGUN
        elif kind and kind in b"PX^_":
            whole, begun = _STRING, _STRING_BEGUN
        else:
            whole, begun = _SHORT, _SHORT_BEGUN
        match = whole.match(window)
        if match is None:
            if len(window) < MAX_SEQUENCE and begun.match(window):
                return None
            self._text(window[:1])
            return start + 1
        if whole is _CSI:
            self._control(match)
        elif whole is _OSC:
            self._mark(match[1])
        return start + match.end()

    def _control(self, match: re.Match[bytes]) -> None:
        parameters, intermediates, final = match.groups()
        home, self._at_home = self._at_home, False
        if intermediates:
            return
        if parameters[:1] == b"?":
            if final == b"h" and _ALTERNATE_SCREEN.intersection(parameters[1:].split(b";")):
                self._event(FullScreen())
        elif parameters[:1] in (b"<", b"=", b">"):
            return
        elif final in (b"m", b"K"):
            self._text(match[0])
        elif final in (b"H", b"f"):
            self._at_home = parameters in (b"", b"1;1", b";")
        elif final == b"J" and (parameters in (b"2", b"3") or (home and parameters in (b"", b"0"))):
            self._event(Clear())

    def _mark(self, body: bytes) -> None:
        parts = body.split(b";", 4)
        if len(parts) < 4 or parts[0] != b"133" or parts[3] != self._nonce.encode():
            return
        letter, value = parts[1], parts[2]
        detail = parts[4] if len(parts) > 4 else b""
        self._event(
            Mark(
                letter.decode(errors="replace"),
                value.decode(errors="replace"),
                detail.decode(errors="replace"),
            )
        )
