# SPDX-License-Identifier: Apache-2.0
"""Builds where control groups are version 2 alone: their commands' limits, seen from inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.agent import AgentUnderTest

from .building import build, write_context

pytestmark = [pytest.mark.root, pytest.mark.kernel("cgroup_v2")]

_MEMORY = 16 << 20  # bytes


def test_a_command_sees_its_limits_and_cannot_change_them(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox
RUN cd /sys/fs/cgroup; cat /proc/self/cgroup memory.max memory.swap.max cpuset.cpus; \\
    echo max > memory.max || echo refused
"""
    context = write_context(tmp_path / "context", dockerfile)
    built = build(agent, context, memory=_MEMORY, memory_swap=_MEMORY, cpuset_cpus="0")
    assert built.error is None
    lines = [line for line in built.output.splitlines() if "memory.max" not in line]
    assert lines == ["0::/", str(_MEMORY), "0", "0", "refused"]


def test_nothing_is_left_of_one_that_wants_too_much(agent: AgentUnderTest, tmp_path: Path) -> None:
    before = groups_of(agent)
    dockerfile = "FROM busybox\nRUN x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived\n"
    built = build(agent, write_context(tmp_path / "context", dockerfile), memory=_MEMORY, memory_swap=_MEMORY)
    assert built.error is not None
    assert built.error["code"] == "build_failed"
    assert "survived" not in built.output
    assert groups_of(agent) <= before


def groups_of(agent: AgentUnderTest) -> set[str]:
    """The control groups of builds' commands and of containers; launchers that stand by have others."""
    parent = Path("/sys/fs/cgroup") / agent.config.cgroup_parent
    return {path.name for path in parent.iterdir() if path.is_dir() and len(path.name) == 64}
