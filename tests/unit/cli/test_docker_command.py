# SPDX-License-Identifier: Apache-2.0
"""`mooring` under docker's name, for clients that come by SSH."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cli import docker_command, main

DIAL = ["system", "dial-stdio"]


@pytest.mark.parametrize(
    ("arguments", "translated"),
    [
        (DIAL, DIAL),
        (["--host", "unix:///run/x.sock", *DIAL], [*DIAL, "--socket", "/run/x.sock"]),
        (["-H", "unix:///run/x.sock", *DIAL], [*DIAL, "--socket", "/run/x.sock"]),
        (["--host", "tcp://x", *DIAL], None),
        (["ps"], None),
        ([*DIAL, "--help"], None),
        ([], None),
    ],
)
def test_one_command_is_known(arguments: list[str], translated: list[str] | None) -> None:
    assert docker_command.translated(arguments) == translated


@given(st.lists(st.sampled_from(["--host", "-H", "unix:///x", "system", "dial-stdio", "run"]), max_size=6))
def test_nothing_else_comes_of_any_arguments(arguments: list[str]) -> None:
    found = docker_command.translated(arguments)
    assert found is None or (found[:2] == DIAL and len(found) in (2, 4))


def test_other_commands_are_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/local/bin/docker", "ps"])
    assert main.main() == 127
    assert "no docker client on this host" in capsys.readouterr().err
