# SPDX-License-Identifier: Apache-2.0
"""Capabilities by name: which there are, which a container has, and what `cap_add` and `cap_drop` make of
it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..errors import InvalidSpec

CAPABILITIES: dict[str, int] = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_LINUX_IMMUTABLE": 9,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_BROADCAST": 11,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_IPC_LOCK": 14,
    "CAP_IPC_OWNER": 15,
    "CAP_SYS_MODULE": 16,
    "CAP_SYS_RAWIO": 17,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_PACCT": 20,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_BOOT": 22,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_SYS_TIME": 25,
    "CAP_SYS_TTY_CONFIG": 26,
    "CAP_MKNOD": 27,
    "CAP_LEASE": 28,
    "CAP_AUDIT_WRITE": 29,
    "CAP_AUDIT_CONTROL": 30,
    "CAP_SETFCAP": 31,
    "CAP_MAC_OVERRIDE": 32,
    "CAP_MAC_ADMIN": 33,
    "CAP_SYSLOG": 34,
    "CAP_WAKE_ALARM": 35,
    "CAP_BLOCK_SUSPEND": 36,
    "CAP_AUDIT_READ": 37,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
    "CAP_CHECKPOINT_RESTORE": 40,
}
"""Every capability of include/uapi/linux/capability.h (Linux 5.9 to today) and its number, in the order of
the numbers."""

DEFAULT: tuple[str, ...] = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SYS_CHROOT",
    "CAP_MKNOD",
    "CAP_AUDIT_WRITE",
    "CAP_SETFCAP",
)
"""What a container has unless it says otherwise: the 14 that Docker gives."""

ALL = "ALL"


def normalise(name: str, field: str = "capability") -> str:
    """The name as the kernel's header has it ("net_admin" → "CAP_NET_ADMIN"), or ALL. InvalidSpec names
    `field` and the nearest."""
    upper = name.strip().upper()
    if upper in (ALL, "CAP_ALL"):
        return ALL
    full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
    if full in CAPABILITIES:
        return full
    near = difflib.get_close_matches(full, CAPABILITIES, n=1)
    hint = f', did you mean "{near[0].removeprefix("CAP_")}"' if near else ""
    raise InvalidSpec(
        f'{field} has "{name}", which is no capability{hint}; expected a name of capabilities(7) or "ALL"'
    )


def resolve(cap_add: Iterable[str] = (), cap_drop: Iterable[str] = ()) -> tuple[str, ...]:
    """What a container has: DEFAULT, without `cap_drop`, with `cap_add`, in the order of the numbers.

    Docker's rules: `drop ALL` starts from none, `add ALL` from all of CAPABILITIES; a name in both lists is
    added, except that with `add ALL` it is dropped. Names with or without CAP_, in any case. InvalidSpec for
    an unknown one.
    """
    add = {normalise(name, "cap_add") for name in cap_add}
    drop = {normalise(name, "cap_drop") for name in cap_drop}
    if ALL in add:
        have = set(CAPABILITIES) - drop
    elif ALL in drop:
        have = set(add)
    else:
        have = (set(DEFAULT) - drop) | add
    return tuple(name for name in CAPABILITIES if name in have)


def mask(names: Iterable[str]) -> int:
    """The set as the kernel's bit mask, bit N for capability number N."""
    return sum(1 << CAPABILITIES[name] for name in set(names))
