# SPDX-License-Identifier: Apache-2.0
"""The devices controller, version 1 (Documentation/admin-guide/cgroup-v1/devices.rst).

The kernel keeps a default and a list of exceptions to it. A write that agrees with the default only takes an
exception with exactly the same numbers away; what cuts a part out of a wider exception cannot be said, and
the kernel ignores it silently.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import NotSupported
from ..devices import DeviceRule
from ..resources import Setting

NAME = "devices"
ALLOW = "devices.allow"
DENY = "devices.deny"


def settings(rules: Iterable[DeviceRule]) -> tuple[Setting, ...]:
    """The rules as writes, in order. NotSupported for a list that version 1 cannot express."""
    writes: list[Setting] = []
    default = True
    exceptions: list[DeviceRule] = []
    for rule in rules:
        file = ALLOW if rule.allow else DENY
        if _is_everything(rule):
            # The bare "a" also sets the default that the exceptions are counted from, and clears them.
            writes.append(Setting(NAME, file, "a"))
            default = rule.allow
            exceptions.clear()
            continue
        for single in _by_kind(rule):
            if single.allow == default:
                wider = next((other for other in exceptions if _cuts_into(single, other)), None)
                if wider is not None:
                    raise NotSupported(
                        f'device rule "{single}" takes a part out of "{wider}", which cgroups v1 cannot '
                        "express; "
                        "list the devices one by one instead"
                    )
            else:
                exceptions.append(single)
            writes.append(Setting(NAME, file, str(single)))
    return tuple(writes)


def _is_everything(rule: DeviceRule) -> bool:
    return rule.kind == "a" and rule.major is None and rule.minor is None and set(rule.access) == set("rwm")


def _by_kind(rule: DeviceRule) -> tuple[DeviceRule, ...]:
    """The kernel ignores numbers and access behind an "a": such a rule is one for each kind."""
    if rule.kind != "a":
        return (rule,)
    return tuple(DeviceRule(kind, rule.major, rule.minor, rule.access, rule.allow) for kind in ("c", "b"))


def _cuts_into(rule: DeviceRule, exception: DeviceRule) -> bool:
    if rule.kind != exception.kind or not set(rule.access) & set(exception.access):
        return False
    if (rule.major, rule.minor) == (exception.major, exception.minor):
        return False
    return all(
        mine is None or other is None or mine == other
        for mine, other in ((rule.major, exception.major), (rule.minor, exception.minor))
    )
