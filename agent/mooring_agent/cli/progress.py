# SPDX-License-Identifier: Apache-2.0
"""How far a long call is: on standard error, as one line that is rewritten, or a bar for each layer."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .output import size

_REDRAW_SECONDS = 0.1
_BAR = 24  # characters
_RATE_OVER = 0.5  # seconds from which on a rate means something


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

    def take(self, event: Mapping[str, Any]) -> None:
        """Tell what an event of the Mooring API says: {step, current, total, detail}."""
        self.show(event["detail"] or event["step"], event["current"], event["total"])

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


@dataclass(slots=True)
class _Layer:
    """What is known of one layer: since when it has been in this step, from how many bytes on."""

    step: str
    since: float
    begun: int
    current: int
    total: int | None


class LayerBars:
    """One line for each layer that moves, with a bar and a rate; use it in a `with` block.

    Beside a terminal each step of a layer is told once.
    """

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._layers: dict[str, _Layer] = {}
        self._lines = 0
        self._drawn = 0.0

    def __enter__(self) -> LayerBars:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._terminal and self._layers:
            self._draw()

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in an event of the Mooring API: {step, current, total, detail}."""
        now = time.monotonic()
        name, step, current = event["detail"] or event["step"], event["step"], event["current"] or 0
        layer = self._layers.get(name)
        if layer is None or layer.step != step:
            self._layers[name] = _Layer(step, now, current, current, event["total"])
            if not self._terminal:
                print(f"{name}: {step}", file=sys.stderr)
        else:
            layer.current, layer.total = current, event["total"]
        if self._terminal and now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._draw()

    def _draw(self) -> None:
        width, height = os.get_terminal_size(2)
        now = time.monotonic()
        rows = [
            bar(name, layer.step, layer.current, layer.total, _rate(layer, now))
            for name, layer in self._layers.items()
        ][-max(height - 1, 1) :]
        up = f"\x1b[{self._lines}A" if self._lines else ""
        text = "".join(f"\r\x1b[K{row[: max(width - 1, 1)]}\n" for row in rows)
        self._lines = len(rows)
        sys.stderr.write(up + text)
        sys.stderr.flush()


def bar(name: str, step: str, current: int, total: int | None, rate: float | None) -> str:
    """One layer as a line: its name, what is done, a bar, bytes, and bytes a second. Pure."""
    text = f"{name:<14} {step:<9}"
    if total:
        done = min(_BAR * current // total, _BAR)
        text += f" [{'=' * done}{' ' * (_BAR - done)}] {size(current)} of {size(total)}"
    elif current:
        text += f" {size(current)}"
    return text + (f"  {size(int(rate))}/s" if rate else "")


def _rate(layer: _Layer, now: float) -> float | None:
    """Bytes a second in this step; None where that means nothing."""
    if layer.step not in ("download", "upload", "unpack") or now - layer.since < _RATE_OVER:
        return None
    return (layer.current - layer.begun) / (now - layer.since)
