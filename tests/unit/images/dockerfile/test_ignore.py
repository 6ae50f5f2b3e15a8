# SPDX-License-Identifier: Apache-2.0
"""Paths that are left out of a build context, and wildcards."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.dockerfile.errors import DockerfileError
from mooring_agent.images.dockerfile.ignore import Ignore
from mooring_agent.images.dockerfile.path_patterns import PathPattern, has_wildcard

paths = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join)
patterns = st.text("ab/*?", min_size=1, max_size=8).filter(lambda text: bool(text.strip("/")))


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a*", "ab", True),
        ("a*", "a/b", False),
        ("*/b", "a/b", True),
        ("*/b", "b", False),
        ("a*b*c", "abxbxc", True),
        ("a*b*c", "ab/c", False),
        ("?", "é", True),
        ("a?b", "a/b", False),
        ("[a-c]x", "bx", True),
        ("[^a-c]x", "bx", False),
        ("[^b]", "/", False),
        (r"[\]\-]", "-", True),
        ("[!a]", "!", True),
        (r"\*", "*", True),
        (r"\*", "a", False),
        ("**", "a/b", True),
        ("**/b", "b", True),
        ("**/b", "a/a/b", True),
        ("**/b", "ab", False),
        ("**b", "a/ab", True),
        ("a/**", "a/b/c", True),
        ("a/**", "a", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("a**b", "axx/b", True),
        ("a*c**d", "acxcd", True),
        ("**/a*/**/b*", "x/ay/z/z/b", True),
        ("**/**/x?", "xy", True),
        ("a+(b).{c}|$^", "a+(b).{c}|$^", True),
    ],
)
def test_a_pattern_matches(pattern: str, path: str, matches: bool) -> None:
    assert PathPattern(pattern).matches(path) is matches


@pytest.mark.parametrize("pattern", ["[", "[]a]", "[a", "[a-]", "[-a]", "a\\", "[a\\", "[b-a]", "[^]"])
def test_a_pattern_that_is_not_valid_is_refused(pattern: str) -> None:
    with pytest.raises(DockerfileError, match=r"the pattern .* is not valid"):
        PathPattern(pattern)


def test_a_wildcard_knows_no_double_star() -> None:
    pattern = PathPattern("a/**", double_star=False)
    assert pattern.matches("a/b")
    assert not pattern.matches("a/b/c")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("a*", True),
        ("a?", True),
        ("[a]", True),
        (r"a\*", False),
        (r"a\\*", True),
        ("a]b", False),
        ("", False),
    ],
)
def test_a_source_has_a_wildcard_or_not(text: str, answer: bool) -> None:
    assert has_wildcard(text) is answer


def test_an_ignore_file_is_read() -> None:
    ignore = Ignore.parse(
        b"\xef\xbb\xbf# comment\n\n  *.o  \r\n/build/\nsub/../other\n! /build/keep\n #x\n**/tmp\n!a/tmp\n"
    )
    left_out = ["x.o", "build", "build/x", "other", "#x", "tmp", "b/tmp", "b/tmp/x"]
    kept = ["a/x.o", "build/keep", "build/keep/x", "sub", "a/tmp", "a/tmp/x", "comment", "# comment"]
    assert [path for path in left_out if not ignore.excludes(path)] == []
    assert [path for path in kept if ignore.excludes(path)] == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a\n!\n", ".dockerignore:2: the pattern ! takes nothing back in"),
        (b"a\n\n[x\n", ".dockerignore:3: the pattern '[x' is not valid"),
    ],
)
def test_an_ignore_file_that_is_wrong_is_refused_with_its_line(text: bytes, message: str) -> None:
    with pytest.raises(DockerfileError, match=re.escape(message)):
        Ignore.parse(text)


@pytest.mark.parametrize(
    ("lines", "directory", "skipped"),
    [
        (["a"], "a", True),
        (["a"], "a/b", True),
        (["a"], "b", False),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b"], "a/c", True),
        (["*", "!a/*/c"], "a/b", False),
        (["*", "!a/*/c"], "b", True),
        (["*", "!a/*/c"], "a/b/d", True),
        (["*", "!**/c"], "b", False),
        (["*", "!a/**"], "b", True),
    ],
)
def test_a_directory_is_skipped_if_nothing_in_it_comes_back(
    lines: list[str], directory: str, skipped: bool
) -> None:
    assert Ignore(lines).skips_directory(directory) is skipped


def test_very_deep_paths_are_matched() -> None:
    path = "a/" * 2000 + "b"
    assert Ignore(["**/b"]).excludes(path)
    assert Ignore(["a"]).excludes(path)
    assert not Ignore(["b"]).excludes(path)


@pytest.mark.parametrize(
    "pattern", ["*a" * 30 + "*b", "**/a/" * 30 + "b", "a**" * 30 + "b", "**/*a*a*a*a*/**/*a*a*b"]
)
@pytest.mark.parametrize("path", ["a" * 4000, "a/" * 2000 + "a"])
def test_no_pattern_takes_long(pattern: str, path: str) -> None:
    compiled = PathPattern(pattern)
    began = time.process_time()
    assert not compiled.matches(path)
    assert time.process_time() - began < 5


# The slow way: the pattern as patternmatcher writes it, as one regular expression; and a walk from the root.


def reference(pattern: str) -> re.Pattern[str] | str:
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        if pattern.startswith("**", position):
            position += 2
            position += pattern.startswith("/", position)
            parts.append("(.*/)?" if position < len(pattern) else ".*")
            continue
        character = pattern[position]
        position += 1
        parts.append({"*": "[^/]*", "?": "[^/]"}.get(character, re.escape(character)))
    suffix = pattern[2:]
    if pattern.startswith("**") and not set(suffix) & set("*?"):
        return rf"(?s:.*){re.escape(suffix)}|{re.escape(suffix.removeprefix('/'))}" if suffix else ".*"
    return re.compile("".join(parts))


def slow(lines: list[str], path: str) -> bool:
    above = [False] * len(lines)
    excluded = False
    names = path.split("/")
    for depth in range(1, len(names) + 1):
        here = "/".join(names[:depth])
        excluded = False
        for index, line in enumerate(lines):
            exception = line.startswith("!")
            if not above[index]:
                if exception != excluded:
                    continue
                above[index] = re.fullmatch(reference(line.removeprefix("!")), here) is not None
            if above[index]:
                excluded = not exception
    return excluded


def clean(text: str) -> str:
    return re.sub("/+", "/", text).strip("/")


@given(patterns.map(clean), paths)
def test_a_pattern_matches_as_the_regular_expression_does(pattern: str, path: str) -> None:
    assert PathPattern(pattern).matches(path) is (re.fullmatch(reference(pattern), path) is not None)


@given(
    st.lists(st.tuples(st.sampled_from(["", "!"]), patterns.map(clean)).map("".join), max_size=4),
    st.lists(paths, min_size=1, max_size=6),
)
def test_paths_are_left_out_as_the_slow_walk_does(lines: list[str], several: list[str]) -> None:
    ignore = Ignore(lines)
    for path in several:
        assert ignore.excludes(path) is slow(lines, path)
        for cut in (index for index, character in enumerate(path) if character == "/"):
            if ignore.skips_directory(path[:cut]):
                assert slow(lines, path)


@given(patterns.map(clean), paths)
def test_what_matches_may_match_below_all_its_directories(pattern: str, path: str) -> None:
    compiled = PathPattern(pattern)
    if compiled.matches(path):
        names = path.split("/")
        assert all(compiled.may_match_below("/".join(names[:depth])) for depth in range(len(names)))
