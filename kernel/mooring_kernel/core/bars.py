# SPDX-License-Identifier: Apache-2.0
"""How far an image is on its way, for each host: as lines of text and as HTML. Nothing here waits or asks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .render import Table, human_bytes

_WIDTH = 24  # characters of a bar
_RATE_OVER = 0.5  # seconds from which on a rate means something
_MOVING = ("download", "upload")  # steps that bytes go over the wire in
_TABLE = "border-collapse:collapse;text-align:left"
_CELL = "text-align:left;padding:2px 12px 2px 0;white-space:nowrap"
_TROUGH = "width:12em;height:0.8em;background:#ddd;border-radius:3px;overflow:hidden"
_COLOURS = {"failed": "#c62828", "done": "#2e7d32", "": "#1565c0"}


@dataclass(frozen=True)
class Bar:
    """One host: how much of its work is done (from 0 to 1), what is told of it, and how it ended if it did:
    `done` or `failed`.
    """

    host: str
    fraction: float
    words: str
    end: str = ""

    def text(self) -> str:
        """Return the bar as text."""
        done = round(_WIDTH * self.fraction)
        return f"[{'=' * done}{' ' * (_WIDTH - done)}]"

    def html(self) -> str:
        """Return the bar as an HTML element."""
        style = f"width:{100 * self.fraction:.0f}%;height:100%;background:{_COLOURS[self.end]}"
        return f'<div style="{_TROUGH}"><div style="{style}"></div></div>'


def bundle(bars: Sequence[Bar]) -> dict[str, str]:
    """Return the bars as a MIME bundle, a line for each host."""
    rows = tuple((bar.host, bar.text(), bar.words) for bar in bars)
    text = Table(("host", "done", ""), rows).text()
    body = "".join(
        "<tr>"
        + "".join(
            f'<td style="{_CELL}">{cell}</td>'
            for cell in (html.escape(bar.host), bar.html(), html.escape(bar.words))
        )
        + "</tr>"
        for bar in bars
    )
    return {"text/plain": text, "text/html": f'<table style="{_TABLE}"><tbody>{body}</tbody></table>'}


@dataclass
class _Blob:
    """One layer or configuration: bytes in all, over the wire, and unpacked."""

    total: int = 0
    moved: int = 0
    unpacked: int = 0


class Movement:
    """What is known of an image on its way to or from one host. Moments are seconds of a clock that runs on.

    Half of the bar is the wire and half the unpacking, for a pull; with `unpacks` false all is the wire.
    """

    def __init__(self, host: str, *, unpacks: bool) -> None:
        self.host = host
        self._unpacks = unpacks
        self._blobs: dict[str, _Blob] = {}
        self._step = ""
        self._wire = 0  # bytes that have gone over it
        self._began: float | None = None  # when the first of them did
        self._latest = 0.0
        self._end: tuple[str, str] | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come."""
        return self._end is not None

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """Take in an event of the agent: {step, current, total, detail}, in bytes; `detail` names a blob."""
        step, total = str(event.get("step") or ""), int(event.get("total") or 0)
        current = int(event.get("current") or 0)
        name = str(event.get("detail") or "").partition(" ")[0]
        self._step = step
        if not total:
            return
        blob = self._blobs.setdefault(name, _Blob())
        blob.total = total
        if step in _MOVING:
            if self._began is None:
                self._began, self._latest = now, now
            # What an earlier attempt had left goes over no wire again.
            begun = blob.moved or (current if current < total and blob.moved == 0 else 0)
            self._wire += max(current - begun, 0)
            blob.moved = max(blob.moved, current)
            self._latest = now
            return
        if step == "verify" and blob.moved and self._began is not None:
            self._wire += max(total - blob.moved, 0)  # what came since the last event
            self._latest = now
        if step == "unpack":
            blob.unpacked = max(blob.unpacked, current)
        elif step == "exists":
            blob.unpacked = total if blob.moved >= total else blob.unpacked
        blob.moved = total

    def succeed(self, changed: bool, done: str, digest: str) -> None:
        """Take in the end: what was done (`pulled`), if anything, and the digest that is there now."""
        words = f"{done}, {digest[:19]}" if changed else f"is up to date, {digest[:19]}"
        spent = self._latest - self._began if self._began is not None else 0.0
        if self._wire:
            words += f", {human_bytes(self._wire)}"
            if spent >= _RATE_OVER:
                words += f" in {spent:.1f} s, {human_bytes(self._wire / spent)}/s"
        self._end = ("done", words)

    def fail(self, reason: str) -> None:
        """Take in an end that is none to be wished for."""
        self._end = ("failed", reason)

    def bar(self, now: float) -> Bar:
        """Return how far it is."""
        fraction = self._fraction()
        if self._end is not None:
            end, words = self._end
            return Bar(self.host, 1.0 if end == "done" else fraction, words, end)
        total = sum(blob.total for blob in self._blobs.values())
        if not total:
            return Bar(self.host, 0.0, "asks its registry" if not self._step else self._step)
        moved = sum(blob.moved for blob in self._blobs.values())
        words = f"{human_bytes(moved)} of {human_bytes(total)}"
        if moved >= total:
            words += ", unpacking" if self._unpacks else ", manifest"
        elif self._began is not None and now - self._began >= _RATE_OVER:
            words += f", {human_bytes(self._wire / (now - self._began))}/s"
        return Bar(self.host, fraction, words)

    def _fraction(self) -> float:
        total = sum(blob.total for blob in self._blobs.values())
        if not total:
            return 0.0
        moved = sum(min(blob.moved, blob.total) for blob in self._blobs.values())
        if not self._unpacks:
            return moved / total
        unpacked = sum(min(blob.unpacked, blob.total) for blob in self._blobs.values())
        return (moved + unpacked) / (2 * total)
