# SPDX-License-Identifier: Apache-2.0
"""Lines, comments, continuations, directives, heredocs, and the forms of arguments."""

from __future__ import annotations

import time
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.dockerfile.errors import DockerfileError
from mooring_agent.images.dockerfile.parser import SyntaxTree, parse_syntax
from mooring_agent.images.dockerfile.stages import parse_dockerfile
from mooring_agent.images.dockerfile.syntax import Node


def parse(text: str) -> SyntaxTree:
    return parse_syntax(text.encode())


def only(text: str) -> Node:
    (node,) = parse(text).nodes
    return node


def test_lines_are_counted_and_joined() -> None:
    tree = parse("# a comment\n\nFROM a\nRUN one \\\n # of it\n  two \\\n\n three\nCMD x\n")
    assert [(node.start, node.end) for node in tree.nodes] == [(3, 3), (4, 8), (9, 9)]
    assert tree.nodes[1].arguments == ("one   two  three",)
    (warning,) = tree.warnings
    assert warning.line == 8
    assert "an empty line continues" in warning.message


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("RUN a \\", ("a",)),
        ("RUN a \\  \nb", ("a b",)),
        ("RUN a \\\\\n", ("a \\\\",)),
        ("\ufeffRUN a", ("a",)),
        ("RUN a\r\n", ("a",)),
        ("  run\ta", ("a",)),
        ("\\\nRUN a", ("a",)),
    ],
)
def test_line_ends(text: str, arguments: tuple[str, ...]) -> None:
    assert only(text).arguments == arguments


def test_directives_stand_above_all() -> None:
    tree = parse("# syntax = docker/dockerfile:1 \n#Escape=`\n# check=skip=all\nRUN a `\n b\\\nCMD x")
    assert [(one.name, one.value, one.line) for one in tree.directives] == [
        ("syntax", "docker/dockerfile:1", 1),
        ("escape", "`", 2),
        ("check", "skip=all", 3),
    ]
    assert tree.escape == "`"
    assert [node.arguments for node in tree.nodes] == [("a  b\\",), ("x",)]


@pytest.mark.parametrize("above", ["\n", "# a word\n", "# other=x\n", "ARG a\n"])
def test_what_stands_below_something_else_is_a_comment(above: str) -> None:
    assert parse(f"{above}# escape=`\nRUN x").escape == "\\"


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("# escape=x\nRUN a", "the escape 'x' is not known"),
        ("# escape=`\n# ESCAPE=`\nRUN a", "escape is there twice"),
        ("", "no instructions"),
        ("# only this\n", "no instructions"),
        ("RUN " + "x" * 70000, "has 70004 characters"),
        ('CMD ["a", 1]', "strings only"),
        ('CMD ["a", ["b"]]', "strings only"),
        ("CMD " + "[" * 30000, "strings only"),
        ("ENV a", "ENV a has no value"),
        ("LABEL a=b c", "'c' has no ="),
        ("ONBUILD ONBUILD RUN a", "ONBUILD ONBUILD"),
        ("RUN <<EOF\nx\n", "<<EOF does not end"),
        ("RUN <<EOF <<TWO\nEOF\nTW\n", "<<TWO does not end"),
    ],
)
def test_what_is_wrong_is_said(text: str, part: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert part in caught.value.message
    assert caught.value.message.startswith("Dockerfile:")


@pytest.mark.parametrize(
    ("text", "flags", "arguments"),
    [
        ("COPY --a=1 --b c d", ("--a=1", "--b"), ("c", "d")),
        ("COPY --a='x y' --b=\"z\" c d", ("--a=x y", "--b=z"), ("c", "d")),
        ("COPY -- --a d", (), ("--a", "d")),
        ("COPY -a d", (), ("-a", "d")),
        (r"COPY --a=x\ y c d", ("--a=x y",), ("c", "d")),
        ("COPY --a=é c d", ("--a=é",), ("c", "d")),
        ("RUN --a", ("--a",), ()),
        ("RUN --a=\\", ("--a=",), ()),
        ("WORKDIR /a b", (), ("/a b",)),
        ('ENV a="b c" d=e\\ f', (), ("a", '"b c"', "=", "d", "e\\ f", "=")),
        ("ENV a b  c", (), ("a", "b  c", "")),
        ("LABEL a='b\\' c=d", (), ("a", "'b\\'", "=", "c", "d", "=")),
        ("ARG a b=c", (), ("a", "b=c")),
        ("HEALTHCHECK --a=1 CMD x y", ("--a=1",), ("CMD", "x y")),
        ("HEALTHCHECK", (), ()),
        ("EXPOSE 1\t2", (), ("1", "2")),
        ("FOO bar", (), ("",)),
    ],
)
def test_forms(text: str, flags: tuple[str, ...], arguments: tuple[str, ...]) -> None:
    node = only(text)
    assert (node.flags, node.arguments, node.json) == (flags, arguments, False)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('["a", "b c"]', ("a", "b c")),
        ("[ ]", ()),
        ('["\\u00e9\\n", "\\ud800"]', ("é\n", "\ufffd")),
    ],
)
def test_json_forms(text: str, arguments: tuple[str, ...]) -> None:
    for keyword in ("RUN", "CMD", "COPY", "VOLUME", "SHELL"):
        node = only(f"{keyword} {text}")
        assert (node.arguments, node.json) == (arguments, True)


