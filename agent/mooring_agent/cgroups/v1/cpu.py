# SPDX-License-Identifier: Apache-2.0
"""The cpu controller, version 1 (Documentation/scheduler/sched-bwc.rst for the quota, cgroups(7) for the
shares)."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

from ...errors import Conflict, MooringError, NotSupported
from ..controller import Contents, Refusal
from ..resources import (
    CPU_PERIOD_US,
    RT_PERIOD_US,
    SHARES_DEFAULT,
    UNLIMITED,
    Resources,
    Setting,
    quota_us,
)

NAME = "cpu"
SHARES = "cpu.shares"
QUOTA = "cpu.cfs_quota_us"
PERIOD = "cpu.cfs_period_us"
RT_RUNTIME = "cpu.rt_runtime_us"
RT_PERIOD = "cpu.rt_period_us"
FILES = (SHARES, QUOTA, PERIOD, RT_RUNTIME, RT_PERIOD)


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group, whose period is the default one already."""
    wanted: list[Setting] = []
    if resources.cpu_shares is not None:
        wanted.append(Setting(NAME, SHARES, str(resources.cpu_shares)))
    if resources.cpus is not None:
        wanted.append(Setting(NAME, QUOTA, str(quota_us(resources.cpus))))
    return (*wanted, *_real_time(resources, {RT_RUNTIME: "0", RT_PERIOD: str(RT_PERIOD_US)}))


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
        return (*wanted, *_real_time(resources, contents))
    quota = UNLIMITED if resources.cpus is None else quota_us(resources.cpus)
    current = int(contents[QUOTA])
    if quota != UNLIMITED and contents[PERIOD] != str(CPU_PERIOD_US):
        if current != UNLIMITED:
            wanted.append(Setting(NAME, QUOTA, str(UNLIMITED)))
            current = UNLIMITED
        wanted.append(Setting(NAME, PERIOD, str(CPU_PERIOD_US)))
    if quota != current:
        wanted.append(Setting(NAME, QUOTA, str(quota)))
    return (*wanted, *_real_time(resources, contents))


def _real_time(resources: Resources, contents: Contents) -> Iterator[Setting]:
    """The period, around which the time is lifted, since it may never be longer; a new group has none."""
    if RT_RUNTIME not in contents:
        return
    runtime = str(resources.cpu_rt_runtime or 0)
    period = str(resources.cpu_rt_period or RT_PERIOD_US)
    current = contents[RT_RUNTIME]
    if period != contents[RT_PERIOD]:
        if current != "0":
            yield Setting(NAME, RT_RUNTIME, "0")
            current = "0"
        yield Setting(NAME, RT_PERIOD, period)
    if runtime != current:
        yield Setting(NAME, RT_RUNTIME, runtime)


def parse(contents: Contents) -> dict[str, Any]:
    """Shares as they are, and the quota in CPUs; None for none."""
    real_time = int(contents.get(RT_RUNTIME, "0")) > 0
    quota, period = int(contents.get(QUOTA, "-1")), int(contents.get(PERIOD, "0"))
    return {
        "cpu_shares": int(contents[SHARES]) if SHARES in contents else None,
        "cpus": None if quota < 0 or period <= 0 else quota / period,
        "cpu_rt_runtime": int(contents[RT_RUNTIME]) if real_time else None,
        "cpu_rt_period": int(contents[RT_PERIOD]) if real_time else None,
    }


def explain(refusal: Refusal) -> MooringError:
    """EINVAL on the quota is the rule that no group of version 1 may have a larger share of time than its
    parent."""
    if refusal.setting.file in (RT_RUNTIME, RT_PERIOD) and refusal.errno == errno.EINVAL:
        return Conflict(
            f"real-time tasks of group {refusal.group} cannot have {refusal.setting.value} µs "
            f"({refusal.setting.file}): its parent group has {refusal.parent.get(RT_RUNTIME, '0')} of "
            f"{refusal.parent.get(RT_PERIOD, '0')} µs for all groups in it; give that one more first"
        )
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
