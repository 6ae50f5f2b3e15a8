# SPDX-License-Identifier: Apache-2.0
"""Snapshots on btrfs: every snapshot is a subvolume that shows the whole tree, its parent's content included.

Below the driver's root lie::

    v/17            the subvolume of snapshot 17, read-only once it is committed
    snapshots.db    which key is which number, of what kind, on which parent (records.py)

A container's root is bind-mounted from its subvolume; a layer is unpacked into a snapshot of the one below,
where what it whites out is really deleted. Making a snapshot waits for a transaction of the file system, some
milliseconds on a disk at rest.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mooring_agent.errors import InvalidSpec, NotSupported, Unavailable
from mooring_agent.linux import btrfs
from mooring_agent.linux.paths import open_directory
from mooring_agent.linux.syscalls import file_system_type
from mooring_agent.storage.changes import tree_changes
from mooring_agent.storage.deletions import Deletions, Proceed
from mooring_agent.storage.recorded import RecordedSnapshotter
from mooring_agent.storage.records import Record
from mooring_agent.storage.snapshotter import (
    Change,
    ChangeKind,
    Rootfs,
    SnapshotKind,
    UnpackTarget,
    Usage,
    WhiteoutStyle,
)
from mooring_agent.storage.tree import measure_paths, measure_tree, walk_tree

_log = logging.getLogger(__name__)

_ROOT_MODE = 0o755
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class BtrfsSnapshotter(RecordedSnapshotter):
    """The btrfs driver; see Snapshotter for what its methods promise."""

    driver = "btrfs"
    stacked = False

    def __init__(self, root: Path) -> None:
        """Open the snapshots below `root`, made if absent, and put right what a killed process left.

        Raises InvalidSpec where `root` is not on btrfs, Conflict when another process has it open.
        """
        root.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not is_btrfs(root.parent):
            raise InvalidSpec(
                f"{root} is not on btrfs, so its snapshots cannot be made there: put --data-root on a btrfs "
                "file system or choose --storage-driver overlay"
            )
        super().__init__(root, "v")
        self._deletions = Deletions(root / "v", self._delete)
        self._load()

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until all subvolumes that were removed are gone; the space comes back some time after."""
        return self._deletions.wait_idle(timeout)

    def _load(self) -> None:
        super()._load()
        for _, record in self._records.items():
            if record.kind is SnapshotKind.COMMITTED:
                self._seal(record)

    def _make(self, parent: Record | None) -> int:
        number = next(self._numbers)
        if parent is not None:
            with _opened(self._layers_fd, str(parent.number)) as source:
                btrfs.create_snapshot(source, self._layers_fd, str(number))
            return number
        btrfs.create_subvolume(self._layers_fd, str(number))
        try:
            os.chmod(str(number), _ROOT_MODE, dir_fd=self._layers_fd)
        except OSError:
            self._discard_layer(number)
            raise
        return number

    def _rootfs(self, record: Record) -> Rootfs:
        if record.kind is SnapshotKind.VIEW:
            assert record.parent is not None
            return Rootfs((self._path(self._records.get(record.parent)),), None, None)
        return Rootfs((), self._path(record), None)

    def _target(self, record: Record) -> UnpackTarget:
        return UnpackTarget(self._path(record), WhiteoutStyle.DELETE, ())

    def limit(self, key: str, size: int) -> None:
        """See Snapshotter: a limit of the group that a subvolume has where quotas are enabled."""
        with self._lock:
            record = self._records.active(key)
        try:
            with _opened(self._layers_fd, str(record.number)) as fd:
                btrfs.limit_own(fd, size)
        except OSError as error:
            if error.errno == errno.ENOTCONN:
                raise NotSupported(
                    f"the btrfs of {self._root} has no quotas: enable them with 'btrfs quota enable "
                    f"{self._root}'"
                ) from None
            raise Unavailable(f"a layer in {self._root} cannot be bounded: {error}") from error

    def _seal(self, record: Record) -> None:
        try:
            with _opened(self._layers_fd, str(record.number)) as fd:
                btrfs.set_read_only(fd, True)
        except OSError as error:
            # A guard only: nothing of Mooring writes to it, and the next open tries again.
            _log.warning("%s could not be made read-only: %s", self._path(record), error)

    def _measure(self, record: Record) -> Usage:
        """What was added or modified counts whole, as overlay would have copied it up."""
        below = self._parent_path(record)
        if below is None:
            return measure_tree(self._path(record))
        return measure_paths(
            self._path(record),
            (
                change.path
                for change in tree_changes(below, self._path(record))
                if change.kind is not ChangeKind.DELETED
            ),
        )

    def _changes(self, record: Record) -> Iterator[Change]:
        return tree_changes(self._parent_path(record), self._path(record))

    def _parent_path(self, record: Record) -> Path | None:
        return None if record.parent is None else self._path(self._records.get(record.parent))

    def _forgotten(self, record: Record) -> None:
        """Nothing is remembered here."""

    def _discard(self, record: Record) -> None:
        if record.kind is not SnapshotKind.VIEW:
            self._discard_layer(record.number)

    def _discard_layer(self, number: int) -> None:
        # Numbers are not used again, so it can stay where it is until it is deleted.
        self._deletions.enqueue(str(number))

    def _stop(self) -> None:
        self._deletions.close()

    def _delete(self, name: str, proceed: Proceed) -> None:
        try:
            btrfs.destroy_subvolume(self._layers_fd, name)
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
            self._delete_inner(name, proceed)
            btrfs.destroy_subvolume(self._layers_fd, name)

    def _delete_inner(self, name: str, proceed: Proceed) -> None:
        """Delete the subvolumes that a container made in its own: anybody may, in a directory of theirs."""
        with _opened(self._layers_fd, name) as fd:
            btrfs.set_read_only(fd, False)
            inner = []
            for level in walk_tree(fd):
                proceed()
                for child, status in level.entries:
                    if stat.S_ISDIR(status.st_mode) and status.st_ino == btrfs.SUBVOLUME_INODE:
                        inner.append((level.path, child))
                        with _opened(level.fd, child) as child_fd:
                            btrfs.set_read_only(child_fd, False)
            for path, child in reversed(inner):  # the innermost first
                proceed()
                with _opened(fd, path) as parent_fd:
                    btrfs.destroy_subvolume(parent_fd, os.fsdecode(child))


@contextmanager
def _opened(dir_fd: int, path: str | bytes) -> Iterator[int]:
    fd = open_directory(dir_fd, os.fsencode(path))
    try:
        yield fd
    finally:
        os.close(fd)


def is_btrfs(directory: Path) -> bool:
    """Whether a directory is on btrfs."""
    fd = os.open(directory, _DIRECTORY)
    try:
        return file_system_type(fd) == btrfs.BTRFS_SUPER_MAGIC
    finally:
        os.close(fd)
