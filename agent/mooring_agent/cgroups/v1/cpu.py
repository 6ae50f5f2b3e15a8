# SPDX-License-Identifier: Apache-2.0
"""The cpu controller, version 1 (Documentation/scheduler/sched-bwc.rst for the quota, cgroups(7) for the
shares)."""

from __future__ import annotations

import errno

from ...errors import Conflict, MooringError, NotSupported
from ..controller import Contents, Refusal
from ..resources import CPU_PERIOD_US, SHARES_DEFAULT, UNLIMITED, Resources, Setting, quota_us

NAME = "cpu"
SHARES = "cpu.shares"
QUOTA = "cpu.cfs_quota_us"
PERIOD = "cpu.cfs_period_us"
FILES = (SHARES, QUOTA, PERIOD)


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group, whose period is the default one already."""
    wanted: list[Setting] = []
    if resources.cpu_shares is not None:
        wanted.append(Setting(NAME, SHARES, str(resources.cpu_shares)))
    if resources.cpus is not None:
        wanted.append(Setting(NAME, QUOTA, str(quota_us(resources.cpus))))
    return tuple(wanted)


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """Shares; then the quota, around a foreign period with the quota lifted, as each step is checked against
    the parent's."""
    wanted: list[Setting] = []
    shares = SHARES_DEFAULT if resources.cpu_shares is None else resources.cpu_shares
    if contents.get(SHARES) != str(shares):
        wanted.append(Setting(NAME, SHARES, str(shares)))
    if QUOTA not in contents:
        if resources.cpus is not None:
            wanted.append(Setting(NAME, QUOTA, str(quota_us(resources.cpus))))
        return tuple(wanted)
    quota = UNLIMITED if resources.cpus is None else quota_us(resources.cpus)
    current = int(contents[QUOTA])
    if quota != UNLIMITED and contents[PERIOD] != str(CPU_PERIOD_US):
        if current != UNLIMITED:
            wanted.append(Setting(NAME, QUOTA, str(UNLIMITED)))
            current = UNLIMITED
        wanted.append(Setting(NAME, PERIOD, str(CPU_PERIOD_US)))
    if quota != current:
        wanted.append(Setting(NAME, QUOTA, str(quota)))
    return tuple(wanted)


def parse(contents: Contents) -> dict[str, int | float | str | None]:
    """Shares as they are, and the quota in CPUs; None for none."""
    quota, period = int(contents.get(QUOTA, "-1")), int(contents.get(PERIOD, "0"))
    return {
        "cpu_shares": int(contents[SHARES]) if SHARES in contents else None,
        "cpus": None if quota < 0 or period <= 0 else quota / period,
    }


def explain(refusal: Refusal) -> MooringError:
    """EINVAL on the quota is the rule that no group of version 1 may have a larger share of time than its
    parent."""
    if refusal.setting.file != QUOTA:
        return refusal.error()
    if refusal.errno == errno.ENOENT:
        return quota_missing(refusal)
    if refusal.errno != errno.EINVAL:
        return refusal.error()
    asked = int(refusal.setting.value)
    cpus = "no limit" if asked < 0 else f"{asked / CPU_PERIOD_US:g}"
    above = parse(refusal.parent)["cpus"]
    if above is not None and isinstance(above, float) and (asked < 0 or asked / CPU_PERIOD_US > above):
        return Conflict(
            f"cpus {cpus} of group {refusal.group} is above the {above:g} of its parent group, which "
            f"cgroups v1 does not allow; choose at most {above:g} or raise the parent's first"
        )
    return Conflict(
        f"cpus {cpus} of group {refusal.group} is below the cpus of a group inside it, which cgroups v1 "
        "does not allow; lower those inside first"
    )


def quota_missing(refusal: Refusal) -> MooringError:
    """The error for a kernel without bandwidth control."""
    return NotSupported(
        f"cpus was asked for group {refusal.group}, but this kernel has no CPU quotas "
        "(CONFIG_CFS_BANDWIDTH); use cpu_shares or another kernel"
    )
