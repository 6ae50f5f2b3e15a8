# SPDX-License-Identifier: Apache-2.0
"""Plots: round ticks, lines that stay in their frame, well-formed documents."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.svg import Line, Panel, plot, ticks
from bench.timeline import thinned

_SVG = "{http://www.w3.org/2000/svg}"
_NUMBERS = st.floats(min_value=0, max_value=1e6, allow_nan=False)


@pytest.mark.parametrize(
    ("top", "expected"),
    [
        (0, [0, 1]),
        (1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (15, [0, 5, 10, 15]),
        (97, [0, 20, 40, 60, 80, 100]),
        (0.3, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_ticks_are_round(top: float, expected: list[float]) -> None:
    assert ticks(top) == pytest.approx(expected)


@given(st.floats(min_value=1e-6, max_value=1e9))
def test_ticks_cover_what_is_drawn_and_are_few(top: float) -> None:
    found = ticks(top)

    assert found[0] == 0
    assert found[-1] >= top * (1 - 1e-6)
    assert 2 <= len(found) <= 7


@given(st.lists(st.tuples(_NUMBERS, _NUMBERS), min_size=1, max_size=20))
def test_lines_stay_in_the_picture(points: list[tuple[float, float]]) -> None:
    document = plot("a <title> & more", [Panel("memory", [Line("x", points, 0)])], axis="seconds")

    root = ElementTree.fromstring(document)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    (line,) = root.iter(f"{_SVG}polyline")
    for pair in line.attrib["points"].split():
        x, y = map(float, pair.split(","))
        assert 0 <= x <= width
        assert 0 <= y <= height


def test_each_line_is_named_once_and_no_style_is_used() -> None:
    lines = [Line("mooring", [(0, 0), (1, 2)], 0), Line("docker", [(0, 0), (3, 4)], 1)]

    document = plot("serial", [Panel("CPU", lines), Panel("memory", lines)], axis="seconds")

    assert document.count(">mooring<") == document.count(">docker<") == 1
    assert "style" not in document
    assert len(list(ElementTree.fromstring(document).iter(f"{_SVG}polyline"))) == 4


def test_many_points_are_thinned_and_the_last_one_stays() -> None:
    points = [(float(number), 0.0) for number in range(1000)]

    few = thinned(points, 100)

    assert len(few) <= 101
    assert few[0] == points[0]
    assert few[-1] == points[-1]
    assert thinned([]) == []
