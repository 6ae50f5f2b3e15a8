# SPDX-License-Identifier: Apache-2.0
"""What all mount operations are: steps as data that can be described, compared, sent and executed."""

from __future__ import annotations

import os

NULL_DEVICE = os.makedev(1, 3)  # Documentation/admin-guide/devices.txt


class MountOperation:
    """One step of building a container's file system below the directory open as `root`.

    It is executed in the container's mount namespace with the rights of the host's root, and new files belong
    to the container's root.
    """

    def describe(self) -> str:
        """One line for people."""
        raise TypeError(f"{type(self).__name__} does not describe itself")

    @property
    def covers_root(self) -> bool:
        """Whether there is another root directory after it: everything then has to be found from there."""
        return False

    def execute(self, root: int) -> None:
        """Do it. Raises OSError that names the target."""
        raise TypeError(f"{type(self).__name__} cannot be executed")
