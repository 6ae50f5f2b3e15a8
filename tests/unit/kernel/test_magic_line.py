# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.errors import UsageError
from mooring_kernel.magic_line import Arguments, CellParts, MagicCall, Option, parse_arguments, split_cell


@pytest.mark.parametrize(
    ("code", "magics", "body"),
    [
        ("", (), ""),
        ("# only a comment\n\n", (), ""),
        ("echo hi", (), "echo hi"),
        ("%ps", (MagicCall("ps", ""),), ""),
        ("\n# c\n  %ps web1  \n\n%hosts\n", (MagicCall("ps", "web1"), MagicCall("hosts", "")), ""),
        ("%attach a/b\necho %x\n%ps", (MagicCall("attach", "a/b"),), "\necho %x\n%ps"),
        ("%1", (), "%1"),
        ("%+ foo", (), "%+ foo"),
        ("%%bash\nls", (MagicCall("%bash", ""),), "\nls"),
        ("%ps; ls", (), "%ps; ls"),
    ],
)
def test_a_cell_is_taken_apart(code: str, magics: tuple[MagicCall, ...], body: str) -> None:
    assert split_cell(code) == CellParts(magics, body)


@given(st.text())
def test_the_body_keeps_its_lines_where_they_were(code: str) -> None:
    body = split_cell(code).body
    assert not body or (len(body.split("\n")) == len(code.split("\n")) and code.endswith(body.lstrip("\n")))


OPTIONS = (Option(("--user", "-u"), "user"), Option(("--new",)))


def test_arguments_are_told_apart() -> None:
    assert parse_arguments("a 'b c' -u x --new -- -n y", OPTIONS, "u") == Arguments(
        ("a", "b c"), {"--user": "x", "--new": ""}, ("-n", "y")
    )
    assert parse_arguments("--user=x -", OPTIONS, "u") == Arguments(("-",), {"--user": "x"})


@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("--nwe", "--nwe is no option here: the usage is u"),
        ("--user", "--user lacks its user: the usage is u"),
        ("--new=1", "--new takes no value: the usage is u"),
        ("'a", 'no closing quotation in "\'a": the usage is u'),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(rest: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_arguments(rest, OPTIONS, "u")
    assert str(caught.value) == problem


@given(st.text())
def test_no_text_makes_the_arguments_fail_in_another_way(rest: str) -> None:
    try:
        parse_arguments(rest, OPTIONS, "u")
    except UsageError:
        return
