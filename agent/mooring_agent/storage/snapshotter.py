# SPDX-License-Identifier: Apache-2.0
"""The contract of a snapshotter: how layers lie on disk and how a container gets its own view of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from mooring_agent.errors import InvalidSpec

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,254}")

_OPTION_PAGE = 4096  # mount(2) copies one page of options; fs/namespace.c, copy_mount_options()


class SnapshotKind(StrEnum):
    """What a snapshot is for."""

    ACTIVE = "active"  # writable; the layer of one container, or a layer being unpacked
    VIEW = "view"  # read-only; a key that keeps its parent from being removed
    COMMITTED = "committed"  # read-only; may be the parent of others


class WhiteoutStyle(StrEnum):
    """How the removal of a name that a parent layer has is written down in an unpacked layer."""

    OVERLAY = "overlay"  # character device 0/0, and trusted.overlay.opaque=y on directories
    DELETE = "delete"  # the directory already shows the parent's content: the name is deleted there
    NONE = "none"  # the archive is no layer: names mean themselves


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """One snapshot as `stat` and `list` tell it; `created_at` in seconds since the epoch."""

    key: str
    kind: SnapshotKind
    parent: str | None
    created_at: float


@dataclass(frozen=True, slots=True)
class Usage:
    """What a snapshot itself occupies, its parents left out: bytes on disk and number of inodes."""

    bytes: int
    inodes: int


class ChangeKind(StrEnum):
    """What became of a path of the parent."""

    ADDED = "added"
    MODIFIED = "modified"  # in content, attributes or type
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Change:
    """One path, relative to the root, and what a snapshot did to it."""

    path: bytes
    kind: ChangeKind


@dataclass(frozen=True, slots=True)
class Rootfs:
    """The root file system of one snapshot as data; whoever launches mounts it, in its own mount namespace.

    Three shapes occur, and `bind_source` and `overlay_options` tell them apart:

    - `work` is set: an overlay of `lower` (topmost first) with the writable `upper`;
    - `lower` has several entries and `upper` is None: a read-only overlay of them;
    - else there is one directory, to be bind-mounted: `upper` writable, or `lower[0]` read-only.
    """

    lower: tuple[Path, ...]
    upper: Path | None
    work: Path | None

    @property
    def read_only(self) -> bool:
        """Whether nothing may be written to it."""
        return self.upper is None

    @property
    def bind_source(self) -> Path | None:
        """The directory to bind-mount, or None when an overlay is needed."""
        if self.work is not None or len(self.lower) > 1:
            return None
        return self.upper if self.upper is not None else self.lower[0]

    def overlay_options(self) -> str:
        """The option string for mount(2) of type overlay, per Documentation/filesystems/overlayfs.rst.

        Redirects and metadata-only copies stay off whatever the host's default, so that `upper` alone can
        always be read as a layer; the inode index stays off because layers are shared by many mounts.
        Raises InvalidSpec when the chain of layers is longer than the one page that mount(2) takes.
        """
        if self.bind_source is not None:
            raise ValueError("a single directory is bind-mounted, not overlaid")
        options = "lowerdir=" + ":".join(map(str, self.lower))
        if self.work is not None:
            options += f",upperdir={self.upper},workdir={self.work}"
        options += ",redirect_dir=off,metacopy=off,index=off"
        if len(options) >= _OPTION_PAGE:
            raise InvalidSpec(
                f"an overlay of {len(self.lower)} layers needs {len(options)} bytes of mount options and the "
                f"kernel takes {_OPTION_PAGE - 1}: flatten the image to fewer layers or shorten --data-root"
            )
        return options


@dataclass(frozen=True, slots=True)
class UnpackTarget:
    """Where the content of an active snapshot is written when no mount is wanted.

    `parents` are the directories of the layers below, topmost first, to take the attributes of missing parent
    directories from; it is empty where `directory` already shows them, and where they are not known yet.
    """

    directory: Path
    whiteouts: WhiteoutStyle
    parents: tuple[Path, ...]


class Snapshotter(Protocol):
    """Layers on disk, as snapshots with parents. The model is containerd's core/snapshots.

    A *committed* snapshot is a read-only state of a file tree; it is named after its chain ID, so two
    images that begin with the same layers share them. An *active* snapshot is writable and belongs to one
    key; it starts with the content of its parent and holds only what differs. A *view* is a key on a parent
    that cannot be written. Keys and names share one space: 1 to 255 letters, digits and `_ . : @ + -`, the
    first a letter or digit.

    Nothing is ever mounted on the host. `rootfs` answers with data; the launcher mounts it inside the
    container's mount namespace, so there is nothing to clean up when a process dies.

    *Import of a layer.* Make a temporary active snapshot, write into it, commit it under its chain ID::

        snapshots.prepare("extract-42", parent=None, temporary=True)
        target = snapshots.unpack_target("extract-42")
        result = apply_layer(tar, target)                  # learns the diff ID while it reads
        snapshots.commit("extract-42", chain_id(None, result.diff_id))

    A *temporary* snapshot does not outlive the process: if it is killed before `commit`, the next one that
    opens the snapshotter finds nothing of it. Had another thread committed the same name first, `commit`
    raises Conflict; then `remove("extract-42")`, and use what is there.

    *The next layer* is the same with `parent=` the chain ID of the one below.

    *Layers side by side*: where the snapshotter is `stacked`, a layer can be written before the one below is
    there. It is prepared on nothing and told its parent when it is committed, which is when that has to be
    committed. What the writer would have looked up in the layers below it mends before (images/implied.py)::

        snapshots.prepare("extract-43", parent=None, temporary=True)
        applied = apply_layer(tar, snapshots.unpack_target("extract-43"), implied=noted)
        ...                                                # "extract-42" is committed meanwhile
        adopt_attributes(snapshots.unpack_target("extract-43", on=below), noted)
        snapshots.commit("extract-43", chain_id(below, applied.diff_id), parent=below)

    *A container*: its writable layer is one prepare, which costs two mkdir and a row (it is on the way of
    every `create`, and must take less than 0.3 ms however large the image)::

        snapshots.prepare(container_id, parent=image.chain_id)
        rootfs = snapshots.rootfs(container_id)            # → launcher
        ...
        snapshots.remove(container_id)                     # returns at once; files go in the background

    *An image from a container*: `commit(container_id, name)` turns the writable layer into a committed one
    and the key is gone; `unpack_target(container_id).directory` is what to archive before.

    *Removal*: any snapshot that is no parent. `remove` renames what there is out of the way, so a key can
    be used again at once and a big tree keeps nobody waiting; `wait_idle` is for tests and for an orderly
    end.

    After `kill -9` at any point the snapshotter opens again and holds exactly what was answered for: every
    `prepare`, `commit` and `remove` that returned has happened, what had not returned has happened wholly
    or not at all, and the files of what did not happen are deleted.

    `driver` is the name of the way that this is done, as `docker info` tells it. `stacked` says whether a
    snapshot has only what differs from its parent, which shows through; else it begins as a copy of all that
    the parent has.

    All methods may be called from any thread. Errors: NotFound (no such key), Conflict (key in use, has
    children, wrong kind), InvalidSpec (a hostile or empty key).
    """

    driver: str
    stacked: bool

    def prepare(self, key: str, parent: str | None, *, temporary: bool = False) -> Rootfs:
        """Create the active snapshot `key` on the committed `parent` (None: empty); returns its rootfs."""
        ...

    def limit(self, key: str, size: int) -> None:
        """Bound what the active snapshot `key` has beyond its parent to `size` bytes, for as long as it is
        there; who writes more gets EDQUOT. Raises NotSupported, which says what the file system lacks.
        """
        ...

    def view(self, key: str, parent: str) -> Rootfs:
        """Create the read-only snapshot `key` of the committed `parent`."""
        ...

    def rootfs(self, key: str) -> Rootfs:
        """Return the root file system of an active snapshot or view again, for instance after a restart."""
        ...

    def unpack_target(self, key: str, *, on: str | None = None) -> UnpackTarget:
        """Return where to write, or read, the own content of the active snapshot `key`.

        `on` is the committed snapshot that a snapshot prepared on nothing will be given as its parent.
        """
        ...

    def commit(self, key: str, name: str, *, parent: str | None = None) -> None:
        """Turn the active snapshot `key` into the committed snapshot `name`; `key` is gone afterwards.

        `parent` is the committed snapshot to put it on. Only a stacked snapshotter can do so, with a
        temporary snapshot that was prepared on nothing; else Conflict.
        """
        ...

    def remove(self, key: str) -> None:
        """Remove a snapshot that is nobody's parent; its files are deleted in the background."""
        ...

    def stat(self, key: str) -> SnapshotInfo:
        """Return what is known of one snapshot, without touching the disk."""
        ...

    def usage(self, key: str) -> Usage:
        """Measure what a snapshot itself occupies, in time proportional to its files unless committed."""
        ...

    def changes(self, key: str) -> Iterator[Change]:
        """Yield what the snapshot `key`, of any kind, changed of its parent (None: an empty tree).

        A directory comes before what lies in it. One in which something changed is itself modified, as in
        `docker diff`; the root is never told. Of a deleted directory, or one that something else has taken
        the place of, nothing is told that was in it; what lies in an added one is told path by path. Raises
        NotFound at the call for an unknown key, OSError while it reads; what is written meanwhile may be told
        or not.
        """
        ...

    def list(self) -> tuple[SnapshotInfo, ...]:
        """All snapshots in the order of their creation, temporary ones included."""
        ...

    def wait_idle(self, timeout: float | None = None) -> bool:
        """Wait until everything removed is deleted; False when `timeout` seconds were not enough."""
        ...

    def close(self) -> None:
        """Close; what is not deleted yet is deleted after the next open. May be called twice."""
        ...


def check_key(key: str) -> str:
    """Return `key` if it may name a snapshot, else raise InvalidSpec."""
    if not _KEY.fullmatch(key):
        raise InvalidSpec(
            f"snapshot key {key!r} is not usable: expected 1 to 255 letters, digits and _ . : @ + -, "
            "beginning with a letter or digit"
        )
    return key
