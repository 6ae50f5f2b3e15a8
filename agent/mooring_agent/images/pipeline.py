# SPDX-License-Identifier: Apache-2.0
"""Stages of a stream in threads of their own, with bounded queues between them.

Inflating, hashing and reading release the interpreter lock, so each stage has a processor to itself where
there is one. What runs ahead is at most `depth` chunks.
"""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Generator, Iterator

_DEPTH = 8  # chunks of some 256 KiB


class _Failed:
    """The error of a stage on its way to who reads from it."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def ahead(chunks: Iterator[bytes], depth: int = _DEPTH) -> Generator[bytes, None, None]:
    """Yield what `chunks` yields, which a thread takes from it in advance; close it when done.

    What it raises is raised here, behind the chunks before it. Closed early, this waits until the thread has
    got the chunk in hand.
    """
    ready: queue.Queue[bytes | _Failed | None] = queue.Queue(depth)
    stopped = threading.Event()

    def run() -> None:
        last: _Failed | None = None
        try:
            for chunk in chunks:
                ready.put(chunk)
                if stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by the reader
            last = _Failed(error)
        ready.put(last)

    thread = threading.Thread(target=run, name="mooring-ahead", daemon=True)
    thread.start()
    try:
        while (chunk := ready.get()) is not None:
            if isinstance(chunk, _Failed):
                raise chunk.error
            yield chunk
    finally:
        stopped.set()
        while thread.is_alive():
            try:
                ready.get(timeout=0.05)  # makes room, so that it can go on and see that it shall stop
            except queue.Empty:
                continue


class ThreadedSha256:
    """SHA-256 of what it is given, worked out in a thread; like hashlib's object, read once at the end."""

    def __init__(self, depth: int = _DEPTH) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(depth)
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, name="mooring-sha256", daemon=True)
        self._thread.start()

    def update(self, data: bytes) -> None:
        """Add some bytes, which must not change any more."""
        self._queue.put(data)

    def hexdigest(self) -> str:
        """The digest of all of them; nothing can be added afterwards."""
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)
