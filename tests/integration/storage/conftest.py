# SPDX-License-Identifier: Apache-2.0
"""A btrfs of the tests' own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.loops import loop_mounted

_SIZE = 1 << 30  # bytes, sparse


@pytest.fixture(scope="module")
def btrfs_root() -> Iterator[Path]:
    """The root of a btrfs file system for the tests of one module."""
    with loop_mounted("btrfs", _SIZE) as place:
        yield place
