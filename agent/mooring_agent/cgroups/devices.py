# SPDX-License-Identifier: Apache-2.0
"""Which device nodes a group's processes may make, read and write: the rules, for both versions.

`v1/devices.py` writes them to devices.allow and devices.deny, `v2/devices.py` compiles them to a BPF program.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..errors import InvalidSpec

_RULE = re.compile(r"([abc])\s+(\d+|\*):(\d+|\*)\s+([rwm]{1,3})", re.ASCII)


@dataclass(frozen=True)
class DeviceRule:
    """One rule; the last one that matches decides.

    kind    "c" character device, "b" block device, "a" both
    major, minor  None: any
    access  of "r" read, "w" write, "m" mknod
    """

    kind: str
    major: int | None
    minor: int | None
    access: str = "rwm"
    allow: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("a", "b", "c"):
            raise InvalidSpec(f'device rule has the type "{self.kind}", expected "c", "b" or "a"')
        if not self.access or set(self.access) - set("rwm"):
            raise InvalidSpec(
                f'device rule has the access "{self.access}", expected some of "r", "w" and "m"'
            )
        for name, number in (("major", self.major), ("minor", self.minor)):
            if number is not None and not 0 <= number < 1 << 32:
                raise InvalidSpec(
                    f"device rule has the {name} number {number}, expected 0 to 4294967295 or none for any"
                )

    def __str__(self) -> str:
        """The kernel's notation, as "c 1:3 rwm"."""
        major = "*" if self.major is None else str(self.major)
        minor = "*" if self.minor is None else str(self.minor)
        return f"{self.kind} {major}:{minor} {self.access}"


def parse_rule(text: str, *, allow: bool = True) -> DeviceRule:
    """A rule from the kernel's notation (`docker run --device-cgroup-rule` has the same). InvalidSpec if
    malformed."""
    match = _RULE.fullmatch(text.strip())
    if match is None:
        raise InvalidSpec(
            f'device rule is "{text}", expected a type, numbers and access such as "c 1:3 rwm" or "b 8:* r"'
        )
    major, minor = (None if part == "*" else int(part) for part in (match[2], match[3]))
    return DeviceRule(match[1], major, minor, "".join(sorted(set(match[4]), key="rwm".index)), allow)


DEFAULT_RULES: tuple[DeviceRule, ...] = (
    DeviceRule("a", None, None, "rwm", allow=False),
    DeviceRule("c", None, None, "m"),
    DeviceRule("b", None, None, "m"),
    DeviceRule("c", 1, 3),  # null
    DeviceRule("c", 1, 5),  # zero
    DeviceRule("c", 1, 7),  # full
    DeviceRule("c", 1, 8),  # random
    DeviceRule("c", 1, 9),  # urandom
    DeviceRule("c", 5, 0),  # tty
    DeviceRule("c", 5, 1),  # console
    DeviceRule("c", 5, 2),  # ptmx
    DeviceRule("c", 136, None),  # pts/*
)
"""Docker's white list. Numbers: Documentation/admin-guide/devices.txt. Making any node is allowed, using it
is not."""
