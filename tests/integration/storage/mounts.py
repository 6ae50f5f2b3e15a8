# SPDX-License-Identifier: Apache-2.0
"""Looking at a root file system as a container would, in a mount namespace of its own."""

from __future__ import annotations

import subprocess

from mooring_agent.storage.snapshotter import Rootfs

_DEADLINE = 30.0  # seconds
_PRELUDE = """
set -e
if [ "$1" = bind ]; then
    mount --bind "$2" /mnt
    [ "$3" = ro ] && mount -o remount,bind,ro /mnt
    :
else
    mount -t overlay -o "$2" overlay /mnt
fi
cd /mnt
"""


def mounted(rootfs: Rootfs, script: str) -> str:
    """Run a shell script of the host in the root directory of `rootfs` and return what it says."""
    source = rootfs.bind_source
    arguments = (
        ["bind", str(source), "ro" if rootfs.read_only else "rw"]
        if source is not None
        else ["overlay", rootfs.overlay_options(), ""]
    )
    result = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _PRELUDE + script, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=_DEADLINE,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
