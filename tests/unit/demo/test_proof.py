# SPDX-License-Identifier: Apache-2.0
"""The demo's proofs fail when they have to."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CREATE = {"action": "create", "kind": "container", "name": "web1", "reason": "it does not exist"}
START = {"action": "start", "kind": "container", "name": "web1", "reason": "it should run"}


@pytest.fixture(scope="module")
def proof(project_root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("proof", project_root / "demo/proof.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def journal(path: Path, *lines: dict[str, Any]) -> str:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


def task(*actions: dict[str, str], after: str = "web:1", host: str = "one") -> dict[str, Any]:
    diff = {"before": "", "after": {"image": after}}
    return {"host": host, "task": "Containers", "result": {"actions": list(actions), "diff": diff}}


def totals(changed: int) -> dict[str, Any]:
    return {"host": "one", "totals": {"changed": changed, "failures": 0, "unreachable": 0}}


def test_a_run_that_does_what_was_announced_passes(proof: ModuleType, tmp_path: Path) -> None:
    announced = {**CREATE, "reason": "it does not exist; image web:1 is not on this host yet"}
    check = journal(tmp_path / "check", task(announced, START), totals(1))
    run = journal(tmp_path / "run", task(CREATE, START), totals(1))

    assert proof.announced(check, run) == []


@pytest.mark.parametrize(
    "done",
    [
        task(CREATE),
        task(CREATE, START, START),
        task(CREATE, START, host="two"),
        task(CREATE, START, after="web:2"),
    ],
    ids=["less", "more often", "elsewhere", "otherwise"],
)
def test_a_run_that_does_something_else_fails(
    proof: ModuleType, tmp_path: Path, done: dict[str, Any]
) -> None:
    check = journal(tmp_path / "check", task(CREATE, START))

    assert proof.announced(check, journal(tmp_path / "run", done)) != []


def test_actions_on_a_whole_document_count_as_well(proof: ModuleType, tmp_path: Path) -> None:
    whole = {"host": "one", "task": "Apply", "result": {"resources": [{"actions": [CREATE, START]}]}}

    assert [item.action for item in proof.actions(journal(tmp_path / "run", whole))] == ["create", "start"]


def test_nothing_may_change_the_second_time(proof: ModuleType, tmp_path: Path) -> None:
    assert proof.unchanged(journal(tmp_path / "still", task(), totals(0))) == []
    assert proof.unchanged(journal(tmp_path / "action", task(START), totals(0))) != []
    assert proof.unchanged(journal(tmp_path / "changed", task(), totals(1))) != []
    assert proof.unchanged(journal(tmp_path / "nobody")) != []
