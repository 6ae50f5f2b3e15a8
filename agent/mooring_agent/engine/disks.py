# SPDX-License-Identifier: Apache-2.0
"""Disks of the host that limits name by the paths of their nodes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping

from ..cgroups.resources import DeviceLimit
from ..errors import Conflict


def disks(
    option: str, limits: Mapping[str, int], passed_over: Callable[[Conflict], None] | None = None
) -> tuple[DeviceLimit, ...]:
    """The limits by the numbers that the disks have now. Raises Conflict, naming the option and the path.

    With `passed_over` it is told that instead, and the disk is left out.
    """
    found = []
    for path, limit in limits.items():
        try:
            found.append(DeviceLimit(_number(option, path), limit))
        except Conflict as error:
            if passed_over is None:
                raise
            passed_over(error)
    return tuple(found)


def _number(option: str, path: str) -> str:
    try:
        node = os.stat(path)
    except OSError as error:
        raise Conflict(
            f"{option} names {path}, which cannot be used: {error.strerror}; name a disk of the host"
        ) from error
    if not stat.S_ISBLK(node.st_mode):
        raise Conflict(f"{option} names {path}, which is no block device; name a disk of the host")
    return f"{os.major(node.st_rdev)}:{os.minor(node.st_rdev)}"
