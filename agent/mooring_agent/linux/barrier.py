# SPDX-License-Identifier: Apache-2.0
"""Waiting until every processor has done with what it had begun, membarrier(2)."""

from __future__ import annotations

import ctypes
import platform
import time

_MEMBARRIER = {"x86_64": 324, "aarch64": 283}.get(platform.machine())
_MEMBARRIER_CMD_GLOBAL = 1  # <linux/membarrier.h>
_LONG_ENOUGH = 0.05

# Not PyDLL: it takes some milliseconds.
_libc = ctypes.CDLL(None, use_errno=True)


def pass_processors() -> None:
    """Return when every packet that a processor had under its hands has left them: one that was looked up in
    the firewall's rules of before is known to connection tracking then.

    The kernel answers after a grace period of RCU, under which it handles packets. Where it gives none, with
    `nohz_full`, this waits for longer than a packet should take.
    """
    command = ctypes.c_int(_MEMBARRIER_CMD_GLOBAL)
    none = ctypes.c_int(0)
    if _MEMBARRIER is None or _libc.syscall(ctypes.c_long(_MEMBARRIER), command, none, none) < 0:
        time.sleep(_LONG_ENOUGH)
