# SPDX-License-Identifier: Apache-2.0
"""Groups of processes with limits: one model of cgroups, whichever version the host has.

`hierarchy.detect()` tells what the host has; `Hierarchy.settings()` turns Resources into writes as pure data;
`Hierarchy.group()` is one living group. `v1/` and `v2/` hold one file a controller, with the same names in
both.
"""

from __future__ import annotations

from .devices import DEFAULT_RULES, DeviceRule
from .group import Group
from .hierarchy import Hierarchy, detect
from .resources import CpuStat, Resources, Setting, Usage

__all__ = [
    "DEFAULT_RULES",
    "CpuStat",
    "DeviceRule",
    "Group",
    "Hierarchy",
    "Resources",
    "Setting",
    "Usage",
    "detect",
]
