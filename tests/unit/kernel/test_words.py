# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_kernel.core.words import Word, defined_names, ends_open, next_indent, quoted, whole_word, word_at


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("", Word(0, "", "", "command")),
        ("ec", Word(0, "ec", "", "command")),
        ("echo a", Word(5, "a", "", "file")),
        ("echo ", Word(5, "", "", "file")),
        ("echo a;l", Word(7, "l", "", "command")),
        ("echo a | gr", Word(9, "gr", "", "command")),
        ("a=1 b=2 pr", Word(8, "pr", "", "command")),
        ("sudo ls", Word(5, "ls", "", "command")),
        ("if tr", Word(3, "tr", "", "command")),
        ("for i in a; do ec", Word(15, "ec", "", "command")),
        ("cat <fi", Word(5, "fi", "", "file")),
        ("echo $(da", Word(7, "da", "", "command")),
        ("cat 'my fi", Word(4, "my fi", "'", "file")),
        ('cat "my fi', Word(4, "my fi", '"', "file")),
        ("cat my\\ fi", Word(4, "my fi", "", "file")),
        ("echo $HO", Word(6, "HO", "", "variable")),
        ('echo "x${HO', Word(9, "HO", '"', "variable")),
        ("echo '$HO", Word(5, "$HO", "'", "file")),
        ("# a comm\nec", Word(9, "ec", "", "command")),
        ("echo a # comm", Word(13, "", "", "file")),
    ],
)
def test_the_word_at_the_cursor(code: str, expected: Word) -> None:
    assert word_at(code, len(code)) == expected


@given(st.text(), st.integers(min_value=0))
def test_any_text_has_a_word_at_any_place(code: str, place: int) -> None:
    cursor = place % (len(code) + 1)
    word = word_at(code, cursor)
    assert 0 <= word.start <= cursor
    assert whole_word(code, cursor).start <= len(code)


names = st.text(alphabet=st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1)


@settings(max_examples=60)
@given(names)
def test_what_is_inserted_means_the_value_to_the_shell(value: str) -> None:
    inserted = (quoted(value, "'") + "'", quoted(value, '"') + '"', "x" + quoted(value, ""))
    script = f"printf '%s\\0' {' '.join(inserted)}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True, timeout=20)
    assert done.stdout.decode().split("\0") == [value, value, f"x{value}", ""]


def test_names_that_cells_define() -> None:
    code = (
        "a=1; export B=2 c\nfor item in x; do read -r line; done\n"
        "f() { local z=1; }\nfunction g() {\n:\n}\necho $n==3"
    )
    variables, functions = defined_names(code)
    assert variables == {"a", "B", "item", "line", "z"}
    assert functions == {"f", "g"}


@pytest.mark.parametrize("code", ["ls \\", "cat <<E\na", "cat <<-'END'\na\n END", "a <<A <<B\nA\n"])
def test_texts_that_go_on(code: str) -> None:
    assert ends_open(code)


@pytest.mark.parametrize(
    "code", ["ls", "ls \\\\", "cat <<E\na\nE", "cat <<-E\na\n\tE", "echo $((1 << 3))", "cat <<<x"]
)
def test_texts_that_are_whole(code: str) -> None:
    assert not ends_open(code)


def test_indentation_follows_the_text() -> None:
    assert [
        next_indent(code) for code in ("if x; then", "  a |", "for i in x; do\n    f() {", "x (", "ls")
    ] == [*("    ", "  ", "        ", "    ", "")]
