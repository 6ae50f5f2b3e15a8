# SPDX-License-Identifier: Apache-2.0
"""Which driver holds the snapshots below a data root: the one it was made with, else its file system's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mooring_agent.errors import Conflict
from mooring_agent.storage.btrfs import BtrfsSnapshotter, is_btrfs
from mooring_agent.storage.overlay import OverlaySnapshotter
from mooring_agent.storage.recorded import DATABASE
from mooring_agent.storage.snapshotter import Snapshotter

_DRIVERS: dict[str, Callable[[Path], Snapshotter]] = {
    OverlaySnapshotter.driver: OverlaySnapshotter,
    BtrfsSnapshotter.driver: BtrfsSnapshotter,
}


def open_snapshotter(data_root: Path, wanted: str) -> Snapshotter:
    """Open the snapshots of an agent; `wanted` is one of config.STORAGE_DRIVERS.

    A data root stays with the driver that it was made with: Conflict when another one is wanted. A new one
    with `auto` gets btrfs on btrfs, overlay elsewhere. Raises what the driver raises where it cannot be.
    """
    data_root.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = next((name for name in _DRIVERS if (data_root / name / DATABASE).exists()), None)
    if found is not None and wanted not in ("auto", found):
        raise Conflict(
            f"{data_root} was made with the storage driver {found} and cannot be used with {wanted}: start "
            f"the agent with --storage-driver {found} or auto, or give it another --data-root"
        )
    if found is not None:
        driver = found
    elif wanted != "auto":
        driver = wanted
    else:
        driver = BtrfsSnapshotter.driver if is_btrfs(data_root) else OverlaySnapshotter.driver
    return _DRIVERS[driver](data_root / driver)
