# SPDX-License-Identifier: Apache-2.0
"""A thin layer above an image with the empty files and directories over which a container's own are mounted.

An image seldom has an /etc/hosts. Without this layer each start would make it in the container's layer, after
copying /etc up, and they would be among the changes of the container; docker keeps an "init layer" for each
container to the same end. Where snapshots are stacked, the layer is a directory that is mounted with the
others; else it is a snapshot of the image, of which those of its containers are made.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import uuid
from collections.abc import Collection
from pathlib import Path

from ..errors import MooringError, NotFound
from ..images.ingest import commit_or_share, is_there, temporary_snapshot
from ..storage.changes import is_opaque, is_whiteout
from ..storage.snapshotter import Snapshotter
from .container import Container

_FILES = ("hosts", "hostname", "resolv.conf")
_DIRECTORIES = ("dev", "proc", "sys")
_NAME_LENGTH = 16
_ATTEMPTS = 3  # to be faster than the collector, which takes such a snapshot while no container needs it


class MountPoints:
    """One layer for each image that lacks some of them, below `directory`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Path | None] = {}

    def above(self, chain_id: str, layers: tuple[Path, ...]) -> Path | None:
        """The layer for the image with this chain ID and these layers, topmost first; None if it has all.

        It is made when it is first asked for.
        """
        if chain_id not in self._known:
            self._known[chain_id] = self._make(chain_id, layers)
        return self._known[chain_id]

    def sweep(self, chain_ids: Collection[str]) -> None:
        """Remove the layers of images that are gone, and what was cut off."""
        kept = {_name(chain_id) for chain_id in chain_ids}
        if self._directory.exists():
            for entry in self._directory.iterdir():
                if entry.name not in kept:
                    shutil.rmtree(entry)

    def _make(self, chain_id: str, layers: tuple[Path, ...]) -> Path | None:
        place = self._directory / _name(chain_id)
        if place.is_dir():
            return place
        directories = [name for name in _DIRECTORIES if _find(layers, name) is None]
        etc = _find(layers, "etc")
        files = (
            [name for name in _FILES if _find(layers, "etc", name) is None]
            if etc is not None and stat.S_ISDIR(os.lstat(etc).st_mode)
            else []
        )
        if not directories and not files:
            return None
        draft = self._directory / f"new-{secrets.token_hex(4)}"
        draft.mkdir(mode=0o755, parents=True)
        for name in directories:
            (draft / name).mkdir(mode=0o755)
        if files and etc is not None:
            _make_files(draft / "etc", files, like=etc)
        draft.rename(place)
        return place


def prepare_layer(snapshots: Snapshotter, key: str, chain_id: str | None) -> None:
    """Make the snapshot `key`, a container's, on its image, so that no mount point counts as its change."""
    if snapshots.stacked or chain_id is None:
        snapshots.prepare(key, chain_id)
        return
    name = f"mountpoints@{chain_id}"
    for attempt in range(1, _ATTEMPTS + 1):
        if not is_there(snapshots, name):
            draft = f"extract-{uuid.uuid4().hex}"
            with temporary_snapshot(snapshots, draft, chain_id) as target:
                _complete(target.directory)
                commit_or_share(snapshots, draft, name)
        try:
            snapshots.prepare(key, name)
            return
        except NotFound:
            if attempt == _ATTEMPTS:
                raise


def limit_layer(snapshots: Snapshotter, container: Container) -> None:
    """Bound what a container may write to its layer. Raises NotSupported, Unavailable."""
    try:
        snapshots.limit(container.id, container.spec.storage_size or 0)
    except MooringError as error:
        error.put_before(
            f"container {container.name} has storage_size (--storage-opt size), which cannot be had: "
        )
        raise


def _complete(root: Path) -> None:
    """Make what a whole root file system, which nobody else writes to, lacks of them."""
    _add(root, directories=_DIRECTORIES)
    etc = root / "etc"
    if etc.is_dir() and not etc.is_symlink():
        _add(etc, files=_FILES)


def _add(directory: Path, *, directories: Collection[str] = (), files: Collection[str] = ()) -> None:
    found = os.lstat(directory)
    present = set(os.listdir(directory))
    for name in set(directories) - present:
        (directory / name).mkdir()
        (directory / name).chmod(0o755)
    for name in set(files) - present:
        (directory / name).touch()
        (directory / name).chmod(0o644)
    os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))


def _make_files(directory: Path, names: list[str], *, like: Path) -> None:
    """A directory with empty files and the attributes of another, since overlay shows the topmost's."""
    directory.mkdir()
    for name in names:
        (directory / name).touch(mode=0o644)
    found = os.lstat(like)
    os.chown(directory, found.st_uid, found.st_gid)
    os.chmod(directory, stat.S_IMODE(found.st_mode))
    for attribute in os.listxattr(like):
        if not attribute.startswith("trusted.overlay."):
            os.setxattr(directory, attribute, os.getxattr(like, attribute))
    os.utime(directory, ns=(found.st_atime_ns, found.st_mtime_ns))


def _find(layers: tuple[Path, ...], *parts: str) -> Path | None:
    """Where overlay finds a path, Documentation/filesystems/overlayfs.rst; links are not followed."""
    for layer in layers:
        path, hides_lower = layer, False
        for number, part in enumerate(parts):
            hides_lower = hides_lower or (number > 0 and is_opaque(os.fsencode(path)))
            path = path / part
            try:
                status = os.lstat(path)
            except (FileNotFoundError, NotADirectoryError):
                break
            if is_whiteout(status):
                return None
            if number < len(parts) - 1 and not stat.S_ISDIR(status.st_mode):
                return None
        else:
            return path
        if hides_lower:
            return None
    return None


def _name(chain_id: str) -> str:
    return chain_id.rpartition(":")[2][:_NAME_LENGTH]
