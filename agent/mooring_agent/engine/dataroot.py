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
    config.run_root.mkdir(mode=0o711, parents=True, exist_ok=True)
    config.data_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Nobody else on the host gets to what containers are told, nor to files in volumes, of which a hostile
    # container may have made programs that run as root. An older agent let others pass.
    config.data_root.chmod(0o700)
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
