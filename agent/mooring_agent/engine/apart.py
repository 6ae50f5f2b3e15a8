# SPDX-License-Identifier: Apache-2.0
"""A container's root with what is mounted in it, in a mount namespace that one thread has alone.

Nobody else sees it, and it goes with the thread, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

from ..linux import syscalls
from ..runtime.mounts import Bind, BindRoot, Overlay

T = TypeVar("T")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
EMPTY = "empty"
"""A directory without anything in the place that `mounted` is given, to make layers of."""

_ENDS_WITHIN = 10.0  # seconds that the end of the agent waits for a work that is under way


async def in_thread(work: Callable[[], T]) -> T:
    """What `work` returns, done in a thread of its own, which ends with it: it may leave the thread in
    another namespace, and take long. When the caller is cancelled it is waited for, since it uses what the
    caller holds.
    """
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 (it is raised where the work is waited for)
            done.set_exception(error)

    threading.Thread(target=run, name="mooring-files", daemon=True).start()
    waited = asyncio.wrap_future(done)
    try:
        return await asyncio.shield(waited)
    except asyncio.CancelledError:
        await asyncio.wait([waited], timeout=_ENDS_WITHIN)
        waited.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise


@contextmanager
def mounted(layers: Overlay | BindRoot, place: str, mounts: Sequence[Bind] = ()) -> Iterator[int]:
    """A descriptor of a root with its mounts, parents first.

    The calling thread gets a mount namespace of its own for good: see `in_thread`. `place` is a directory to
    work in, which is covered there. Raises OSError.
    """
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
    target = f"{place}/root"
    os.mkdir(target)
    os.mkdir(f"{place}/{EMPTY}")
    layers.mount(target)
    root = os.open(target, _DIRECTORY)
    try:
        for mount in mounts:
            mount.execute(root)
        yield root
    finally:
        os.close(root)
        os.chdir("/")
        syscalls.umount(place, syscalls.MNT_DETACH)
