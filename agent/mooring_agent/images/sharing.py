# SPDX-License-Identifier: Apache-2.0
"""Who may load the processors: a few layers at a time, of those whose bytes are there.

A layer that is unpacked while it comes in may wait for its bytes for minutes. Then its turn goes to one that
wants it, and it has to get another when bytes come.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mooring_agent.errors import Unavailable

_LOOK = 0.1  # seconds between two looks at whether somebody with a turn makes no use of it
_STALLED = 1.0  # seconds of waiting for bytes after which a turn is free to be taken
_SLOW = 0.2  # seconds of waiting in all after which it is, from one that waits more than it works


class Turn:
    """One layer's right to load a processor."""

    def __init__(self, turns: SharedTurns) -> None:
        self._turns = turns
        self._begun = self._waited = 0.0
        self._waits_since: float | None = None

    def watched(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Pass chunks on; while the next one does not come, another layer may take the turn.

        Raises Unavailable when it is not to be had again.
        """
        while True:
            self._waits_since = time.monotonic()
            chunk = next(chunks, None)
            self._waited += time.monotonic() - self._waits_since
            self._waits_since = None
            self._turns.have(self)
            if chunk is None:
                return
            yield chunk

    def begin(self) -> None:
        """It has just been given."""
        self._begun, self._waited = time.monotonic(), 0.0

    def is_idle(self) -> bool:
        """Whether the layer waits for bytes, and will not miss it."""
        since, now = self._waits_since, time.monotonic()
        if since is None:
            return False
        waited = self._waited + now - since
        return now - since >= _STALLED or (waited >= _SLOW and waited > (now - self._begun) / 2)


class SharedTurns:
    """A number of turns for any number of threads; `patience` is how many seconds one waits for its own."""

    def __init__(self, count: int, patience: float) -> None:
        self._count = count
        self._patience = patience
        self._changed = threading.Condition()
        self._holders: set[Turn] = set()

    @contextmanager
    def turn(self) -> Iterator[Turn]:
        """Wait for a turn and keep it, as long as there is use of it. Raises Unavailable."""
        turn = Turn(self)
        self.have(turn)
        try:
            yield turn
        finally:
            with self._changed:
                self._holders.discard(turn)
                self._changed.notify_all()

    def have(self, turn: Turn) -> None:
        """Go on with a turn, or wait for it if it is not there any more. Raises Unavailable."""
        deadline = time.monotonic() + self._patience
        with self._changed:
            if turn in self._holders:
                return
            while len(self._holders) >= self._count and not self._take_from_idle():
                if time.monotonic() >= deadline:
                    raise Unavailable(
                        f"no layer has been unpacked for {self._patience:g} s by those before it: "
                        "try again later"
                    )
                self._changed.wait(_LOOK)
            turn.begin()
            self._holders.add(turn)

    def _take_from_idle(self) -> bool:
        for turn in self._holders:
            if turn.is_idle():
                self._holders.discard(turn)
                return True
        return False
