# SPDX-License-Identifier: Apache-2.0
"""Session keyrings, keyctl(2)."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(platform.machine())
_KEYCTL_JOIN_SESSION_KEYRING = 1  # linux/keyctl.h

_libc = ctypes.PyDLL(None, use_errno=True)


def join_session_keyring(name: str) -> None:
    """Leave the session's keyring for the one called `name`, made where this process may join none.

    A kernel without keyrings has none to leave. Raises OSError.
    """
    if _KEYCTL is None:
        raise OSError(errno.ENOSYS, f"keyctl is not known for machine {platform.machine()}")
    operation = ctypes.c_int(_KEYCTL_JOIN_SESSION_KEYRING)
    if _libc.syscall(ctypes.c_long(_KEYCTL), operation, name.encode()) < 0:
        number = ctypes.get_errno()
        if number != errno.ENOSYS:
            raise OSError(number, f"join the session keyring {name}: {os.strerror(number)}")
