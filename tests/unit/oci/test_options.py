# SPDX-License-Identifier: Apache-2.0
"""The command line, read by its table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.oci.commands import COMMANDS, GLOBAL
from mooring_agent.oci.options import describe, parse

CREATE = COMMANDS["create"].options
EXEC = COMMANDS["exec"].options


def test_values_come_attached_or_apart_and_flags_in_one_word() -> None:
    parsed, rest = parse(CREATE, ["-b/one", "--pid-file=/pid", "--preserve-fds", "2", "--no-pivot", "name"])
    assert (parsed.bundle, parsed.pid_file, parsed.preserve_fds) == ("/one", "/pid", "2")
    assert (parsed.no_pivot, parsed.no_new_keyring, parsed.words, rest) == (True, False, ["name"], [])
    parsed, _ = parse(COMMANDS["run"].options, ["-db", "/one", "name"])
    assert (parsed.detach, parsed.bundle, parsed.words) == (True, "/one", ["name"])


def test_options_may_stand_behind_the_name_but_for_a_command_to_execute() -> None:
    parsed, _ = parse(COMMANDS["delete"].options, ["name", "--force"])
    assert (parsed.force, parsed.words) == (True, ["name"])
    parsed, rest = parse(
        EXEC, ["-t", "--env", "A=1", "-e", "B=2", "name", "ls", "-t", "--", "x"], stop_after=1
    )
    assert (parsed.tty, parsed.env, parsed.words) == (True, ["A=1", "B=2"], ["name"])
    assert rest == ["ls", "-t", "--", "x"]


def test_the_command_ends_the_global_options() -> None:
    parsed, rest = parse(
        GLOBAL, ["--root", "/states", "--systemd-cgroup", "run", "--root", "x"], stop_after=0
    )
    assert (parsed.root, parsed.systemd_cgroup, rest) == ("/states", True, ["run", "--root", "x"])


@pytest.mark.parametrize("words", [["--nonsense"], ["-z"], ["--bundle"], ["--no-pivot=maybe"]])
def test_what_is_not_understood_is_refused_by_name(words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as refused:
        parse(CREATE, words)
    assert words[0].partition("=")[0] in refused.value.message


@given(st.lists(st.text(max_size=8), max_size=6))
def test_any_words_are_read_or_refused(words: list[str]) -> None:
    for command in COMMANDS.values():
        try:
            parsed, rest = parse(command.options, words, stop_after=1 if command.rest else None)
        except InvalidSpec:
            continue
        assert len(parsed.words) + len(rest) <= len(words)


def test_the_help_names_every_option() -> None:
    for command in COMMANDS.values():
        text = describe(command.options)
        for option in command.options:
            assert option.names[0] in text
            assert option.help in text
