# SPDX-License-Identifier: Apache-2.0
"""A process that makes snapshots and is killed in the middle of it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

INSERT = "mooring_agent.storage.records:Records._insert"
FORGET = "mooring_agent.storage.records:Records._forget"

_DEADLINE = 60.0  # seconds
_CODE = """
import os, pkgutil, signal, sys
from pathlib import Path

driver, root, what, when, place = sys.argv[1:]
snapshots = pkgutil.resolve_name(driver)(Path(root))
snapshots.prepare("extract-base", None, temporary=True)
(snapshots.unpack_target("extract-base").directory / "file").write_text("base")
snapshots.commit("extract-base", "base")
snapshots.prepare("kept", "base")
snapshots.prepare("extract", "base", temporary=True)
(snapshots.unpack_target("extract").directory / "file").write_text("top")

owner, _, name = place.rpartition(".")
owner = pkgutil.resolve_name(owner)
original = getattr(owner, name)

def fatal(*arguments):
    if when == "after":
        original(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(owner, name, fatal)
{
    "prepare": lambda: snapshots.prepare("new", "base"),
    "commit": lambda: snapshots.commit("extract", "top"),
    "remove": lambda: (snapshots.remove("kept"), snapshots.wait_idle(20)),
}[what]()
print("not killed")
"""


def kill_in(driver: type, root: Path, what: str, when: str, place: str) -> None:
    """Kill a process when it prepares `new`, commits `top` or removes `kept`, all on the snapshot `base`.

    `when` is before or after the call of `place`, a function as `package.module:Class._name`.
    """
    name = f"{driver.__module__}:{driver.__qualname__}"
    done = subprocess.run(
        [sys.executable, "-c", _CODE, name, str(root), what, when, place],
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
    )
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
