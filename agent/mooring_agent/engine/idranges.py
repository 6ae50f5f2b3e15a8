# SPDX-License-Identifier: Apache-2.0
"""Ranges of the host's user and group ids for containers with users of their own (`userns: auto`).

Each container has 65,536 ids that nobody else has, for as long as it exists. They come from the line of
"mooring" in /etc/subuid (subuid(5)) where there is one; else from what systemd's "UIDs and GIDs" leaves to
containers. Ranges that /etc/subuid gives to others are passed over.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from pathlib import Path

from ..errors import Unavailable
from .resources.namespaces import IdRange

SIZE = 65536
SUBUID = Path("/etc/subuid")
# https://systemd.io/UIDS-GIDS/: 0x00080000 to 0x6FFFFFFF, "container UID ranges".
_POOL = (0x00080000, 0x70000000 - 0x00080000)
_OWNER = "mooring"


class IdRanges:
    """Chooses ranges. Agents with other `seed`s begin elsewhere, so that those of one host rarely meet."""

    def __init__(self, seed: str, subuid: Path = SUBUID) -> None:
        self._seed = zlib.crc32(seed.encode())
        self._subuid = subuid

    def choose(self, taken: Collection[int]) -> int:
        """The first id of a range that is free; `taken` are those of the agent's containers."""
        own, others = self._read()
        used = set(taken)
        for first, count in own or [_POOL]:
            slots = count // SIZE
            begin = 0 if own else self._seed % slots
            for slot in range(slots):
                candidate = first + (begin + slot) % slots * SIZE
                if candidate not in used and not any(
                    start < candidate + SIZE and candidate < start + size for start, size in others
                ):
                    return candidate
        raise Unavailable(
            f"no range of {SIZE} user ids is left for another container: give {_OWNER} more of them in "
            f"{self._subuid}, or map the users of some containers by hand"
        )

    def _read(self) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """What /etc/subuid gives to us, and what to others; what is no line of subuid(5) says nothing."""
        own: list[tuple[int, int]] = []
        others: list[tuple[int, int]] = []
        try:
            text = self._subuid.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return own, others
        for line in text.splitlines():
            owner, _, rest = line.strip().partition(":")
            first, _, count = rest.partition(":")
            if first.isascii() and first.isdigit() and count.isascii() and count.isdigit():
                (own if owner == _OWNER else others).append((int(first), int(count)))
        return own, others


def whole_range(first: int) -> tuple[IdRange, ...]:
    """The map of a range: the container's 0 is `first`."""
    return (IdRange(0, first, SIZE),)