@pytest.mark.parametrize("text", ["['a']", '["a"', '["a",]', "[NaN]", "[ a ]"])
def test_what_is_no_json_is_a_command(text: str) -> None:
    node = only(f"RUN {text}")
    assert (node.arguments, node.json) == ((text,), False)


def test_heredocs() -> None:
    tree = parse("RUN 3<<A cat <<-'B' \\\n  <<\"C D\"\n$x\n A\nA\n\tb\n\tB\nC D\nCMD y\n")
    run, cmd = tree.nodes
    assert [(one.name, one.expand, one.chomp, one.content) for one in run.heredocs] == [
        ("A", True, False, "$x\n A\n"),
        ("B", False, True, "\tb\n"),
        ("C D", False, False, ""),
    ]
    assert run.heredocs[1].chomped == "b\n"
    assert (run.start, run.end, cmd.start) == (1, 8, 9)


@pytest.mark.parametrize(
    "text",
    [
        "CMD <<E",
        'RUN ["a", "<<E"]',
        "RUN a <<<E",
        "RUN '<<E'",
        "RUN a <<",
        'RUN "<<E',
        "ENV a=<<E",
    ],
)
def test_what_is_no_heredoc(text: str) -> None:
    assert only(text).heredocs == ()


def test_blanks_may_stand_before_the_word_of_a_heredoc() -> None:
    assert only("RUN a << E b\nx\nE").heredocs[0].content == "x\n"


def test_heredocs_of_a_trigger_belong_to_it() -> None:
    node = only("ONBUILD RUN <<E\nx\nE\n")
    assert node.child is not None
    assert node.child.name == "RUN"
    assert [one.content for one in node.heredocs] == ["x\n"]


def test_bytes_that_are_no_text_stay() -> None:
    (node,) = parse_syntax(b"COPY <<E /a\n\xff\nE\n").nodes
    assert node.heredocs[0].content.encode("utf-8", "surrogateescape") == b"\xff\n"


@given(st.binary(max_size=80) | st.text("#\n\\ RUN<-E'\"$[]=,`\t", max_size=60).map(str.encode))
def test_anything_is_read_or_refused(text: bytes) -> None:
    for body in (text, b"FROM a\n" + text, b"FROM a\nRUN --mount=" + text, b"FROM a\nONBUILD COPY " + text):
        error = None
        try:
            assert parse_dockerfile(body).stages
        except DockerfileError as caught:
            error = caught
        if error is not None:
            assert error.location is not None
            assert error.message.startswith(f"Dockerfile:{error.location.start}: ")


@pytest.mark.parametrize(
    "piece",
    ["a ", "'", '"', "\\\n", "<<E ", "${a:-", "$", "--a ", "[", "\t", " \n", "#\n", "= ", "\\", "\u3000"],
)
def test_long_files_take_linear_time(piece: str) -> None:
    # A longer line is refused, and would be too easy.
    count = 300_000 if "\n" in piece else 65_000 // len(piece)
    for keyword in (
        "",
        "RUN ",
        "ENV a=",
        "COPY ",
        "# escape=",
        "HEALTHCHECK CMD ",
        "RUN --mount=from=",
        "EXPOSE ",
    ):
        text = ("FROM a\n" * (not keyword.startswith("#")) + keyword + piece * count).encode()
        began = time.process_time()
        with suppress(DockerfileError):
            for instruction in parse_dockerfile(text).stages[0].instructions:
                instruction.expand({"a": "b"}.get)
        # Quadratic, it would be minutes.
        assert time.process_time() - began < 8
