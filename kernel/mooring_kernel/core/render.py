# SPDX-License-Identifier: Apache-2.0
"""Tables for a notebook, as aligned text and as plain HTML with inline styles. Everything here is pure."""

from __future__ import annotations

import html
import time
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_TABLE_STYLE = "border-collapse:collapse;text-align:left"
_HEAD_STYLE = "text-align:left;padding:2px 12px 2px 0;border-bottom:1px solid #999"
_CELL_STYLE = "text-align:left;padding:2px 12px 2px 0;vertical-align:top;white-space:pre-wrap"
# Control characters would break a line of the table; ESC would even colour it.
_CONTROL = dict.fromkeys((*range(32), *range(127, 160)), "\N{REPLACEMENT CHARACTER}")


@dataclass(frozen=True)
class Table:
    """Rows of text under a heading each. `right` names the columns whose figures are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = field(default_factory=frozenset)
    empty: str = "nothing to show"

    def text(self) -> str:
        """Return the table as lines of aligned columns, the headings in capitals."""
        if not self.rows:
            return self.empty
        lines = [tuple(column.upper() for column in self.columns), *(map(_plain, row) for row in self.rows)]
        grid = [tuple(line) for line in lines]
        widths = [max(display_width(row[index]) for row in grid) for index in range(len(self.columns))]
        return "\n".join(self._line(row, widths) for row in grid)

    def _line(self, row: Sequence[str], widths: Sequence[int]) -> str:
        cells = []
        for column, cell, width in zip(self.columns, row, widths, strict=True):
            padding = " " * (width - display_width(cell))
            cells.append(padding + cell if column in self.right else cell + padding)
        return "  ".join(cells).rstrip()

    def html(self) -> str:
        """Return the table as one HTML element."""
        if not self.rows:
            return f"<p>{html.escape(self.empty)}</p>"
        head = "".join(self._cell("th", _HEAD_STYLE, column, column) for column in self.columns)
        body = "".join(
            "<tr>"
            + "".join(
                self._cell("td", _CELL_STYLE, column, _plain(cell))
                for column, cell in zip(self.columns, row, strict=True)
            )
            + "</tr>"
            for row in self.rows
        )
        return f'<table style="{_TABLE_STYLE}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'

    def _cell(self, tag: str, style: str, column: str, text: str) -> str:
        if column in self.right:
            style = style.replace("text-align:left", "text-align:right")
        return f'<{tag} style="{style}">{html.escape(text)}</{tag}>'

    def bundle(self) -> dict[str, str]:
        """Return the table as a MIME bundle."""
        return {"text/plain": self.text(), "text/html": self.html()}


def display_width(text: str) -> int:
    """Return how many columns of a terminal the text takes (UAX 11: wide characters take two, combining ones
    none).
    """
    width = 0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Cf", "Me", "Mn"):
            continue
        width += 2 if unicodedata.east_asian_width(character) in "WF" else 1
    return width


def human_bytes(size: float) -> str:
    """Return a size in bytes as people read it: `64 MiB`, `1.5 GiB`."""
    for unit in _UNITS:
        if abs(size) < 1024 or unit == _UNITS[-1]:
            break
        size /= 1024
    rounded = f"{size:.1f}".removesuffix(".0") if abs(size) < 10 else f"{size:.0f}"
    return f"{rounded} {unit}"


def human_age(started: float, now: float | None = None) -> str:
    """Return how long ago a moment was (seconds since the epoch): `12 s`, `5 min`, `3 h`, `2 d`."""
    age = max(0.0, (time.time() if now is None else now) - started)
    for limit, unit, name in ((60, 1, "s"), (3600, 60, "min"), (86400, 3600, "h")):
        if age < limit:
            return f"{int(age // unit)} {name}"
    return f"{int(age // 86400)} d"


def _plain(text: str) -> str:
    return text.translate(_CONTROL)
