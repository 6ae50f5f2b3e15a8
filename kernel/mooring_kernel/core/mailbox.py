# SPDX-License-Identifier: Apache-2.0
"""What a shell's terminal says, between the thread that reads it and the cell that shows it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from .http import Stream

_CHUNK = 65536


@dataclass(frozen=True)
class Delivery:
    """What has come: `data` may be empty; `ended` if nothing can follow; `lost` counts bytes that were
    dropped before it.
    """

    data: bytes
    ended: bool
    lost: int


class Mailbox:
    """A bounded queue of bytes.

    While a cell runs, a full one makes the reader wait, so that a flood is slowed down at its source. Between
    cells nobody takes anything out: then the oldest is dropped, so that a program in the background is never
    held up by a notebook. What is kept is half of what a cell shows (`output.Limits`): the rest is for the
    cell's own.
    """

    def __init__(self, *, attended_limit: int = 4 << 20, idle_limit: int = 1 << 19) -> None:
        self._attended_limit = attended_limit
        self._idle_limit = idle_limit
        self._condition = threading.Condition()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._lost = 0
        self._attended = False
        self._ended = False
        self._woken = False

    def attend(self, attended: bool) -> None:
        """Say whether a cell runs, so that `take` is called."""
        with self._condition:
            self._attended = attended
            self._drop_if_idle()
            self._condition.notify_all()

    def put(self, data: bytes) -> None:
        """Add bytes, waiting for room while a cell runs."""
        with self._condition:
            self._chunks.append(data)
            self._size += len(data)
            self._drop_if_idle()
            self._condition.notify_all()
            while self._attended and self._size > self._attended_limit and not self._ended:
                self._condition.wait()

    def end(self) -> None:
        """Say that nothing follows."""
        with self._condition:
            self._ended = True
            self._condition.notify_all()

    def wake(self) -> None:
        """Make `take` come back at once, or at its next call, though nothing has come."""
        with self._condition:
            self._woken = True
            self._condition.notify_all()

    def take(self, timeout: float) -> Delivery:
        """Wait up to `timeout` seconds, and return all that has come."""
        with self._condition:
            self._condition.wait_for(lambda: self._chunks or self._ended or self._woken, timeout)
            self._woken = False
            data = b"".join(self._chunks)
            lost, self._lost = self._lost, 0
            self._chunks.clear()
            self._size = 0
            self._condition.notify_all()
            return Delivery(data, self._ended, lost)

    def _drop_if_idle(self) -> None:
        while not self._attended and self._size > self._idle_limit and len(self._chunks) > 1:
            dropped = len(self._chunks.popleft())
            self._size -= dropped
            self._lost += dropped


def read_into(mailbox: Mailbox, stream: Stream) -> None:
    """Read the stream to its end into the mailbox; this is the work of a thread of its own."""
    try:
        while data := stream.recv(_CHUNK):
            mailbox.put(data)
    except (OSError, EOFError):
        return  # why it ended is asked of the agent: a lost connection and an ended shell look alike here
    finally:
        mailbox.end()
