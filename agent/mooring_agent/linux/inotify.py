# SPDX-License-Identifier: Apache-2.0
"""inotify(7) for asyncio: wait until something in a directory has changed."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Protocol

IN_MODIFY = 0x2
IN_CREATE = 0x100
IN_DELETE_SELF = 0x400
IN_IGNORED = 0x8000
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EVENT = struct.Struct("=iIII")

_libc = ctypes.CDLL(None, use_errno=True)


class Waker(Protocol):
    """Who is told that something has changed, as an `asyncio.Event` is."""

    def set(self) -> None:
        """Take note of it; never waits."""


class DirectoryWatch:
    """Any number of waiters on any number of directories, with a single inotify instance."""

    def __init__(self) -> None:
        self._descriptor = _check(_libc.inotify_init1(ctypes.c_int(_FLAGS)), "inotify_init1")
        self._waiters: dict[int, set[Waker]] = {}
        self._creation_calls: dict[Waker, Callable[[], None]] = {}
        asyncio.get_running_loop().add_reader(self._descriptor, self._readable)

    def add(self, directory: str, created: Callable[[], None]) -> tuple[int, asyncio.Event]:
        """An event that is set at every change of a file in `directory` from now on, and the watch to
        `remove`. `created` is called at once when a file appears there.
        """
        event = asyncio.Event()
        watch = self.wake(directory, event)
        self._creation_calls[event] = created
        return watch, event

    def wake(self, directory: str, waker: Waker) -> int:
        """Have `waker` told of every change of a file in `directory` from now on; the watch to `remove`."""
        mask = ctypes.c_uint32(IN_MODIFY | IN_CREATE | IN_DELETE_SELF)
        watch = _check(
            _libc.inotify_add_watch(ctypes.c_int(self._descriptor), os.fsencode(directory), mask),
            f"inotify_add_watch {directory}",
        )
        self._waiters.setdefault(watch, set()).add(waker)
        return watch

    def remove(self, watch: int, event: Waker) -> None:
        """End one waiter; the last one of a directory ends its watch."""
        self._creation_calls.pop(event, None)
        waiters = self._waiters.get(watch)
        if waiters is None:
            return
        waiters.discard(event)
        if not waiters:
            del self._waiters[watch]
            # The directory may be gone, and its watch with it.
            _libc.inotify_rm_watch(ctypes.c_int(self._descriptor), ctypes.c_int(watch))

    def close(self) -> None:
        """End all watches."""
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)

    def _readable(self) -> None:
        try:
            content = os.read(self._descriptor, 64 << 10)
        except BlockingIOError:
            return
        offset = 0
        while offset < len(content):
            watch, mask, _, length = _EVENT.unpack_from(content, offset)
            offset += _EVENT.size + length
            for event in self._waiters.get(watch, ()):
                event.set()
                if mask & IN_CREATE and event in self._creation_calls:
                    self._creation_calls[event]()


def _check(result: int, name: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        hint = ": raise fs.inotify.max_user_watches" if number == errno.ENOSPC else ""
        raise OSError(number, f"{name}: {os.strerror(number)}{hint}")
    return result
