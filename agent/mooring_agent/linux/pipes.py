# SPDX-License-Identifier: Apache-2.0
"""What looking after named pipes takes beyond the standard library: tee(2), inotify(7) without asyncio."""

from __future__ import annotations

import ctypes
import os

from .syscalls import _check, _libc, _path

# inotify.h
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_Q_OVERFLOW = 0x4000


def tee(source: int, target: int, length: int) -> int:
    """Copy at most `length` bytes from pipe to pipe that stay in the first, tee(2), without waiting; their
    number, 0 at the end of the pipe. BlockingIOError when there are none.
    """
    arguments = (ctypes.c_int(source), ctypes.c_int(target), ctypes.c_size_t(length))
    return _check(_libc.tee(*arguments, ctypes.c_uint(os.SPLICE_F_NONBLOCK)), "tee")


def inotify_init() -> int:
    """A descriptor for inotify events, which reading does not wait for, inotify_init1(2)."""
    return _check(_libc.inotify_init1(ctypes.c_int(os.O_NONBLOCK | os.O_CLOEXEC)), "inotify_init1")


def inotify_add_watch(descriptor: int, path: str, mask: int) -> int:
    """Watch `path` for the events in `mask`, inotify_add_watch(2); the number of the watch."""
    arguments = (ctypes.c_int(descriptor), _path(path), ctypes.c_uint32(mask))
    return _check(_libc.inotify_add_watch(*arguments), "inotify_add_watch", path)
