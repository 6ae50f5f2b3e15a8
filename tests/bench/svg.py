# SPDX-License-Identifier: Apache-2.0
"""Line plots as SVG: panels below each other over one axis of time. Presentation attributes only, so that
every viewer shows them alike; no style sheets, no scripts, no fonts of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

# Distinguishable for most kinds of colour blindness (Okabe and Ito).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LEFT, _RIGHT, _TOP, _BOTTOM, _GAP = 70, 20, 64, 44, 40
_INK, _GRID = "#333333", "#DDDDDD"
_TICKS = 5
# What is less than this is drawn as nothing.
_LEAST = 1e-9


@dataclass(frozen=True)
class Line:
    """A line: (x, y) points in order. `colour` is an index of COLOURS."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: int


@dataclass(frozen=True)
class Panel:
    """One plot: what its y axis means, and its lines."""

    title: str
    lines: Sequence[Line]


def ticks(top: float, count: int = _TICKS) -> list[float]:
    """Round numbers from 0 up to or beyond `top`, about `count` steps of 1, 2 or 5 times a power of ten."""
    if top < _LEAST:
        return [0.0, 1.0]
    raw = top / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999999)
    steps = math.ceil(top / step - 1e-9)
    return [round(step * number, 10) for number in range(steps + 1)]


def plot(title: str, panels: Sequence[Panel], *, axis: str, width: int = 800, height: int = 170) -> str:
    """The document. `axis` names the x axis; each panel is `height` high."""
    longest = max((x for panel in panels for line in panel.lines for x, _ in line.points), default=1.0)
    across = ticks(longest, 8)
    inner = width - _LEFT - _RIGHT
    total = _TOP + len(panels) * (height + _GAP) - _GAP + _BOTTOM
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{total}" '
        f'viewBox="0 0 {width} {total}" font-family="sans-serif" font-size="12" role="img" '
        f"aria-label={quoteattr(title)}>"
    )
    parts = [
        head,
        f'<rect x="0" y="0" width="{width}" height="{total}" fill="#FFFFFF"/>',
        _text(_LEFT, 20, title, size=15),
        *_legend(panels),
    ]
    for number, panel in enumerate(panels):
        parts += _panel(panel, across, inner, _TOP + number * (height + _GAP), height)
    bottom = total - _BOTTOM
    parts += [_text(_LEFT + _x(tick, across, inner), bottom + 16, _number(tick), "middle") for tick in across]
    parts.append(_text(_LEFT + inner / 2, bottom + 34, axis, "middle"))
    return "\n".join([*parts, "</svg>", ""])


def _legend(panels: Sequence[Panel]) -> list[str]:
    names = {line.name: line.colour for panel in panels for line in panel.lines}
    parts = []
    place = float(_LEFT)
    for name, colour in names.items():
        parts.append(
            f'<line x1="{place:g}" y1="36" x2="{place + 18:g}" y2="36" stroke="{COLOURS[colour]}" '
            'stroke-width="3"/>'
        )
        parts.append(_text(place + 24, 40, name))
        place += 24 + 8 * len(name) + 24
    return parts


def _panel(panel: Panel, across: list[float], inner: int, top: int, height: int) -> list[str]:
    highest = max((y for line in panel.lines for _, y in line.points), default=0.0)
    up = ticks(highest)
    base = top + height
    parts = [_text(_LEFT, top - 6, panel.title)]
    for tick in up:
        y = base - tick / up[-1] * height
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + inner}" y2="{y:.1f}" stroke="{_GRID}"/>')
        parts.append(_text(_LEFT - 6, y + 4, _number(tick), "end"))
    parts.append(f'<line x1="{_LEFT}" y1="{base}" x2="{_LEFT + inner}" y2="{base}" stroke="{_INK}"/>')
    for line in panel.lines:
        points = " ".join(
            f"{_LEFT + _x(x, across, inner):.1f},{base - max(y, 0.0) / up[-1] * height:.1f}"
            for x, y in line.points
        )
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{COLOURS[line.colour]}" stroke-width="2" '
            'stroke-linejoin="round"/>'
        )
    return parts


def _x(value: float, across: list[float], inner: int) -> float:
    return value / across[-1] * inner


def _number(value: float) -> str:
    return f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" fill="{_INK}" text-anchor="{anchor}" font-size="{size}">'
        f"{escape(text)}</text>"
    )
