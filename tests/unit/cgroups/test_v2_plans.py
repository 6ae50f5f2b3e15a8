# SPDX-License-Identifier: Apache-2.0
"""What is written to a living group of version 2."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.resources import Resources, Setting
from mooring_agent.cgroups.v2 import cpu, cpuset, memory
from mooring_agent.errors import Conflict, NotSupported

MIB = 1 << 20
UNTOUCHED = {
    memory.MAX: "max",
    memory.HIGH: "max",
    memory.LOW: "0",
    memory.SWAP_MAX: "max",
    memory.CURRENT: "0",
}


@pytest.mark.parametrize(
    ("shares", "weight"),
    [(1, 1), (2, 1), (3, 2), (1024, 100), (262_143, 10_000), (262_144, 10_000), (300_000, 10_000)],
)
def test_shares_become_weights_as_published(shares: int, weight: int) -> None:
    """The table of github.com/opencontainers/cgroups, utils_test.go, TestConvertCPUSharesToCgroupV2Value."""
    assert cpu.weight_of(shares) == weight


def test_the_default_weight_is_the_default_shares() -> None:
    assert cpu.shares_of(100) == 1024


@given(st.integers(2, 262_144), st.integers(2, 262_144))
def test_more_shares_are_never_less_weight(first: int, second: int) -> None:
    low, high = sorted((first, second))
    assert 1 <= cpu.weight_of(low) <= cpu.weight_of(high) <= 10_000


@given(st.integers(2, 262_144))
def test_a_weight_read_back_has_the_same_weight(shares: int) -> None:
    weight = cpu.weight_of(shares)
    assert cpu.weight_of(cpu.shares_of(weight)) == weight


@given(st.floats(0.01, 1000), st.integers(2, 262_144))
def test_cpu_does_not_drift(cpus: float, shares: int) -> None:
    wanted = Resources(cpus=cpus, cpu_shares=shares)
    after = {cpu.WEIGHT: "100", cpu.MAX: "max 100000"}
    after |= {setting.file: setting.value for setting in cpu.settings(wanted)}

    assert cpu.plan(wanted, after, {}) == ()
    assert [setting.value for setting in cpu.plan(Resources(), after, {}) if setting.file == cpu.MAX] == [
        "max 100000"
    ]


def test_swap_is_counted_alone() -> None:
    wanted = Resources(memory=64 * MIB, memory_swap=96 * MIB, memory_reservation=32 * MIB)

    assert memory.settings(wanted) == (
        Setting("memory", memory.SWAP_MAX, str(32 * MIB)),
        Setting("memory", memory.MAX, str(64 * MIB)),
        Setting("memory", memory.LOW, str(32 * MIB)),
    )


def test_no_swap_at_all_is_written() -> None:
    settings = memory.settings(Resources(memory=MIB, memory_swap=MIB))
    assert Setting("memory", memory.SWAP_MAX, "0") in settings


def test_a_kernel_without_swap_accounting() -> None:
    contents = {file: value for file, value in UNTOUCHED.items() if file != memory.SWAP_MAX}

    assert memory.plan(Resources(memory=MIB), contents, {}) == (Setting("memory", memory.MAX, str(MIB)),)
    with pytest.raises(NotSupported):
        memory.plan(Resources(memory=MIB, memory_swap=2 * MIB), contents, {})


def test_more_swap_comes_first_and_less_comes_last() -> None:
    contents = {**UNTOUCHED, memory.MAX: str(64 * MIB), memory.SWAP_MAX: str(16 * MIB)}

    more = memory.plan(Resources(memory=32 * MIB, memory_swap=96 * MIB), contents, {})
    less = memory.plan(Resources(memory=32 * MIB, memory_swap=33 * MIB), contents, {})

    assert [setting.file for setting in more] == [memory.SWAP_MAX, memory.MAX]
    assert [setting.file for setting in less] == [memory.MAX, memory.SWAP_MAX]


@given(st.integers(4096, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 30))
def test_memory_does_not_drift(limit: int, more: int, reservation: int) -> None:
    wanted = Resources(
        memory=limit, memory_swap=limit + more, memory_reservation=min(limit, reservation) or None
    )
    after = dict(UNTOUCHED)
    for setting in memory.settings(wanted):
        after[setting.file] = str(int(setting.value) // 4096 * 4096)

    assert memory.plan(wanted, after, {}) == ()
    assert memory.parse(after)["memory"] == limit // 4096 * 4096


def test_memory_reads_back_as_docker_counts() -> None:
    contents = {**UNTOUCHED, memory.MAX: str(64 * MIB), memory.SWAP_MAX: str(32 * MIB)}

    assert memory.parse(contents) == {
        "memory": 64 * MIB,
        "memory_swap": 96 * MIB,
        "memory_reservation": None,
    }


def test_cpus_that_the_parent_lacks_are_refused() -> None:
    """The kernel would take them and use what it can."""
    above = {f"{cpuset.CPUS}.effective": "0-1", f"{cpuset.MEMS}.effective": "0"}

    with pytest.raises(Conflict, match='"7" is not within "0-1"'):
        cpuset.plan(Resources(cpuset_cpus="7"), {cpuset.CPUS: ""}, above)
    assert cpuset.plan(Resources(cpuset_cpus="0-1"), {cpuset.CPUS: "", cpuset.MEMS: ""}, above) == (
        Setting("cpuset", cpuset.CPUS, "0-1"),
    )
    assert cpuset.plan(Resources(), {cpuset.CPUS: "1", cpuset.MEMS: ""}, above) == (
        Setting("cpuset", cpuset.CPUS, ""),
    )
