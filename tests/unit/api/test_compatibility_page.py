# SPDX-License-Identifier: Apache-2.0
"""docs/docker-compatibility.md tells of every call and every option that there is, and of no other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, cast

import pytest

from mooring_agent.api import docker
from mooring_agent.api.docker.convert import _HOST, _TOP
from mooring_agent.api.docker.networks import OPTIONS, network_spec
from mooring_agent.errors import NotSupported

from .fake_engine import FakeEngine

PAGE = Path(__file__).parents[3] / "docs/docker-compatibility.md"
MARKS = ("✓", "≠", "–", "")


def section(title: str) -> list[list[str]]:
    """The rows of the table below a title, as their cells."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {title}\n")
    assert rest, f"the page has no section {title}"
    lines = rest.partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return rows[2:]


def named(rows: list[list[str]]) -> list[str]:
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[0])]


def test_every_call_of_the_router_has_a_row(engine: FakeEngine) -> None:
    routes = {f"{route.method} {route.path}" for route in docker.routes(cast(Any, engine))}
    rows = named(section("Endpoints"))
    assert sorted(rows) == sorted(set(rows))
    assert set(rows) == routes


@pytest.mark.parametrize(
    ("title", "rules"), [("Options of a container", _TOP), ("Options of HostConfig", _HOST)]
)
def test_every_option_that_has_a_rule_has_a_row(title: str, rules: dict[str, Any]) -> None:
    rows = named(section(title))
    assert sorted(rows) == sorted(set(rows))
    assert set(rows) == set(rules)


def test_every_option_of_a_network_has_a_row() -> None:
    rows = section("Options of a network")
    assert set(named([row for row in rows if row[1] != "–"])) == {*OPTIONS, "Attachable"}
    for option in named([row for row in rows if row[1] == "–"]):
        with pytest.raises(NotSupported, match=option):
            network_spec({"Name": "net", "Options": {option: "x"}})


@pytest.mark.parametrize(
    "title", ["Endpoints", "Options of a container", "Options of HostConfig", "Options of a network"]
)
def test_a_row_says_what_holds_and_what_differs(title: str) -> None:
    for call, mark, text in section(title):
        assert mark in MARKS, call
        assert mark != "≠" or text, f"{call} differs, and the page does not say how"
