# SPDX-License-Identifier: Apache-2.0
"""Where images come from and go to: a repository of a registry, or an archive.

Both are synchronous, and their methods may be called from several threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from mooring_agent.images.content import Descriptor


class Source(Protocol):
    """What images are read from. Raises NotFound for what it has not, Unavailable when it does not answer."""

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """Return the manifest or index that a tag or digest names, as it is."""
        ...

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of a blob from `offset` on; the caller verifies them.

        An empty piece says that it is still waited for.
        """
        ...

    def mistrust(self, digest: str) -> bool:
        """Told that a blob did not come as its digest says: leave out the place that it came from.

        False when there is no other place: then what came is all that there is.
        """
        ...


class Sink(Protocol):
    """What images are written to."""

    def has_blob(self, digest: str) -> bool:
        """Whether a blob is there."""
        ...

    def mount_blob(self, digest: str, from_repository: str) -> bool:
        """Have a blob taken over from another repository of the same host; False when that was not done."""
        ...

    def push_blob(self, descriptor: Descriptor, open_chunks: Callable[[int], Iterator[bytes]]) -> None:
        """Send a blob; `open_chunks(offset)` opens its bytes, again when the sending has to go on later."""
        ...

    def push_manifest(self, reference: str, media_type: str, body: bytes) -> str:
        """Send a manifest under a tag or digest, as it is; returns its digest as the other side tells it."""
        ...
