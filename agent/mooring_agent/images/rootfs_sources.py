# SPDX-License-Identifier: Apache-2.0
"""What root file systems are imported from: archives, directories, LXC images, squashfs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images.archive import archive_directory
from mooring_agent.images.content import ContentStore
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.lxc import LxcMetadata, UnifiedImage, is_unified, read_metadata
from mooring_agent.images.programs import run_program
from mooring_agent.images.stream import Compression, decompress, detect, read_chunks
from mooring_agent.images.turns import Stop

_SQUASHFS = b"hsqs"  # Linux, Documentation/filesystems/squashfs.rst: the superblock's magic, little endian
_UNSQUASH_DEADLINE = 1800.0  # seconds
_TAIL = 500  # characters of its output in an error


@dataclass(frozen=True, slots=True)
class RootfsSource:
    """An archive as chunks, its bytes if known, whether it wants packing.

    `metadata()` is what an LXC image says of itself, to be asked when the chunks have been read.
    """

    chunks: Iterator[bytes]
    total: int | None
    pack: bool
    metadata: Callable[[], LxcMetadata]


@contextmanager
def open_rootfs(
    source: Path | BinaryIO, content: ContentStore, metadata: Path | None, progress: Progress, stop: Stop
) -> Iterator[RootfsSource]:
    """Open what is to be imported, with `metadata` of its own if given.

    Raises InvalidSpec for a path that is not there, cannot be read, or holds the store itself, MissingProgram
    for a squashfs where there is no unsquashfs, Cancelled.
    """
    told = LxcMetadata() if metadata is None else read_metadata(metadata)
    if not isinstance(source, Path):
        yield RootfsSource(read_chunks(source), None, False, lambda: told)
        return
    with ExitStack() as stack:
        try:
            rootfs = _open(source, content, metadata, told, progress, stop, stack)
        except OSError as error:
            raise InvalidSpec(f"it cannot be opened: {error.strerror}") from error
        yield rootfs


def _open(
    source: Path,
    content: ContentStore,
    metadata: Path | None,
    told: LxcMetadata,
    progress: Progress,
    stop: Stop,
    stack: ExitStack,
) -> RootfsSource:
    if source.is_dir():
        return _directory(source, content.root, metadata, told)
    file = stack.enter_context(source.open("rb"))
    head = file.read(6)
    if head.startswith(_SQUASHFS):
        root = stack.enter_context(content.scratch()) / "rootfs"
        _unsquash(source, root, progress, stop)
        return RootfsSource(archive_directory(root), None, True, lambda: told)
    compression = detect(head)
    unified = _begins_unified(file, compression)
    file.seek(0)
    if not unified:
        size = os.fstat(file.fileno()).st_size or None
        return RootfsSource(read_chunks(file), size, False, lambda: told)
    image = UnifiedImage(stack.enter_context(closing(decompress(read_chunks(file), compression))))
    return RootfsSource(image.rootfs(), None, True, image.metadata if metadata is None else lambda: told)


def _directory(source: Path, private: Path, metadata: Path | None, told: LxcMetadata) -> RootfsSource:
    """A root file system, or the directory of an Incus image, in which it is `rootfs`."""
    if private.resolve().is_relative_to(source.resolve()):
        raise InvalidSpec(f"it holds {private}, the agent's own images: import a directory beside it")
    own = source / "metadata.yaml"
    if (source / "rootfs").is_dir() and own.is_file():
        told = read_metadata(own) if metadata is None else told
        source = source / "rootfs"
    return RootfsSource(archive_directory(source), None, True, lambda: told)


def _begins_unified(file: BinaryIO, compression: Compression) -> bool:
    file.seek(0)
    with closing(decompress(read_chunks(file), compression)) as plain:
        return is_unified(plain)


def _unsquash(source: Path, root: Path, progress: Progress, stop: Stop) -> None:
    program = shutil.which("unsquashfs")
    if program is None:
        raise MissingProgram(
            f"{source} is a squashfs, which needs the program unsquashfs, which is not here: install package "
            "squashfs-tools, or import the image's root file system as an archive"
        )
    progress(ProgressEvent("build", detail=f"unpacking {source} with unsquashfs"))
    command = (program, "-no-progress", "-quiet", "-dest", str(root), str(source))
    try:
        done = run_program(command, stop, _UNSQUASH_DEADLINE)
    except subprocess.TimeoutExpired:
        raise InvalidSpec(
            f"it is a squashfs that unsquashfs did not unpack in {_UNSQUASH_DEADLINE:g} s"
        ) from None
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        raise InvalidSpec(
            f"it is a squashfs that unsquashfs does not unpack (status {done.returncode}): "
            f"{' '.join(said.split())[-_TAIL:]}"
        )
