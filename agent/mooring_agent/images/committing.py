# SPDX-License-Identifier: Apache-2.0
"""An image from what a container wrote: its changes as one more layer on those of its image."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mooring_agent.failpoints import reached
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.archive import TreeArchive, archive_directory
from mooring_agent.images.changes import apply_changes
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Image, Progress, chain_id
from mooring_agent.images.ingest import incoming_layer, watched
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import NewImage, publish_layer, rfc3339, step, write_image
from mooring_agent.images.manifests import oci_layer
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.state import StoreState
from mooring_agent.images.tar_writer import END, member_header
from mooring_agent.images.turns import Stop
from mooring_agent.linux.paths import open_directory
from mooring_agent.storage.snapshotter import Change, ChangeKind, Snapshotter, WhiteoutStyle


@dataclass(frozen=True, slots=True)
class Commit:
    """What is said of an image made from a container, as `docker commit` has it.

    `config` is the `config` object of an OCI configuration to begin with, None for that of the container's
    image; `changes` are instructions of a Dockerfile on it; `created_by` is the container's command.
    """

    config: Mapping[str, Any] | None = None
    changes: tuple[str, ...] = ()
    author: str = ""
    message: str = ""
    created_by: str = ""


def commit(
    state: StoreState,
    lease: Lease,
    key: str,
    base: Holding,
    names: tuple[str, ...],
    what: Commit,
    progress: Progress,
    stop: Stop,
) -> Image:
    """See ImageStore.commit; the lease holds the base already."""
    ensure_layers(state, base, within=stop)
    config = apply_changes(what.config if what.config is not None else base.config.config, what.changes)
    created = rfc3339(time.time())
    entry = step(created, created_by=what.created_by, author=what.author, comment=what.message)
    layers = tuple(map(oci_layer, base.manifest.layers))
    diff_ids = base.config.diff_ids

    def new(entry: Mapping[str, Any]) -> NewImage:
        history = (*base.config.history, entry)
        return NewImage(replace(base.config.platform), config, history, what.author, created)

    if next(iter(state.snapshots.changes(key)), None) is None:
        return write_image(state, lease, layers, diff_ids, new(entry | {"empty_layer": True}), names)
    chunks = watched(archive_changes(state.snapshots, key), f"changes of {key[:12]}", None, progress, stop)
    with incoming_layer(
        state.content, state.snapshots, chunks, parent=chain_id(diff_ids), pack=True
    ) as layer:
        diff_ids = (*diff_ids, layer.diff_id)
        chain = chain_id(diff_ids)
        assert chain is not None
        publish_layer(state, lease, layer, chain)
        reached("images-commit-layer")
        layers = (*layers, layer.descriptor)
        return write_image(state, lease, layers, diff_ids, new(entry), names)


def archive_changes(snapshots: Snapshotter, key: str) -> Iterator[bytes]:
    """Yield what a snapshot changed of its parent as the archive of a layer (image-spec, layer.md)."""
    target = snapshots.unpack_target(key)
    if target.whiteouts is WhiteoutStyle.OVERLAY:
        return archive_directory(target.directory, overlay=True)
    return _archive_told(target.directory, snapshots.changes(key))


def _archive_told(directory: Path, changes: Iterable[Change]) -> Iterator[bytes]:
    """Yield the archive of a layer where the changes are told and `directory` shows the whole tree."""
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        archive = TreeArchive(os.fstat(root_fd).st_dev)
        yield archive.root(root_fd)
        for change in changes:
            parent, _, name = change.path.rpartition(b"/")
            if change.kind is ChangeKind.DELETED:
                path = (parent + b"/" if parent else b"") + b".wh." + name
                yield member_header(tar.TarEntry(path, tar.REGULAR, mode=0))
                continue
            try:
                fd = open_directory(root_fd, parent)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went meanwhile
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
                yield from archive.members(parent, fd, ((name, status),))
            except FileNotFoundError:
                continue
            finally:
                os.close(fd)
    finally:
        os.close(root_fd)
    yield END
