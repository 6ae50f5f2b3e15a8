# SPDX-License-Identifier: Apache-2.0
"""Walking and removing groups: the same directories in both versions."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator

from . import interface


def children(directory: str) -> list[str]:
    """Names of the groups directly inside. A vanished group has none."""
    try:
        # A kernfs directory counts its subdirectories in its links: no need to list the interface files of a
        # leaf.
        if os.stat(directory).st_nlink == 2:
            return []
        with os.scandir(directory) as entries:
            return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def descendants(directory: str, prefix: str = "") -> Iterator[str]:
    """Paths of all groups below, relative to the directory, each before those inside it."""
    for name in children(f"{directory}/{prefix}" if prefix else directory):
        path = f"{prefix}/{name}" if prefix else name
        yield path
        yield from descendants(directory, path)


def pids(directory: str, *, recursive: bool) -> list[int]:
    """Processes in the group, and with `recursive` in those inside it. One outside our process namespace (0)
    is left out."""
    directories = [directory]
    if recursive:
        directories += [f"{directory}/{path}" for path in descendants(directory)]
    found: list[int] = []
    for place in directories:
        try:
            found += [int(line) for line in interface.read(f"{place}/cgroup.procs").split() if line != "0"]
        except OSError as error:
            if error.errno not in interface.GONE:
                raise
    return found


def remove(directory: str, end: float) -> bool:
    """Remove the group and those inside it, bottom-up; retry while busy until the monotonic time `end`.

    True when it is gone, False when it is still busy at the end.
    """
    pause = 0.0002
    while True:
        if _remove_once(directory):
            return True
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.02)


def _remove_once(directory: str) -> bool:
    if _rmdir(directory):
        return True
    gone = True
    for path in reversed(list(descendants(directory))):
        gone = _rmdir(f"{directory}/{path}") and gone
    return gone and _rmdir(directory)


def _rmdir(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise
    return True
