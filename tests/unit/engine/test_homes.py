# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.waiting import eventually
from mooring_agent.engine.homes import Homes


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "containers"
    root.mkdir()
    return root


def test_each_container_has_a_directory_with_one_for_its_log(root: Path, tmp_path: Path) -> None:
    homes = Homes(root, tmp_path / "spare")
    homes.sweep()
    try:
        names = [f"{number:064x}" for number in range(200)]
        for name in names:
            homes.make(name)
    finally:
        homes.close()
    assert sorted(os.listdir(root)) == names
    for name in names:
        assert os.listdir(homes.of(name)) == ["log"]
        assert (homes.of(name) / "log").stat().st_mode & 0o777 == 0o700


def test_what_a_killed_agent_had_made_ahead_is_removed(root: Path, tmp_path: Path) -> None:
    spare = tmp_path / "spare"
    killed = Homes(root, spare)
    killed.sweep()
    killed.make("first")
    eventually(lambda: os.listdir(spare), what="directories made ahead")
    killed.close()

    homes = Homes(root, spare)
    homes.sweep()

    assert os.listdir(spare) == []
    assert os.listdir(root) == ["first"]
