# SPDX-License-Identifier: Apache-2.0
"""Quotes, escapes and variables in words."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.dockerfile.errors import DockerfileError
from mooring_agent.images.dockerfile.shell_patterns import replace, trim_prefix, trim_suffix
from mooring_agent.images.dockerfile.words import SPACE, process_word, process_words

VALUES = {
    "port": "8080",
    "file": "app.tar.gz",
    "empty": "",
    "path": "/srv/www/srv",
    "lines": "ab\nab",
    "two": "x  y",
}

globs = st.text("ab*?", max_size=6)
subjects = st.text("ab", max_size=8)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("plain", "plain"),
        ("$port", "8080"),
        ("${port}th", "8080th"),
        ("$port-x", "8080-x"),
        ("$nothing!", "!"),
        ("a$", "a$"),
        ("$1st", "st"),
        ("'$port'", "$port"),
        ('"$port $file"', "8080 app.tar.gz"),
        (r"\$port", "$port"),
        (r'"\$port"', "$port"),
        (r'"a\b"', r"a\b"),
        ("a\\", "a"),
        ("${nothing:-d}${nothing-d}${empty:-d}${empty-d}${port:-d}", "ddd8080"),
        ("${nothing:+d}${nothing+d}${empty:+d}${empty+d}${port:+d}", "dd"),
        ("${empty?unset}${port:?empty}", "8080"),
        ("${nothing:-${port:-${file}}}", "8080"),
        ("${nothing:-'}'}", "}"),
        ("${file#*.}", "tar.gz"),
        ("${file##*.}", "gz"),
        ("${file%.*}", "app.tar"),
        ("${file%%.*}", "app"),
        ("${file#x}", "app.tar.gz"),
        ("${path/srv/opt}", "/opt/www/srv"),
        ("${path//srv/opt}", "/opt/www/opt"),
        (r"${path//\//-}", "-srv-www-srv"),
        ("${path/w*/}", "/srv/"),
        ("${nothing#x}${nothing/x/y}", ""),
        ("${lines##*}", "\nab"),
        ("<<'$port'", "<<$port"),
        ("é$port", "é8080"),
    ],
)
def test_a_word_is_processed(word: str, expected: str) -> None:
    assert process_word(word, VALUES.get) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  a  b ", ["a", "b"]),
        ("'a b' \"c d\"e", ["a b", "c de"]),
        (r"a\ b c", ["a b", "c"]),
        ("$two", ["x", "y"]),
        ('"$two"', ["x  y"]),
        ("a$two", ["ax", "y"]),
        ("a${nothing:-b}c", ["abc"]),
        ("'' a", ["a"]),
        ("a\u3000b\x1cc", ["a", "b\x1cc"]),
    ],
)
def test_words_are_split(text: str, expected: list[str]) -> None:
    assert process_words(text, VALUES.get) == expected


@pytest.mark.parametrize(
    ("word", "part"),
    [
        ("'a", "single quote"),
        ('"a', "double quote"),
        ('"a\\', "double quote"),
        ("${", "closing '}'"),
        ("${port", "is not known"),
        ("${port:-a", "closing '}'"),
        ("${}", "bad substitution"),
        ("${{port}}", "bad substitution"),
        ("${port=1}", "${port= is not known"),
        ("${port:#1}", "${port:# is not known"),
        ("${nothing?}", "nothing: is not allowed to be unset"),
        ("${empty:?}", "empty: is not allowed to be empty"),
        ("${nothing:?say $port}", "nothing: say 8080"),
        ("${path/a}", "closing '/'"),
        ("${path/a/b", "closing '}'"),
        (r"${path#\a}", "backslash before 'a'"),
        ("${a:-" * 60 + "}" * 60, "nested"),
    ],
)
def test_what_is_wrong_is_said(word: str, part: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(part)):
        process_word(word, VALUES.get)


def test_another_escape_leaves_backslashes_alone() -> None:
    assert process_word(r"c:\x`$port\$port", VALUES.get, escape="`") == r"c:\x$port\8080"


def test_unset_variables_and_quotes_can_be_kept() -> None:
    text = "'a b' $nothing ${nothing} ${nothing:-x} ${nothing#x} ${nothing//x/y} $port"
    kept = process_words(text, VALUES.get, quotes="keep", keep_unset=True)
    assert kept == ["'a b'", *text.split()[2:-1], "8080"]


def test_in_the_content_of_a_heredoc_quotes_are_letters() -> None:
    assert process_word("it's $port", VALUES.get, quotes="literal") == "it's 8080"


@given(st.text())
def test_what_is_quoted_comes_back(text: str) -> None:
    single = "'" + text.replace("'", "'\"'\"'") + "'"
    double = '"' + re.sub(r'(["$\\])', r"\\\1", text) + '"'
    escaped = re.sub(r"(.)", r"\\\1", text, flags=re.DOTALL)
    for quoted in (single, double, escaped):
        assert process_word(quoted, VALUES.get) == text
        assert process_words(quoted, VALUES.get) == ([text] if text else [])


@given(st.text("a$\\'\"{}:-+?#%/<* \n`", max_size=24))
def test_any_word_is_processed_or_refused(text: str) -> None:
    try:
        words = process_words(text, {"a": "a b"}.get)
    except DockerfileError:
        return
    assert "".join(words) == "".join(
        c for c in process_word(text, {"a": "a b"}.get) if c not in SPACE
    ) or any(space in word for word in words for space in SPACE)


@given(globs, subjects)
def test_ends_are_cut_as_by_trying_all(pattern: str, value: str) -> None:
    regex = re.compile(pattern.replace("*", ".*").replace("?", "."))
    fits = [end for end in range(len(value) + 1) if regex.fullmatch(value[:end])]
    starts = [start for start in range(len(value) + 1) if regex.fullmatch(value[start:])]
    assert trim_prefix(pattern, value, False) == value[min(fits, default=0) :]
    assert trim_prefix(pattern, value, True) == value[max(fits, default=0) :]
    assert trim_suffix(pattern, value, False) == value[: max(starts, default=len(value))]
    assert trim_suffix(pattern, value, True) == value[: min(starts, default=len(value))]


@given(globs, subjects)
def test_the_first_match_is_replaced_as_by_trying_all(pattern: str, value: str) -> None:
    regex = re.compile(pattern.replace("*", ".*").replace("?", "."))
    expected = value
    for start in range(len(value) + 1):
        ends = [end for end in range(start, len(value) + 1) if regex.fullmatch(value[start:end])]
        if ends:
            expected = f"{value[:start]}-{value[max(ends) :]}"
            break
    assert replace(pattern, "-", value, everywhere=False) == expected


@given(st.text("ab?", min_size=1, max_size=3), subjects)
def test_each_match_is_replaced(pattern: str, value: str) -> None:
    assert replace(pattern, "-", value, everywhere=True) == re.sub(pattern.replace("?", "."), "-", value)


def test_an_empty_pattern_matches_between_characters() -> None:
    assert replace("", "-", "ab", everywhere=True) == "-a-b-"
    assert replace("*", "-", "ab", everywhere=True) == "-"
