# SPDX-License-Identifier: Apache-2.0
"""One layer comes in: kept as a blob and unpacked in a single pass over its bytes."""

from __future__ import annotations

import os
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from mooring_agent.errors import Conflict, NotFound, Unavailable
from mooring_agent.images.content import MEDIA_LAYER, BlobWriter, ContentStore, Descriptor
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.layers import AppliedLayer, Limits
from mooring_agent.images.platform import elf_architecture
from mooring_agent.images.stream import Compression, decompress, detect, peek
from mooring_agent.images.turns import Stop
from mooring_agent.images.unpacking import unpack_layer
from mooring_agent.linux.paths import openat2
from mooring_agent.storage.snapshotter import Snapshotter, UnpackTarget

LAYER_TYPES = {  # what the image-spec has a media type for is kept byte for byte
    Compression.NONE: MEDIA_LAYER,
    Compression.GZIP: f"{MEDIA_LAYER}+gzip",
    Compression.ZSTD: f"{MEDIA_LAYER}+zstd",
}
_LEVEL = 1  # of gzip for archives made here; speed counts, they rarely travel
_INTERVAL = 0.1  # seconds between two events of progress
_PROGRAMS = (
    b"bin/sh",
    b"usr/bin/sh",
    b"bin/busybox",
    b"sbin/init",
    b"usr/lib/systemd/systemd",
    b"usr/bin/env",
)
_ELF = b"\x7fELF"


@dataclass(frozen=True, slots=True)
class IncomingLayer:
    """A layer that came in and belongs to nobody yet: publish its blob, commit its snapshot."""

    blob: BlobWriter
    descriptor: Descriptor
    diff_id: str
    key: str
    architecture: str | None


@contextmanager
def incoming_layer(
    content: ContentStore,
    snapshots: Snapshotter,
    chunks: Iterator[bytes],
    *,
    parent: str | None = None,
    limits: Limits | None = None,
    pack: bool = False,
    annotations: dict[str, str] | None = None,
) -> Iterator[IncomingLayer]:
    """Take in an archive as a layer on `parent`; what is not published and committed is dropped.

    The bytes are kept as they come if the image-spec has a media type for them; bzip2 and xz, and with
    `pack` a plain archive too, are kept as gzip. Raises InvalidSpec for a bad archive, Unavailable when the
    disk is full.
    """
    key = f"extract-{uuid.uuid4().hex}"
    with content.ingest() as blob, temporary_snapshot(snapshots, key, parent) as target:
        try:
            applied, media_type = _ingest(chunks, blob, target, limits or Limits(), pack)
        except OSError as error:
            raise Unavailable(
                f"{content.root} takes no layer ({error.strerror or error}): free some space, then try again"
            ) from error
        descriptor = Descriptor(media_type, blob.digest, blob.size, annotations or {})
        yield IncomingLayer(blob, descriptor, applied.diff_id, key, find_architecture(target))


@contextmanager
def temporary_snapshot(snapshots: Snapshotter, key: str, parent: str | None) -> Iterator[UnpackTarget]:
    """Prepare a snapshot to unpack into, and remove it unless it was committed."""
    snapshots.prepare(key, parent, temporary=True)
    try:
        yield snapshots.unpack_target(key)
    finally:
        if is_there(snapshots, key):
            snapshots.remove(key)


def commit_or_share(snapshots: Snapshotter, key: str, name: str, *, parent: str | None = None) -> None:
    """Commit `key` as `name`, unless somebody else did so first: then theirs is used.

    `parent` is given to one that was prepared on nothing, see Snapshotter.commit.
    """
    try:
        snapshots.commit(key, name, parent=parent)
    except Conflict:
        if not is_there(snapshots, name):
            raise


def is_there(snapshots: Snapshotter, key: str) -> bool:
    """Whether a snapshot exists."""
    try:
        snapshots.stat(key)
    except NotFound:
        return False
    return True


def _ingest(
    chunks: Iterator[bytes], blob: BlobWriter, target: UnpackTarget, limits: Limits, pack: bool
) -> tuple[AppliedLayer, str]:
    head, whole = peek(chunks)
    compression = detect(head)
    if compression in LAYER_TYPES and not (pack and compression is Compression.NONE):
        raw = _tee(whole, blob.write)
        applied = unpack_layer(raw, target, compression, limits)
        media_type = LAYER_TYPES[compression]
    else:
        packer = zlib.compressobj(_LEVEL, wbits=16 + zlib.MAX_WBITS)
        with closing(decompress(whole, compression)) as plain:
            packed = _tee(plain, lambda chunk: blob.write(packer.compress(chunk)))
            applied = unpack_layer(packed, target, Compression.NONE, limits)
        blob.write(packer.flush())
        media_type = LAYER_TYPES[Compression.GZIP]
    blob.finish()
    return applied, media_type


def watched(
    chunks: Iterator[bytes], source: str, total: int | None, progress: Progress, stop: Stop
) -> Iterator[bytes]:
    """Pass chunks on, tell how far they are, and name the source when it cannot be read.

    Raises Cancelled as `stop` says.
    """
    current, told = 0, 0.0
    try:
        for chunk in chunks:
            stop.check()
            current += len(chunk)
            now = time.monotonic()
            if now - told >= _INTERVAL:
                told = now
                progress(ProgressEvent("import", current, total, source))
            yield chunk
    except OSError as error:
        raise Unavailable(f"{source} cannot be read: {error.strerror or error}") from error
    progress(ProgressEvent("import", current, total, source))


def find_architecture(target: UnpackTarget) -> str | None:
    """Tell the architecture of a root file system from its shell or init; None if it has neither."""
    root_fd = os.open(target.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for program in _PROGRAMS:
            header = _read_head(root_fd, program)
            if header[:4] == _ELF and len(header) == 20:
                machine = int.from_bytes(header[18:20], "little" if header[5] == 1 else "big")
                return elf_architecture(machine)
    finally:
        os.close(root_fd)
    return None


def _read_head(root_fd: int, path: bytes) -> bytes:
    """The first bytes of a regular file in a foreign root; nothing else is ever opened."""
    try:
        handle = openat2(root_fd, path, os.O_PATH)
    except OSError:
        return b""
    try:
        if not os.path.isfile(handle):
            return b""
        with open(f"/proc/self/fd/{handle}", "rb") as file:
            return file.read(20)
    finally:
        os.close(handle)


def _tee(chunks: Iterator[bytes], sink: Callable[[bytes], None]) -> Iterator[bytes]:
    for chunk in chunks:
        sink(chunk)
        yield chunk
