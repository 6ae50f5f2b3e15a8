# SPDX-License-Identifier: Apache-2.0
"""Which limits make sense, whatever the host."""

from __future__ import annotations

import pytest

from mooring_agent.cgroups.resources import Resources, describe_bytes, quota_us
from mooring_agent.errors import InvalidSpec

MIB = 1 << 20


@pytest.mark.parametrize(
    ("resources", "named"),
    [
        (Resources(memory=-5), "memory is -5"),
        (Resources(memory=0), "memory is 0"),
        (Resources(memory=100), "memory is 100, expected at least 4096"),
        (Resources(pids_limit=0), "pids_limit is 0, expected a number of tasks"),
        (Resources(cpus=0.001), "cpus is 0.001"),
        (Resources(cpus=float("nan")), "cpus is nan"),
        (Resources(cpus=float("inf")), "cpus is inf"),
        (Resources(cpu_shares=1), "cpu_shares is 1, expected 2 to 262144"),
        (Resources(cpu_shares=262_145), "cpu_shares is 262145"),
        (Resources(cpuset_cpus="0-"), "cpuset_cpus"),
        (Resources(cpuset_mems=" "), "cpuset_mems is empty"),
        (Resources(memory_swap=MIB), "memory has no limit"),
        (Resources(memory=-1, memory_swap=MIB), "memory has no limit"),
        (Resources(memory=2 * MIB, memory_swap=MIB), "below memory 2 MiB"),
        (Resources(memory=MIB, memory_reservation=2 * MIB), "above memory 1 MiB"),
    ],
)
def test_what_no_kernel_would_take_is_named(resources: Resources, named: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resources.check()
    assert named in caught.value.message


@pytest.mark.parametrize(
    "resources",
    [
        Resources(),
        Resources(memory=-1, memory_swap=-1, memory_reservation=-1, pids_limit=-1),
        Resources(memory=MIB, memory_swap=MIB, memory_reservation=MIB, cpus=0.01, cpu_shares=2),
        Resources(memory=MIB, memory_swap=-1, cpuset_cpus="0,2-3", cpuset_mems="0", pids_limit=1),
    ],
)
def test_what_makes_sense_passes(resources: Resources) -> None:
    resources.check()


def test_bytes_in_messages_are_exact_and_readable() -> None:
    assert describe_bytes(64 * MIB) == "64 MiB (67108864 bytes)"
    assert describe_bytes(1536) == "1.5 KiB (1536 bytes)"
    assert describe_bytes(12) == "12 bytes"


def test_a_quota_is_never_below_the_kernels_minimum() -> None:
    assert quota_us(1.5) == 150_000
    assert quota_us(0.01) == 1_000
    assert quota_us(0.001) == 1_000
