# SPDX-License-Identifier: Apache-2.0
"""What is written to a living group of version 1, and in which order."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.controller import Refusal
from mooring_agent.cgroups.cpulist import format_cpulist, parse_cpulist
from mooring_agent.cgroups.resources import Resources, Setting
from mooring_agent.cgroups.v1 import cpu, cpuset, memory, pids
from mooring_agent.errors import Conflict, NotSupported

MIB = 1 << 20
NO_LIMIT = 9223372036854771712
UNTOUCHED = {memory.LIMIT: str(NO_LIMIT), memory.SWAP_LIMIT: str(NO_LIMIT), memory.SOFT_LIMIT: str(NO_LIMIT)}


class KernelMemory:
    """The kernel's rule for the two limits of version 1 (mem_cgroup_resize_max of mm/memcontrol-v1.c)."""

    def __init__(self, limit: int, combined: int) -> None:
        self.values = {memory.LIMIT: limit, memory.SWAP_LIMIT: combined, memory.SOFT_LIMIT: NO_LIMIT}

    def write(self, setting: Setting) -> None:
        value = NO_LIMIT if setting.value == "-1" else min(int(setting.value) // 4096 * 4096, NO_LIMIT)
        self.values[setting.file] = value
        if self.values[memory.LIMIT] > self.values[memory.SWAP_LIMIT]:
            raise OSError(errno.EINVAL, "Invalid argument")

    def contents(self) -> dict[str, str]:
        return {file: str(value) for file, value in self.values.items()}


_limits = st.one_of(st.just(NO_LIMIT), st.integers(1, 1 << 20).map(lambda pages: pages * 4096))


@st.composite
def _wanted(draw: st.DrawFn) -> Resources:
    limit = draw(st.one_of(st.none(), st.just(-1), st.integers(4096, 1 << 32)))
    if limit is None or limit == -1:
        return Resources(memory=limit, memory_swap=draw(st.sampled_from((None, -1))))
    combined = draw(st.one_of(st.none(), st.just(-1), st.integers(limit, 1 << 33)))
    return Resources(memory=limit, memory_swap=combined)


@given(_limits, _limits, _wanted())
def test_memory_limits_move_from_any_values_to_any_others(first: int, second: int, wanted: Resources) -> None:
    """moby#39541: an update is refused because the other of the two limits is in the way."""
    kernel = KernelMemory(min(first, second), max(first, second))

    for setting in memory.plan(wanted, kernel.contents(), {}):
        kernel.write(setting)

    assert memory.plan(wanted, kernel.contents(), {}) == (), "what was applied must not look like drift"
    limit = wanted.memory
    expected = None if limit is None or limit == -1 else limit // 4096 * 4096
    assert memory.parse(kernel.contents())["memory"] == expected


@given(_wanted())
def test_a_new_group_takes_the_settings_in_their_order(wanted: Resources) -> None:
    kernel = KernelMemory(NO_LIMIT, NO_LIMIT)

    for setting in memory.settings(wanted):
        kernel.write(setting)

    assert memory.plan(wanted, kernel.contents(), {}) == ()


def test_memory_works_on_a_kernel_that_does_not_account_swap() -> None:
    contents = {file: value for file, value in UNTOUCHED.items() if file != memory.SWAP_LIMIT}

    assert memory.plan(Resources(memory=MIB, memory_swap=-1), contents, {}) == (
        Setting("memory", memory.LIMIT, str(MIB)),
    )
    with pytest.raises(NotSupported, match="CONFIG_SWAP"):
        memory.plan(Resources(memory=MIB, memory_swap=MIB), contents, {})


def test_a_limit_below_the_usage_is_refused_with_both_numbers() -> None:
    setting = Setting("memory", memory.LIMIT, str(32 * MIB))
    refusal = Refusal("mooring/a", setting, errno.EBUSY, "busy", {memory.USAGE: str(50 * MIB)}, {})

    error = memory.explain(refusal)

    assert isinstance(error, Conflict)
    assert "memory 32 MiB (33554432 bytes) of group mooring/a is below the 50 MiB (52428800 bytes)" in str(
        error
    )


def test_other_refusals_say_what_the_kernel_said() -> None:
    setting = Setting("memory", memory.SOFT_LIMIT, "1")
    error = memory.explain(Refusal("mooring/a", setting, errno.EOPNOTSUPP, "Operation not supported", {}, {}))

    assert "memory.soft_limit_in_bytes of group mooring/a: Operation not supported" in str(error)


FRESH_CPU = {cpu.SHARES: "1024", cpu.QUOTA: "-1", cpu.PERIOD: "100000"}


def test_cpu_of_a_new_group() -> None:
    assert cpu.settings(Resources(cpus=0.5, cpu_shares=512)) == (
        Setting("cpu", cpu.SHARES, "512"),
        Setting("cpu", cpu.QUOTA, "50000"),
    )
    assert cpu.settings(Resources()) == ()


def test_cpu_limits_go_back_to_the_defaults() -> None:
    contents = {cpu.SHARES: "512", cpu.QUOTA: "50000", cpu.PERIOD: "100000"}

    assert cpu.plan(Resources(), contents, {}) == (
        Setting("cpu", cpu.SHARES, "1024"),
        Setting("cpu", cpu.QUOTA, "-1"),
    )


def test_a_foreign_period_is_replaced_with_the_quota_lifted() -> None:
    contents = {**FRESH_CPU, cpu.QUOTA: "5000", cpu.PERIOD: "10000"}

    assert [setting.value for setting in cpu.plan(Resources(cpus=2), contents, {})] == [
        "-1",
        "100000",
        "200000",
    ]


@given(st.floats(0.01, 1000), st.integers(2, 262_144))
def test_cpu_does_not_drift(cpus: float, shares: int) -> None:
    wanted = Resources(cpus=cpus, cpu_shares=shares)
    after = dict(FRESH_CPU) | {setting.file: setting.value for setting in cpu.settings(wanted)}

    assert cpu.plan(wanted, after, {}) == ()
    assert cpu.parse(after)["cpus"] == pytest.approx(cpus, abs=1e-5)


def test_cpu_refusals_tell_the_parents_limit() -> None:
    setting = Setting("cpu", cpu.QUOTA, "200000")
    above = {cpu.QUOTA: "100000", cpu.PERIOD: "100000"}

    parent_too_small = cpu.explain(Refusal("a/b", setting, errno.EINVAL, "", {}, above))
    child_too_large = cpu.explain(Refusal("a", setting, errno.EINVAL, "", {}, FRESH_CPU))
    no_quotas = cpu.explain(Refusal("a", setting, errno.ENOENT, "", {}, {}))

    assert "cpus 2 of group a/b is above the 1 of its parent" in str(parent_too_small)
    assert "below the cpus of a group inside it" in str(child_too_large)
    assert isinstance(no_quotas, NotSupported)


def test_pids() -> None:
    assert pids.settings(Resources(pids_limit=20)) == (Setting("pids", pids.MAX, "20"),)
    assert pids.settings(Resources(pids_limit=-1)) == ()
    assert pids.plan(Resources(), {pids.MAX: "20"}, {}) == (Setting("pids", pids.MAX, "max"),)
    assert pids.plan(Resources(pids_limit=-1), {pids.MAX: "max"}, {}) == ()
    assert pids.parse({pids.MAX: "20"}) == {"pids_limit": 20}


def test_cpuset_follows_the_parent_where_nothing_is_stated() -> None:
    contents = {cpuset.CPUS: "0", cpuset.MEMS: "0"}

    assert cpuset.plan(Resources(), contents, {cpuset.CPUS: "0-1", cpuset.MEMS: "0"}) == (
        Setting("cpuset", cpuset.CPUS, "0-1"),
    )
    assert cpuset.plan(Resources(cpuset_cpus="0,0"), contents, {cpuset.CPUS: "0-1", cpuset.MEMS: "0"}) == ()


def test_cpuset_refusals_tell_what_there_is() -> None:
    setting = Setting("cpuset", cpuset.CPUS, "7")

    outside = cpuset.explain(Refusal("a", setting, errno.EINVAL, "", {}, {cpuset.CPUS: "0-1"}))
    needed = cpuset.explain(Refusal("a", setting, errno.EBUSY, "", {}, {}))

    assert 'cpuset_cpus "7" of group a is not within "0-1"' in str(outside)
    assert "a group inside it was given" in str(needed)


_sets = st.frozensets(st.integers(0, 5), min_size=1)


@st.composite
def _trees(draw: st.DrawFn) -> tuple[frozenset[int], dict[str, frozenset[int]]]:
    """A group's list and the lists of the groups inside it, each within its parent's."""
    top = draw(_sets)
    inside: dict[str, frozenset[int]] = {}
    for path in ("a", "a/x", "a/y", "b"):
        above = inside.get(path.rpartition("/")[0], top)
        inside[path] = draw(
            st.one_of(st.just(above), st.sets(st.sampled_from(sorted(above)), min_size=1).map(frozenset))
        )
    return top, inside


@given(_trees(), _sets)
def test_groups_inside_follow_a_change_of_cpus(
    tree: tuple[frozenset[int], dict[str, frozenset[int]]], new: frozenset[int]
) -> None:
    """Every write leaves every group within its parent, or is the one that the kernel is right to refuse."""
    top, inside = tree
    state = {"": top, **inside}
    own_lists = {path for path, numbers in inside.items() if numbers != state[path.rpartition("/")[0]]}
    kept = {path for path in inside if path in own_lists or path.rpartition("/")[0] in own_lists}
    fits = all(inside[path] <= new for path in own_lists if "/" not in path) and all(
        inside[path] <= new for path in own_lists if "/" in path and path.rpartition("/")[0] not in own_lists
    )
    texts = {path: format_cpulist(numbers) for path, numbers in inside.items()}

    for path, text in cpuset.cascade(format_cpulist(top), format_cpulist(new), texts):
        state[path] = parse_cpulist(text)
        consistent = all(numbers <= state[path.rpartition("/")[0]] for path, numbers in state.items() if path)
        if not consistent:
            assert not fits
            return

    assert fits
    assert state[""] == new
    assert {path: state[path] for path in kept} == {path: inside[path] for path in kept}
    assert all(state[path] == new for path in inside if path not in kept)
