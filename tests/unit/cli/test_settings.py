# SPDX-License-Identifier: Apache-2.0
"""The agent's settings from its file and from the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mooring_agent.cli.arguments import parser
from mooring_agent.cli.settings import agent_settings, check_settings, read_settings
from mooring_agent.config import AgentConfig
from mooring_agent.errors import InvalidSpec


def test_the_command_line_goes_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("pool: 3\nstorage_driver: overlay\nname:\nregistries: {a.example: {tls: 'off'}}\n")
    found = agent_settings(parser().parse_args(["agent", "--config", str(file), "--pool", "5"]))
    assert found == {"pool": 5, "storage_driver": "overlay", "registries": {"a.example": {"tls": "off"}}}
    assert AgentConfig.make(**found).registries == {"a.example": {"tls": "off"}}


def test_passwords_are_not_shown() -> None:
    config = AgentConfig.make(registries={"a.example": {"password": "secret"}})
    assert "secret" not in repr(config)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"registrys": {}}, ["'registrys'", "did you mean registries?"]),
        ({"zzz": 1}, ["'zzz'", "expected one of data_root"]),
        ([], ["expected a mapping"]),
        ({"pool": "many"}, ["pool", "a number"]),
        ({"pool": True}, ["pool", "a number"]),
        ({"storage_driver": "zfs"}, ["storage_driver", "auto, overlay, btrfs"]),
        ({"log_level": "loud"}, ["log_level", "debug, info"]),
        ({"registries": []}, ["registries", "mapping"]),
        ({"peers": ["10.0.0.1:7431"]}, ["peers", "mapping", "members"]),
        ({"tls": "0.0.0.0:2376"}, ["tls", "mapping", "ca_file"]),
        ({"access": {"users": ["bob"]}}, ["access", "list of rules"]),
        ({"socket_group": 4321}, ["socket_group", "in quotes"]),
    ],
)
def test_what_is_wrong_is_named(document: Any, words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        check_settings(document, "/etc/x.yaml")
    for word in ["/etc/x.yaml", *words]:
        assert word in caught.value.message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"absent\.yaml cannot be read"):
        read_settings(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("registries:\n  password: 'secret\n: [")
    with pytest.raises(InvalidSpec, match="is not YAML") as caught:
        read_settings(broken)
    assert "secret" not in caught.value.message
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing\n")
    assert read_settings(empty) == {}
