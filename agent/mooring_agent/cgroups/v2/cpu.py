# SPDX-License-Identifier: Apache-2.0
"""The cpu controller, version 2 (Documentation/admin-guide/cgroup-v2.rst, "CPU Interface Files")."""

from __future__ import annotations

import errno
import math
from typing import Any

from ...errors import MooringError, NotSupported
from ..controller import Contents, Refusal
from ..resources import (
    CPU_PERIOD_US,
    SHARES_DEFAULT,
    SHARES_MAXIMUM,
    SHARES_MINIMUM,
    Resources,
    Setting,
    quota_us,
)

NAME = "cpu"
WEIGHT = "cpu.weight"
MAX = "cpu.max"
FILES = (WEIGHT, MAX)


def weight_of(shares: int) -> int:
    """The weight (1 to 10000, default 100) that stands for Docker's shares (2 to 262144, default 1024).

    weight = ⌈10^((log₂² shares + 125 · log₂ shares) / 612 − 7/34)⌉: the curve through both ends and the
    defaults, as published in github.com/opencontainers/cgroups, utils.go, ConvertCPUSharesToCgroupV2Value
    (runc since 1.3, crun since 1.23; the older linear formula turned the default of 1024 into 39).
    """
    if shares <= SHARES_MINIMUM:
        return 1
    if shares >= SHARES_MAXIMUM:
        return 10_000
    exponent = math.log2(shares)
    return math.ceil(10 ** ((exponent * exponent + 125 * exponent) / 612 - 7 / 34))


def shares_of(weight: int) -> int:
    """The largest number of shares that has this weight: 1024 for 100."""
    low, high = SHARES_MINIMUM, SHARES_MAXIMUM
    while low < high:
        middle = (low + high + 1) // 2
        if weight_of(middle) <= weight:
            low = middle
        else:
            high = middle - 1
    return low


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group."""
    wanted: list[Setting] = []
    if resources.cpu_shares is not None:
        wanted.append(Setting(NAME, WEIGHT, str(weight_of(resources.cpu_shares))))
    if resources.cpus is not None:
        wanted.append(Setting(NAME, MAX, f"{quota_us(resources.cpus)} {CPU_PERIOD_US}"))
    return tuple(wanted)


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """Quota and period are one write, and a child may ask for more than its parent has: no order to keep."""
    wanted: list[Setting] = []
    weight = weight_of(SHARES_DEFAULT if resources.cpu_shares is None else resources.cpu_shares)
    if contents.get(WEIGHT) != str(weight):
        wanted.append(Setting(NAME, WEIGHT, str(weight)))
    quota = "max" if resources.cpus is None else str(quota_us(resources.cpus))
    current, _, period = contents.get(MAX, f"max {CPU_PERIOD_US}").partition(" ")
    if quota != current or (quota != "max" and period != str(CPU_PERIOD_US)):
        wanted.append(Setting(NAME, MAX, f"{quota} {CPU_PERIOD_US}"))
    return tuple(wanted)


def parse(contents: Contents) -> dict[str, Any]:
    """Shares that stand for the weight, and the quota in CPUs; None for none."""
    quota, _, period = contents.get(MAX, "max").partition(" ")
    return {
        "cpu_shares": shares_of(int(contents[WEIGHT])) if WEIGHT in contents else None,
        "cpus": None if quota == "max" else int(quota) / int(period),
    }


def explain(refusal: Refusal) -> MooringError:
    """A kernel without bandwidth control has no cpu.max."""
    if refusal.setting.file == MAX and refusal.errno == errno.ENOENT:
        return NotSupported(
            f"cpus was asked for group {refusal.group}, but this kernel has no CPU quotas "
            "(CONFIG_CFS_BANDWIDTH); use cpu_shares or another kernel"
        )
    return refusal.error()
