# SPDX-License-Identifier: Apache-2.0
"""The layer of an instruction: from an archive of what it puts there, or from what a command wrote."""

from __future__ import annotations

import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from mooring_agent.failpoints import reached
from mooring_agent.images.build.items import SECOND
from mooring_agent.images.committing import archive_changes
from mooring_agent.images.content import MEDIA_LAYER, Descriptor
from mooring_agent.images.image import chain_id
from mooring_agent.images.ingest import commit_or_share, incoming_layer
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import publish_layer
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Stop
from mooring_agent.linux.paths import open_directory
from mooring_agent.storage.snapshotter import ChangeKind, Snapshotter

_LEVEL = 1  # of gzip; speed counts


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of an image that is being built."""

    descriptor: Descriptor
    diff_id: str


class Layering:
    """Makes layers on those of a stage, held by the build's lease."""

    def __init__(self, state: StoreState, lease: Lease, stop: Stop) -> None:
        self._state = state
        self._lease = lease
        self._stop = stop

    def from_archive(self, chunks: Iterator[bytes], below: tuple[Layer, ...]) -> Layer:
        """Make a layer of an archive. Raises InvalidSpec, Unavailable when the disk is full, Cancelled."""
        with incoming_layer(
            self._state.content,
            self._state.snapshots,
            self._watched(chunks),
            parent=chain_of(below) or None,
            pack=True,
        ) as layer:
            publish_layer(self._state, self._lease, layer, _chain(below, layer.diff_id))
            return Layer(layer.descriptor, layer.diff_id)

    def from_snapshot(
        self, key: str, below: tuple[Layer, ...], latest: int | None, untouched: AbstractSet[bytes]
    ) -> Layer | None:
        """Make a layer of what the active snapshot `key` changed, which becomes that layer; None if nothing.

        No time in it is later than `latest`. That directories among `untouched` are said to have changed is
        no change. Raises as from_archive.
        """
        state = self._state
        if not _prepare(state.snapshots, key, latest, untouched):
            return None
        packer, digest = zlib.compressobj(_LEVEL, wbits=16 + zlib.MAX_WBITS), hashlib.sha256()
        with state.taking("layer"), state.content.ingest() as blob:
            for chunk in self._watched(archive_changes(state.snapshots, key)):
                digest.update(chunk)
                blob.write(packer.compress(chunk))
            blob.write(packer.flush())
            blob.finish()
            diff_id = f"sha256:{digest.hexdigest()}"
            descriptor = Descriptor(f"{MEDIA_LAYER}+gzip", blob.digest, blob.size)
            chain = _chain(below, diff_id)
            with state.lock:
                self._lease.add(descriptor.digest, chain)
                state.content.publish(blob)
                reached("build-layer-published")
                commit_or_share(state.snapshots, key, chain)
                reached("build-layer-committed")
        return Layer(descriptor, diff_id)

    def _watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            self._stop.check()
            yield chunk


def chain_of(layers: tuple[Layer, ...]) -> str:
    """The chain ID of layers, "" for none."""
    return chain_id(layer.diff_id for layer in layers) or ""


def _chain(below: tuple[Layer, ...], diff_id: str) -> str:
    return chain_id((*(layer.diff_id for layer in below), diff_id)) or ""


def _prepare(snapshots: Snapshotter, key: str, latest: int | None, untouched: AbstractSet[bytes]) -> bool:
    """Take out sockets, which no layer can hold, and set times back; returns whether anything has changed."""
    found = False
    root_fd = os.open(snapshots.unpack_target(key).directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for change in list(snapshots.changes(key)):
            found = found or change.kind is not ChangeKind.MODIFIED or change.path not in untouched
            if change.kind is ChangeKind.DELETED:
                continue
            parent, _, name = change.path.rpartition(b"/")
            fd = open_directory(root_fd, parent)
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                if stat.S_ISSOCK(status.st_mode):
                    os.unlink(name, dir_fd=fd)
                elif latest is not None and status.st_mtime_ns > latest * SECOND:
                    _set_time(fd, name, latest)
            except FileNotFoundError:
                continue  # overlay shows a directory of a layer below, which is not in this one
            finally:
                os.close(fd)
        if latest is not None and os.fstat(root_fd).st_mtime_ns > latest * SECOND:
            os.utime(root_fd, ns=(latest * SECOND, latest * SECOND))
    finally:
        os.close(root_fd)
    return found


def _set_time(fd: int, name: bytes, seconds: int) -> None:
    os.utime(name, ns=(seconds * SECOND, seconds * SECOND), dir_fd=fd, follow_symlinks=False)
