# SPDX-License-Identifier: Apache-2.0
"""What ADD does with archives: unpack them. What it fetches is the matter of `images/fetching.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from mooring_agent.errors import MissingProgram, MooringError
from mooring_agent.images import tar_reader
from mooring_agent.images.layers import apply_layer
from mooring_agent.images.stream import (
    Compression,
    HashingReader,
    decompress,
    detect,
    peek,
    read_chunks,
)
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle


def is_archive(descriptor: int) -> bool:
    """Whether an open file is a tar archive, plain or packed, as ADD unpacks it."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        try:
            head, chunks = peek(read_chunks(file))
            kind = detect(head)
            if kind is Compression.NONE and not _looks_like_tar(descriptor):
                return False
            plain: Iterator[bytes] = decompress(chunks, kind)
            for _ in tar_reader.read_entries(HashingReader(plain, 1 << 40)):
                return True
        except MissingProgram:
            raise
        except (MooringError, OSError):
            return False
        return False


def unpack_archive(descriptor: int, directory: Path) -> None:
    """Unpack it into an empty directory. Raises InvalidSpec, Unavailable."""
    with open(os.dup(descriptor), "rb") as file:
        file.seek(0)
        head, chunks = peek(read_chunks(file))
        apply_layer(decompress(chunks, detect(head)), UnpackTarget(directory, WhiteoutStyle.DELETE, ()))


def _looks_like_tar(descriptor: int) -> bool:
    return os.pread(descriptor, 5, 257) == b"ustar"
