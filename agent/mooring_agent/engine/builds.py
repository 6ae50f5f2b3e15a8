# SPDX-License-Identifier: Apache-2.0
"""Builds for asyncio: begun by a request, followed by it, and given up when nobody follows any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ..errors import InvalidSpec, NotFound, NotSupported
from ..images.build.builder import Builder
from ..images.build.options import BuildOptions
from ..images.build.pruning import CachePruned, CacheUsage, measure_cache, prune_cache
from ..images.image import Image, Progress
from ..images.platform import Platform
from ..images.reference import Reference
from ..images.registry.settings import Credentials
from ..images.store import ImageStore
from ..images.turns import Stop
from .buildruns import BuildRuns, awaited
from .events import EventBus
from .uploads import Upload

_AT_ONCE = 12  # builds; more wait for their turn
_STOP_SECONDS = 30.0

Pull = Callable[[str, Platform, Progress, Credentials | None], Coroutine[Any, Any, Image]]
"""Gets an image from its registry, with the host's credentials if none are given."""


async def _nothing() -> AsyncIterator[bytes]:
    pieces: tuple[bytes, ...] = ()
    for piece in pieces:
        yield piece


class Builds:
    """The builds of this agent."""

    def __init__(
        self, store: ImageStore, runs: BuildRuns, events: EventBus, has_group: Callable[[str], bool]
    ) -> None:
        """`has_group` tells whether a control group is declared."""
        self._store = store
        self._runs = runs
        self._events = events
        self._has_group = has_group
        self._builder = Builder(store.state)
        # Of its own: builds wait for commands and pulls, which need threads of the loop to go on.
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mooring-build")
        self._cancelled: dict[asyncio.Future[Image], threading.Event] = {}
        self._loop: asyncio.AbstractEventLoop
        self.pull: Pull | None = None

    async def build(self, options: BuildOptions, chunks: AsyncIterable[bytes], progress: Progress) -> Image:
        """Build an image from a context that arrives in pieces, read no faster than it is unpacked.

        Of a context that is fetched nothing is read. When the caller is cancelled the build is given up, and
        nothing of it is left when this returns. Raises NotFound for a control group that is not declared.
        """
        group = options.limits.cgroup
        if group is not None and not self._has_group(group):
            raise NotFound(f"a build is to run in cgroup {group}, which is not declared: declare it first")
        upload = Upload()
        cancelled = threading.Event()
        self._loop = asyncio.get_running_loop()
        runner = self._runs.runner(self._loop)
        running = self._pool.submit(
            self._builder.build, options, upload.pieces(), runner, self, progress, cancelled
        )
        work = asyncio.wrap_future(running)
        self._cancelled[work] = cancelled
        try:
            await upload.feed(_nothing() if options.remote else chunks, work)
            image = await asyncio.shield(work)
        except BaseException as error:
            cancelled.set()
            upload.fail(error)
            running.cancel()  # it may not have begun
            await asyncio.wait((work,), timeout=_STOP_SECONDS)
            raise
        finally:
            self._cancelled.pop(work, None)
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
        for tag in options.tags or (image.id,):
            self._events.publish("image", "build", image.id, {"name": tag})
        return image

    async def close(self) -> None:
        """Give up all builds."""
        for cancelled in self._cancelled.values():
            cancelled.set()
        if self._cancelled:
            await asyncio.wait(tuple(self._cancelled), timeout=_STOP_SECONDS)

    def base(
        self,
        reference: str,
        platform: Platform,
        progress: Progress,
        stop: Stop,
        *,
        pull: bool,
        credentials: Mapping[str, Credentials],
    ) -> Image:
        """An image to build on; see images/build `Bases`."""
        image = None
        if not pull:
            try:
                image = self._store.get(reference)
            except NotFound:
                if self.pull is None:
                    raise
        if image is None:
            if self.pull is None:
                raise NotSupported(
                    f"image {reference} is to be pulled, and this agent pulls nothing for builds: import or "
                    "load it, and build without --pull"
                )
            known = credentials.get(Reference.parse(reference).domain)
            image = self._pulled(self.pull(reference, platform, progress, known), stop)
        if not platform.takes(image.os, image.architecture):
            raise InvalidSpec(
                f"image {image.name} is for {image.os}/{image.architecture}, the build for {platform}: "
                "expected an image of that platform"
            )
        return image

    def present(self, reference: str) -> Image | None:
        """The image of a name, if it is there; see images/build `Bases`."""
        try:
            return self._store.get(reference)
        except NotFound:
            return None

    def _pulled(self, pulling: Coroutine[Any, Any, Image], stop: Stop) -> Image:
        """Have the event loop do a pull, for a thread of a build."""
        work = asyncio.run_coroutine_threadsafe(pulling, self._loop)

        def give_up() -> None:
            work.cancel()
            stop.check()

        return awaited(work, stop, give_up)

    # The cache

    async def cache(self) -> CacheUsage:
        """What the build cache has."""
        return await asyncio.to_thread(measure_cache, self._store.state, self._builder.cache_mounts)

    async def prune_cache(
        self, *, unused_for: float = 0.0, keep_bytes: int = 0, everything: bool = True
    ) -> CachePruned:
        """Delete of the build cache what has not been used for `unused_for` seconds, the longest unused first
        until `keep_bytes` are left; without `everything` what an image has, too, stays.
        """
        return await asyncio.to_thread(
            prune_cache,
            self._store.state,
            self._builder.cache_mounts,
            unused_for=unused_for,
            keep_bytes=keep_bytes,
            everything=everything,
        )
