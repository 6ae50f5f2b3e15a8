# SPDX-License-Identifier: Apache-2.0
"""A container's root with what is mounted in it, in a mount namespace that one thread has alone.

Nobody else sees it, and it goes with the thread, however that ends.
"""

from __future__ import annotations

import asyncio
import os
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import TypeVar

from ..linux import syscalls
from ..runtime.mounts import BindRoot, Overlay
from ..runtime.mounts_targets import CLONE, EMPTY_TO_EMPTY, open_target

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
def mounted(
    layers: Overlay | BindRoot, place: str, mounts: Sequence[tuple[str, str, bool]] = ()
) -> Iterator[int]:
    """A descriptor of a root with its mounts (target, source, whether read-only), parents first.

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
        for inside, source, read_only in mounts:
            _attach(root, inside, source, read_only=read_only)
        yield root
    finally:
        os.close(root)
        os.chdir("/")
        syscalls.umount(place, syscalls.MNT_DETACH)


def _attach(root: int, target: str, source: str, *, read_only: bool) -> None:
    with ExitStack() as opened:
        there = os.open(source, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, there)
        point = open_target(root, target, directory=stat.S_ISDIR(os.fstat(there).st_mode))
        opened.callback(os.close, point)
        tree = syscalls.open_tree(there, "", CLONE | syscalls.AT_EMPTY_PATH)
        opened.callback(os.close, tree)
        if read_only:
            syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(tree, "", point, "", EMPTY_TO_EMPTY)
