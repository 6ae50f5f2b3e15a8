# SPDX-License-Identifier: Apache-2.0
"""File systems of a test's own, in an image file on a loop device."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_DEADLINE = 60.0  # seconds


@contextmanager
def loop_mounted(kind: str, size: int, *, options: str = "", directory: str | None = None) -> Iterator[Path]:
    """Make a file system of `size` bytes and mount it; it is unmounted and gone at the end.

    `kind` is what mkfs.KIND makes. What is mounted is private to this mount namespace as far as the host's
    mounts are. `directory` is where the temporary directory is made.
    """
    base = Path(tempfile.mkdtemp(prefix=f"mr{kind[0]}-", dir=directory))
    image, place = base / "image", base / "fs"
    try:
        with image.open("wb") as file:
            file.truncate(size)
        _call(f"mkfs.{kind}", "-q", str(image))
        place.mkdir()
        _call("mount", "-o", ",".join(filter(None, ("loop", options))), "-t", kind, str(image), str(place))
        try:
            yield place
        finally:
            _call("umount", str(place))
    finally:
        shutil.rmtree(base)


def _call(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=_DEADLINE)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
