# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from mooring_agent.images.leases import KEPT, Leases


def opened(tmp_path: Path, later: float = 0.0) -> Leases:
    moment = max((path.stat().st_mtime for path in (tmp_path / "leases").glob("*")), default=0.0)
    return Leases(tmp_path / "leases", clock=lambda: moment + later)


def broken_off(leases: Leases, purpose: str, resource: str, survive: bool) -> None:
    with leases.hold(purpose, durable=True) as lease:
        lease.add(resource)
        lease.survive = survive
        raise RuntimeError


def test_a_lease_holds_while_its_work_is_done(tmp_path: Path) -> None:
    leases = opened(tmp_path)
    with leases.hold("pull", durable=True) as lease:
        lease.add("a", "b")
        lease.add("b", "c")
        assert leases.resources() == {"a", "b", "c"}
        leases.expire(0)
        assert leases.resources() == {"a", "b", "c"}
    assert leases.resources() == set()
    assert os.listdir(tmp_path / "leases") == []


def test_a_work_that_can_go_on_leaves_its_lease(tmp_path: Path) -> None:
    leases = opened(tmp_path)
    for survive in (True, False):
        with pytest.raises(RuntimeError):
            broken_off(leases, f"pull {survive}", f"left {survive}", survive)
    assert leases.resources() == {"left True"}
    assert opened(tmp_path, KEPT - 1).resources() == {"left True"}
    assert opened(tmp_path, KEPT).resources() == set()


def test_the_next_one_takes_over(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        broken_off(opened(tmp_path), "pull x", "a", survive=True)
    again = opened(tmp_path)
    with again.hold("pull y", durable=True) as other:
        assert other.resources() == set()
    with again.hold("pull x", durable=True) as lease:
        assert lease.resources() == {"a"}
        lease.add("b")
        assert len(os.listdir(tmp_path / "leases")) == 1
    assert again.resources() == set()


def test_a_line_that_was_cut_off_counts_for_nothing(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases/one").write_bytes(b"pull x\nsha256:aa\nsha256:b")
    (tmp_path / "leases/two").write_bytes(b"pul")
    (tmp_path / "leases/three").write_bytes(b"")
    assert opened(tmp_path).resources() == {"sha256:aa"}
