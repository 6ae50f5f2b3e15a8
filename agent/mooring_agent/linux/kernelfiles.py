# SPDX-License-Identifier: Apache-2.0
"""Files that the kernel makes while they are read: proc(5), cgroups(7)."""

from __future__ import annotations

import os

_CHUNK = 65_536


def read(path: str) -> bytes:
    """All that is in the file, unbuffered. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = b""
        # Less than was asked for is not all: lists are handed out a page at a time.
        while piece := os.read(descriptor, _CHUNK):
            content += piece
    finally:
        os.close(descriptor)
    return content
