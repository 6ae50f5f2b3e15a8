# SPDX-License-Identifier: Apache-2.0
"""Making groups in the version 2 hierarchy: controllers are handed down level by level.

Documentation/admin-guide/cgroup-v2.rst, "Controlling Controllers": a group has the controllers that its
parent names in cgroup.subtree_control, and, the root apart, a group with processes of its own may not name
any ("no internal processes").
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from ...errors import Conflict
from .. import interface

SUBTREE_CONTROL = "cgroup.subtree_control"


def make(mount: str, path: str, controllers: Iterable[str], *, delegate: bool = False) -> None:
    """Make the group and those above it, with the controllers; one that is there already is fine.

    Raises OSError, and Conflict when a group above has processes of its own and so cannot hand controllers
    down.
    """
    wanted = frozenset(controllers)
    parts = path.split("/")
    directory = mount
    for part in parts:
        _delegate(directory, wanted)
        directory = f"{directory}/{part}"
        try:
            os.mkdir(directory)
        except FileExistsError:
            continue
    if delegate:
        _delegate(directory, wanted)


def _delegate(directory: str, wanted: frozenset[str]) -> None:
    missing = wanted.difference(interface.read(f"{directory}/{SUBTREE_CONTROL}").split())
    if not missing:
        return
    try:
        interface.write(f"{directory}/{SUBTREE_CONTROL}", " ".join(f"+{name}" for name in sorted(missing)))
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise Conflict(
                f"group {directory} cannot hand the controllers {', '.join(sorted(missing))} down because "
                "processes live in it, which cgroups v2 forbids; move them to a group inside it"
            ) from error
        if error.errno == errno.ENOENT:
            raise Conflict(
                f"group {directory} does not have the controllers {', '.join(sorted(missing))}; its parent "
                f"has to name them in {SUBTREE_CONTROL}"
            ) from error
        raise
