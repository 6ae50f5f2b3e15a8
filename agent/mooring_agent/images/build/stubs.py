# SPDX-License-Identifier: Apache-2.0
"""Places for what is mounted while a command runs, which must not be left in its layer.

For an overlay they are a thin layer of their own below the writable one. Elsewhere they are made in the
snapshot and taken away afterwards.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.images.archive import xattrs_of
from mooring_agent.images.build.tree import Tree

STANDARD = (
    *((path, True) for path in ("/dev", "/proc", "/sys")),
    *((f"/etc/{name}", False) for name in ("hosts", "hostname", "resolv.conf")),
)
"""What every container has mounted: path, and whether it is a directory."""

_DIRECTORY_MODE, _FILE_MODE = 0o755, 0o644


@dataclass(frozen=True, slots=True)
class Stub:
    """One name that is missing."""

    path: bytes
    directory: bool


def missing(tree: Tree, targets: Iterable[tuple[str, bool]]) -> tuple[Stub, ...]:
    """What a tree lacks for these targets, those above first. A link to nothing is where it points to."""
    found: dict[bytes, Stub] = {}
    for target, directory in targets:
        path = tree.resolve(os.fsencode(target))
        parts = path.split(b"/") if path else []
        for depth in range(1, len(parts) + 1):
            part = b"/".join(parts[:depth])
            if tree.lstat(part) is None:
                found.setdefault(part, Stub(part, directory or depth < len(parts)))
    return tuple(sorted(found.values(), key=lambda stub: stub.path.split(b"/")))


def make_layer(tree: Tree, stubs: Iterable[Stub], directory: Path) -> None:
    """Make the stubs as a layer to be laid over the tree, whose directories keep their attributes."""
    like: dict[bytes, Path] = {}
    for stub in stubs:
        parts = stub.path.split(b"/")
        for depth in range(1, len(parts)):
            above = b"/".join(parts[:depth])
            place = directory / os.fsdecode(above)
            if not place.exists():
                place.mkdir()
                like[above] = place
        make(directory, stub)
    root = tree.lstat(b"")
    if root is not None:
        like[b""] = directory
    for path, place in reversed(like.items()):
        status = tree.lstat(path)
        if status is not None:
            _give(place, status, tree.xattrs(path))


def make(root: Path, stub: Stub) -> None:
    """Make one stub below a directory in which it is not."""
    place = root / os.fsdecode(stub.path)
    if stub.directory:
        place.mkdir(mode=_DIRECTORY_MODE)
        place.chmod(_DIRECTORY_MODE)
    else:
        place.touch(mode=_FILE_MODE)
        place.chmod(_FILE_MODE)


class InPlace:
    """Stubs in a tree that is written to: made now, and taken away by `clear` if they are still empty."""

    def __init__(self, root: Path, stubs: tuple[Stub, ...]) -> None:
        self._root = root
        self._stubs = stubs
        self._times: dict[bytes, int] = {}
        for stub in stubs:
            parent = stub.path.rpartition(b"/")[0]
            if parent not in {one.path for one in stubs}:
                self._times.setdefault(parent, os.stat(self._place(parent)).st_mtime_ns)
            make(root, stub)

    def clear(self) -> None:
        """Take away what nothing was written to, and give the directories above it their times back."""
        touched = set()
        for stub in reversed(self._stubs):
            place = self._place(stub.path)
            try:
                status = os.lstat(place)
                if stub.directory:
                    os.rmdir(place)
                elif stat.S_ISREG(status.st_mode) and not status.st_size:
                    os.unlink(place)
            except OSError:
                touched.add(stub.path.rpartition(b"/")[0])  # something was written there: it is the command's
        for parent, mtime_ns in self._times.items():
            if parent not in touched:
                os.utime(self._place(parent), ns=(mtime_ns, mtime_ns))

    def untouched(self, tree: Tree) -> frozenset[bytes]:
        """The directories in which stubs were made and that are as they are in `tree`, but for the time of
        their last change of status, which nobody can set back.
        """
        return frozenset(path for path in self._times if self._is_alike(tree, path))

    def _is_alike(self, tree: Tree, path: bytes) -> bool:
        before, now, place = tree.lstat(path), os.lstat(self._place(path)), self._place(path)
        if before is None:
            return False
        return (before.st_mode, before.st_uid, before.st_gid, before.st_mtime_ns, tree.xattrs(path)) == (
            *(now.st_mode, now.st_uid, now.st_gid, now.st_mtime_ns),
            xattrs_of(os.fsencode(place)),
        )

    def _place(self, path: bytes) -> Path:
        return self._root / os.fsdecode(path)


def _give(place: Path, status: os.stat_result, xattrs: Mapping[bytes, bytes]) -> None:
    """Give a directory the attributes of another, since overlay shows the topmost's."""
    os.chown(place, status.st_uid, status.st_gid)
    os.chmod(place, stat.S_IMODE(status.st_mode))
    for name, value in xattrs.items():
        os.setxattr(place, name, value)
    os.utime(place, ns=(status.st_atime_ns, status.st_mtime_ns))
