# SPDX-License-Identifier: Apache-2.0
"""The names of launchers' groups, and the removal of those that former launchers have left.

Plain directories stand for groups here; real ones are in tests/integration/keeper.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring_agent.keeper.slots import Slots, remove_groups


@pytest.fixture
def parents(tmp_path: Path) -> tuple[str, ...]:
    made = (tmp_path / "memory", tmp_path / "pids")
    for parent in made:
        parent.mkdir()
    return tuple(map(str, made))


def make(parents: tuple[str, ...], *names: str) -> None:
    for parent in parents:
        for name in names:
            Path(parent, name).mkdir()


def left(parents: tuple[str, ...]) -> list[set[str]]:
    return [set(os.listdir(parent)) for parent in parents]


def test_the_next_keeper_knows_where_launchers_have_been(tmp_path: Path, parents: tuple[str, ...]) -> None:
    file = tmp_path / "parents"
    first = Slots(str(file))
    first.name(parents)
    assert file.stat().st_mode & 0o777 == 0o600
    make(parents, "slot-1-0", "slot-1-1", "slot-1-2", "ab12")
    assert not Slots(str(file)).sweep({"slot-1-2"})
    assert left(parents) == [{"slot-1-2", "ab12"}, {"slot-1-2", "ab12"}]


def test_own_launchers_are_left_alone(tmp_path: Path, parents: tuple[str, ...]) -> None:
    slots = Slots(str(tmp_path / "parents"))
    name = slots.name(parents)
    make(parents, name)
    assert not slots.sweep()
    assert left(parents) == [{name}, {name}]


def test_those_before_a_replacement_of_the_program_are_not_its_own(
    tmp_path: Path, parents: tuple[str, ...]
) -> None:
    before = Slots(str(tmp_path / "parents"))
    old = before.name(parents)
    after = Slots(str(tmp_path / "parents"))
    after.go_on_from(before.next)
    new = after.name(parents)
    assert new != old
    make(parents, old, new)
    assert not after.sweep()
    assert left(parents) == [{new}, {new}]


def test_what_has_gone_and_what_cannot_be_read_is_passed_over(
    tmp_path: Path, parents: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "parents"
    slots = Slots(str(file))
    slots.know((*parents, str(tmp_path / "gone")))
    make(parents, "slot-1-0")
    assert not slots.sweep()
    assert left(parents) == [set(), set()]
    for damaged in (b"", b"{", b"7", b"\xff", b"[1, 2]"):
        file.write_bytes(damaged)
        assert not Slots(str(file)).sweep()
        assert str(file) in capfd.readouterr().err


def test_a_group_is_removed_wherever_it_is(parents: tuple[str, ...]) -> None:
    make(parents, "ab12")
    Path(parents[0], "ab12").rmdir()
    remove_groups(parents, "ab12")
    assert left(parents) == [set(), set()]
