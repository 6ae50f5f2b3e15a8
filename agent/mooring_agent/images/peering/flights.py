# SPDX-License-Identifier: Apache-2.0
"""Which blobs the pulls of this host are after: what its server tells of those that are not here yet."""

from __future__ import annotations

import threading

from mooring_agent.images.peering.election import Holds


class Flights:
    """Marks by pull and digest; methods may be called from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._marks: dict[str, dict[object, Holds]] = {}

    def mark(self, pull: object, digest: str, holds: Holds) -> None:
        """Have a pull want (WANTED) or receive (CLAIMED) a blob."""
        with self._changed:
            self._marks.setdefault(digest, {})[pull] = holds
            self._changed.notify_all()

    def drop(self, pull: object) -> None:
        """Forget a pull."""
        with self._changed:
            for digest in [digest for digest, marks in self._marks.items() if marks.pop(pull, None)]:
                if not self._marks[digest]:
                    del self._marks[digest]
            self._changed.notify_all()

    def of(self, digest: str) -> Holds:
        """CLAIMED, WANTED or ABSENT."""
        with self._changed:
            marks = self._marks.get(digest, {}).values()
            return Holds.CLAIMED if Holds.CLAIMED in marks else Holds.WANTED if marks else Holds.ABSENT

    def wait(self, seconds: float) -> None:
        """Wait for a change, at most so long."""
        with self._changed:
            self._changed.wait(seconds)
