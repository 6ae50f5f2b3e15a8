# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.render import Table, display_width, human_age, human_bytes

cells = st.text(max_size=12)
tables = st.integers(min_value=1, max_value=4).flatmap(
    lambda width: st.lists(st.tuples(*[cells] * width), min_size=1, max_size=5).map(
        lambda rows: Table(tuple(f"c{i}" for i in range(width)), tuple(rows))
    )
)


class Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.cells: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert {name for name, _ in attrs} <= {"style"}
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_data(self, data: str) -> None:
        self.cells[-1] += data


@given(tables)
def test_html_holds_each_cell_as_text_and_nothing_that_a_cell_says_as_markup(table: Table) -> None:
    reader = Reader()
    reader.feed(table.html())
    reader.close()
    rows, columns = len(table.rows), len(table.columns)
    expected_tags = ["table", "thead", "tr", *["th"] * columns, "tbody", *["tr", *["td"] * columns] * rows]
    assert reader.tags == expected_tags
    assert len(reader.cells) == columns * (rows + 1)


@given(tables)
def test_text_has_one_line_a_row_and_no_control_characters(table: Table) -> None:
    lines = table.text().split("\n")
    assert len(lines) == len(table.rows) + 1
    assert not any(ord(character) < 32 or 127 <= ord(character) < 160 for line in lines for character in line)


def test_columns_are_aligned_also_behind_wide_characters() -> None:
    table = Table(("name", "size"), (("a", "1"), ("日本", "20"), ("e\u0301", "3")), frozenset({"size"}))
    assert table.text() == "NAME  SIZE\na        1\n日本    20\ne\u0301        3"


def test_an_empty_table_says_so() -> None:
    table = Table(("a",), (), empty="no <containers>")
    assert table.text() == "no <containers>"
    assert table.html() == "<p>no &lt;containers&gt;</p>"


def test_escapes_in_a_cell_cannot_colour_the_notebook() -> None:
    assert Table(("a",), (("\x1b[31mred\n",),)).text() == "A\n\ufffd[31mred\ufffd"


@given(st.text())
def test_width_is_never_more_than_twice_the_characters(text: str) -> None:
    assert 0 <= display_width(text) <= 2 * len(text)


def test_sizes_and_ages_as_people_read_them() -> None:
    assert [human_bytes(size) for size in (0, 1023, 1024, 1536, 64 << 20, 24 << 30)] == [
        *("0 B", "1023 B", "1 KiB", "1.5 KiB", "64 MiB", "24 GiB")
    ]
    assert [human_age(1000 - age, 1000) for age in (0, 59, 60, 3599, 3600, 86399, 200000)] == [
        *("0 s", "59 s", "1 min", "59 min", "1 h", "23 h", "2 d")
    ]
