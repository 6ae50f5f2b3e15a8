# SPDX-License-Identifier: Apache-2.0
"""Reading and writing cgroup interface files: one open, one system call, no buffering.

The kernel takes one value per `write`, so a text file object, which may split or delay it, is the wrong tool.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable

from ..linux import kernelfiles

GONE = (errno.ENOENT, errno.ENODEV)
"""No such file; or its group was removed after it had been opened."""


def read(path: str) -> str:
    """The contents of the file, without the trailing newline. Raises OSError."""
    return kernelfiles.read(path).decode("ascii", "replace").rstrip("\n")


def read_if_there(path: str) -> str | None:
    """Like read(), and None when this kernel has no such file. Other errors are raised."""
    try:
        return read(path)
    except FileNotFoundError:
        return None


def write(path: str, value: str) -> None:
    """Write the value in one system call. Raises OSError; the kernel's errno says why it was refused."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        # An empty write never reaches the kernel's handler; "\n" is how an empty value is written.
        os.write(descriptor, value.encode("ascii") or b"\n")
    finally:
        os.close(descriptor)


def write_if_there(path: str, value: str) -> bool:
    """Like write(), and False when there is no such file, or its group is removed just now."""
    try:
        write(path, value)
    except OSError as error:
        if error.errno not in GONE:
            raise
        return False
    return True


def flat_keyed(text: str) -> dict[str, int]:
    """A flat keyed file ("KEY VALUE" lines, Documentation/admin-guide/cgroup-v2.rst) as numbers; other lines
    are passed over."""
    values: dict[str, int] = {}
    for line in text.split("\n"):
        key, _, value = line.partition(" ")
        if value.isdigit():
            values[key] = int(value)
    return values


def wait_until(condition: Callable[[], bool], deadline_s: float) -> bool:
    """Poll with back-off, from 0.2 ms up to 10 ms apart, until the condition holds (True) or the seconds are
    over (False)."""
    end = time.monotonic() + deadline_s
    pause = 0.0002
    while not condition():
        left = end - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, 0.01)
    return True
