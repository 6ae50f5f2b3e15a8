# SPDX-License-Identifier: Apache-2.0
"""One agent a data root."""

from __future__ import annotations

import fcntl
import os

from ..config import AgentConfig
from ..errors import Conflict


def take_data_root(config: AgentConfig) -> int:
    """Make the roots, and hold that of the data: two agents on one would ruin it. The kernel lets go of it
    when this process ends.
    """
    for directory in (config.data_root, config.run_root):
        directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    lock = os.open(config.data_root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Conflict(
            f"data root {config.data_root} is in use by another agent: stop that one, or choose another "
            "--data-root"
        ) from None
    return lock
