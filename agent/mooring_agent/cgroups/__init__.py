# SPDX-License-Identifier: Apache-2.0
"""Groups of processes with limits: one model of cgroups, whichever version the host has.

`hierarchy.detect()` tells what the host has; `Hierarchy.settings()` turns Resources into writes as pure data;
`Hierarchy.group()` is one living group. `v1/` and `v2/` hold one file a controller, with the same names in
both.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

# Looked up when they are asked for: whoever wants a parser of this package alone has not to load the rest.
_PLACES = {
    "DEFAULT_RULES": "devices",
    "DeviceRule": "devices",
    "Group": "group",
    "Hierarchy": "hierarchy",
    "detect": "hierarchy",
    "CpuStat": "resources",
    "Resources": "resources",
    "Setting": "resources",
    "Usage": "resources",
}


def __getattr__(name: str) -> Any:
    try:
        place = _PLACES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(f"{__name__}.{place}"), name)
