# SPDX-License-Identifier: Apache-2.0
"""Tests that share the machine with each other, and those that have it for themselves."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Turns:
    """Who runs now among the workers of one run: many together, or one alone.

    Each turn passes a gate first. Whoever waits for the room to be empty keeps the gate closed, so that the
    others cannot keep it waiting for ever. `directory` belongs to the workers of this run.
    """

    def __init__(self, directory: Path) -> None:
        self._gate = directory / "gate"
        self._room = directory / "room"

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Run the block together with others, or alone; waits for those that are at it."""
        with _open(self._gate) as gate, _open(self._room) as room:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """Open a file that is locked; the lock goes with the block, whatever child has the descriptor too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
