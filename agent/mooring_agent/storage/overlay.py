# SPDX-License-Identifier: Apache-2.0
"""Snapshots on OverlayFS, the default driver.

Below the driver's root lie::

    l/17            the own content of snapshot 17: an unpacked layer, or the upper directory of a container
    w/17            overlay's work directory of snapshot 17, while it is active
    snapshots.db    which key is which number, of what kind, on which parent (records.py)
    trash/          what is removed and not deleted yet

Directories are numbers because the option string of mount(2) is one page long and names every layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.storage.changes import overlay_changes
from mooring_agent.storage.recorded import RecordedSnapshotter
from mooring_agent.storage.records import Record
from mooring_agent.storage.snapshotter import (
    Change,
    Rootfs,
    SnapshotKind,
    UnpackTarget,
    Usage,
    WhiteoutStyle,
)
from mooring_agent.storage.spares import Spares
from mooring_agent.storage.trash import Trash
from mooring_agent.storage.tree import measure_tree

_ROOT_MODE = 0o755
_WORK_MODE = 0o700
_SEPARATORS = frozenset(":,\\")  # have a meaning in overlay's option string


class OverlaySnapshotter(RecordedSnapshotter):
    """The overlay driver; see Snapshotter for what its methods promise."""

    driver = "overlay"
    stacked = True

    def __init__(self, root: Path) -> None:
        """Open the snapshots below `root`, made if absent, and put right what a killed process left.

        Raises InvalidSpec for a root whose name overlay cannot take, Conflict when another process has it
        open.
        """
        if _SEPARATORS & set(str(root)):
            raise InvalidSpec(f"{root} cannot hold overlay layers: its name must not have : , or \\ in it")
        super().__init__(root, "l")
        (root / "w").mkdir(mode=0o700, exist_ok=True)
        self._works_fd = os.open(root / "w", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._trash = Trash(root / "trash")
        self._chains: dict[str, tuple[Path, ...]] = {}
        self._roots: dict[int, tuple[int, int, int]] = {}  # mode, uid, gid of committed layers' roots
        self._owner = os.geteuid(), os.getegid()
        self._load()
        self._spares = Spares(self._make_pair)

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until the trash is empty."""
        return self._trash.wait_idle(timeout)

    def _load(self) -> None:
        super()._load()
        works = set(os.listdir(self._works_fd))
        expected = {
            str(record.number) for _, record in self._records.items() if record.kind is SnapshotKind.ACTIVE
        }
        for name in works - expected:
            self._trash.discard(self._works_fd, name)
        for name in expected - works:
            os.mkdir(name, _WORK_MODE, dir_fd=self._works_fd)

    def _make(self, parent: Record | None) -> int:
        """Take two directories made ahead; the root looks like that of the layer below.

        Overlay shows the topmost layer's.
        """
        number = self._spares.take()
        if parent is not None:
            mode, uid, gid = self._roots.get(parent.number) or self._look_at(parent)
            if (uid, gid) != self._owner:
                os.chown(str(number), uid, gid, dir_fd=self._layers_fd)
            if mode != _ROOT_MODE:
                os.chmod(str(number), mode, dir_fd=self._layers_fd)
        return number

    def _make_pair(self) -> int:
        """A layer's directory and its work directory; their number."""
        number = next(self._numbers)
        for fd, mode in ((self._layers_fd, _ROOT_MODE), (self._works_fd, _WORK_MODE)):
            os.mkdir(str(number), mode, dir_fd=fd)
            os.chmod(str(number), mode, dir_fd=fd)
        return number

    def _look_at(self, layer: Record) -> tuple[int, int, int]:
        status = os.stat(str(layer.number), dir_fd=self._layers_fd)
        self._roots[layer.number] = stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid
        return self._roots[layer.number]

    def _rootfs(self, record: Record) -> Rootfs:
        lower = self._chain(record.parent)
        if record.kind is SnapshotKind.VIEW:
            return Rootfs(lower, None, None)
        work = Path(f"{self._root}/w/{record.number}") if lower else None
        return Rootfs(lower, self._path(record), work)

    def _target(self, record: Record) -> UnpackTarget:
        return UnpackTarget(self._path(record), WhiteoutStyle.OVERLAY, self._chain(record.parent))

    def limit(self, key: str, size: int) -> None:
        """See Snapshotter: an upper layer is a directory like others, of which there may be no more than fits
        on the disk.
        """
        raise NotSupported(
            f"the layers in {self._root} are plain directories, which have no bound: use the storage driver "
            "btrfs, on a btrfs with quotas (mkfs.btrfs, btrfs quota enable, --data-root there)"
        )

    def _seal(self, record: Record) -> None:
        self._trash.discard(self._works_fd, str(record.number))

    def _measure(self, record: Record) -> Usage:
        return measure_tree(self._path(record))

    def _changes(self, record: Record) -> Iterator[Change]:
        return overlay_changes(self._path(record), self._chain(record.parent))

    def _forgotten(self, record: Record) -> None:
        if record.kind is SnapshotKind.COMMITTED:
            self._chains.clear()
            self._roots.pop(record.number, None)

    def _discard(self, record: Record) -> None:
        self._discard_layer(record.number)
        self._trash.discard(self._works_fd, str(record.number))

    def _discard_layer(self, number: int) -> None:
        self._trash.discard(self._layers_fd, str(number))

    def _stop(self) -> None:
        self._spares.close()
        self._trash.close()
        os.close(self._works_fd)

    def _parent(self, name: str | None) -> Record | None:
        if name is None:
            return None
        self._chain(name)
        return self._records.get(name)

    def _chain(self, name: str | None) -> tuple[Path, ...]:
        """The layer directories of the committed snapshot `name` and those below it, topmost first."""
        if name is None:
            return ()
        chain = self._chains.get(name)
        if chain is None:
            chain = tuple(self._path(record) for record in self._records.ancestry(name))
            self._chains[name] = chain
        return chain
