# SPDX-License-Identifier: Apache-2.0
"""Taking the images of an archive into the store: all of them, or none."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.failpoints import reached
from mooring_agent.images.archives.members import take_out
from mooring_agent.images.archives.reading import ArchiveSource
from mooring_agent.images.content import Descriptor
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Image, Progress, ProgressEvent
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.platform import Platform
from mooring_agent.images.pulling import Puller
from mooring_agent.images.state import StoreState
from mooring_agent.images.turns import Stop

_INTERVAL = 0.1  # seconds between two events of progress


class _Loader(Puller):
    """Pulls from an archive, whose files lie verified beside the blobs and become these."""

    archive: ArchiveSource

    def fetch(self, blob: Descriptor, *, quiet: bool = False) -> None:
        """Give the file of a blob its place among the blobs, unless one is there."""
        with self.state.turns.turn(blob.digest, self.stop), self.state.lock:
            self.lease.add(blob.digest)
            if self.state.content.has(blob.digest):
                return
            member = self.archive.file(blob.digest)
            if member.size != blob.size:
                raise InvalidSpec(
                    f"blob {blob.digest} in the archive has {member.size} bytes and its manifest says "
                    f"{blob.size}"
                )
            self.state.content.adopt(member.path, blob.digest)
        reached("images-load-adopted")

    def check_platform(self, has: Platform, wanted: Platform | None) -> None:
        """An archive may carry images of any platform, unless one was asked for."""
        if wanted is not None:
            super().check_platform(has, wanted)


def load(
    state: StoreState,
    lease: Lease,
    chunks: Iterator[bytes],
    progress: Progress,
    *,
    platform: Platform | None = None,
    cancelled: threading.Event | None = None,
    limits: Limits | None = None,
) -> list[Image]:
    """See ImageStore.load."""
    stop = Stop("the load of images", cancelled)
    told = 0.0

    def watch(count: int) -> None:
        nonlocal told
        stop.check()
        now = time.monotonic()
        if now - told >= _INTERVAL:
            told = now
            progress(ProgressEvent("load", count))
        reached("images-load-read")

    with state.content.scratch() as scratch:
        source = _open(state, chunks, scratch, watch)
        found: list[tuple[Holding, tuple[str, ...]]] = []
        for archived in source.images:
            title = archived.names[0] if archived.names else archived.digest[7:19]
            loader = _Loader(state, source, lease, stop, progress, name=title, limits=limits)
            loader.archive = source
            holding = loader.pull(archived.digest, platform, archived.digest)
            tags = source.tags_by_config.get(holding.image_id, ())
            found.append((holding, tuple(dict.fromkeys((*archived.names, *tags)))))
        reached("images-load-unpacked")
        images = state.register_all(found)
        return [
            replace(image, references=tuple(sorted(names)))
            for image, (_, names) in zip(images, found, strict=True)
        ]


def _open(
    state: StoreState, chunks: Iterator[bytes], scratch: Path, watch: Callable[[int], None]
) -> ArchiveSource:
    with state.taking("archive"):
        return ArchiveSource(take_out(chunks, scratch, watch))
