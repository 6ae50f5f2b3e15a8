# SPDX-License-Identifier: Apache-2.0
"""Tests that share the machine with each other, and those that have it for themselves."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Longer than a test may take, and than whoever waits before: seconds.
_LIMIT = 2000.0


class NoTurn(Exception):
    """Nobody has made room for a test in time."""


class Turns:
    """Who runs now among the workers of one run: many together, or one alone.

    Each turn passes a gate first. Whoever waits for the room to be empty keeps the gate closed, so that the
    others cannot keep it waiting for ever. `directory` belongs to the workers of this run.
    """

    def __init__(self, directory: Path, limit: float = _LIMIT) -> None:
        self._gate = directory / "gate"
        self._room = directory / "room"
        self._limit = limit

    @contextmanager
    def turn(self, *, alone: bool) -> Iterator[None]:
        """Run the block together with others, or alone; waits for those that are at it. Raises NoTurn."""
        with _open(self._gate) as gate, _open(self._room) as room:
            self._lock(gate, fcntl.LOCK_EX, self._gate)
            self._lock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH, self._room)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield

    def _lock(self, descriptor: int, kind: int, path: Path) -> None:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            pass
        # flock(2) has no limit of its own. A thread that waits for ever ends with the process.
        waiting = threading.Thread(target=fcntl.flock, args=(descriptor, kind), daemon=True)
        waiting.start()
        waiting.join(self._limit)
        if waiting.is_alive():
            raise NoTurn(
                f"no turn after {self._limit:g} s: {path} is held by the processes {_holders(path)}; "
                "expected the test of each to end, or its time limit to end it"
            )


def _holders(path: Path) -> list[int]:
    """Who has a lock on a file, proc_locks(5)."""
    inode = path.stat().st_ino
    lines = [line.split() for line in Path("/proc/locks").read_text().splitlines() if "->" not in line]
    return [int(fields[4]) for fields in lines if int(fields[5].split(":")[2]) == inode]


@contextmanager
def _open(path: Path) -> Iterator[int]:
    """Open a file that is locked; the lock goes with the block, whatever child has the descriptor too."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)
