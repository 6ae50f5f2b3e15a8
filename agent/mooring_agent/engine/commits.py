# SPDX-License-Identifier: Apache-2.0
"""What a container wrote, taken out of it: as an image, as an archive, as a list of changes."""

from __future__ import annotations

import asyncio
import shlex
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import Any

from ..errors import NotFound
from ..failpoints import reached
from ..images.committing import Commit
from ..images.config import merge_env
from ..images.image import Image
from ..images.store import ImageStore
from ..storage.snapshotter import Change
from .container import Container
from .containers import Containers
from .events import EventBus
from .health import declared_check
from .imageworkers import streamed
from .resources.health import to_docker

_ENDS_WITHIN = 10.0  # seconds for a commit that has been told to end


class Commits:
    """Reads the layers of containers, whether they run or not."""

    def __init__(self, containers: Containers, images: ImageStore, events: EventBus) -> None:
        self._containers = containers
        self._images = images
        self._events = events

    async def commit(
        self,
        reference: str,
        name: str | None = None,
        *,
        config: Mapping[str, Any] | None = None,
        changes: tuple[str, ...] = (),
        author: str = "",
        message: str = "",
        pause: bool = True,
    ) -> Image:
        """Make an image of a container: what it wrote, on its image, with what it was told to run.

        `config` are fields of an OCI image configuration that go over the container's, `changes` instructions
        of a Dockerfile that go over both. With `pause` a running container is frozen meanwhile.
        """
        container = self._containers.get(reference)
        try:
            image = self._images.get(container.image_id)
        except NotFound as error:
            error.put_before(f"container {container.name} cannot be committed without its image: ")
            raise
        what = Commit(
            config=committed_config(container, image) | dict(config or {}),
            changes=changes,
            author=author,
            message=message,
            created_by=shlex.join(container.argv),
        )
        async with self._containers.lifecycle.freezing.held(container) if pause else nullcontext():
            reached("commit.held")
            made = await self._made(container, image, name, what)
        self._events.publish(
            "container", "commit", container.id, {"name": container.name, "imageID": made.id}
        )
        if name is not None:
            self._events.publish("image", "tag", made.id, {"name": name})
        return made

    async def _made(self, container: Container, image: Image, name: str | None, what: Commit) -> Image:
        """The image. When the caller is cancelled, its layer is not read any more when this returns."""
        cancelled = threading.Event()
        work = asyncio.ensure_future(
            asyncio.to_thread(self._images.commit, container.id, image, name, what, cancelled=cancelled)
        )
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            cancelled.set()
            await asyncio.wait([work], timeout=_ENDS_WITHIN)
            work.add_done_callback(lambda done: done.cancelled() or done.exception())
            raise

    async def changes(self, reference: str) -> list[Change]:
        """What a container changed of its image, a directory before what is in it."""
        container = self._containers.get(reference)
        return await asyncio.to_thread(lambda: list(self._images.changes(container.id)))

    async def export(self, reference: str) -> AsyncIterator[bytes]:
        """The whole file tree of a container as a tar archive, in pieces."""
        container = self._containers.get(reference)
        chunks = await asyncio.to_thread(self._images.export, container.id)
        self._events.publish("container", "export", container.id, {"name": container.name})
        return streamed(chunks)


def committed_config(container: Container, image: Image) -> dict[str, Any]:
    """The `config` of an image that is made of a container: its image's, and over it what it was given."""
    spec = container.spec
    found = dict(image.config)
    if spec.entrypoint is not None:
        found["Entrypoint"] = list(spec.entrypoint)
        found.pop("Cmd", None)
    if spec.command is not None:
        found["Cmd"] = list(spec.command)
    if spec.env:
        given = [f"{name}={value}" for name, value in spec.env.items()]
        found["Env"] = list(merge_env(tuple(found.get("Env") or ()), tuple(given)))
    if spec.env_unset:
        kept = [one for one in found.get("Env") or () if one.partition("=")[0] not in spec.env_unset]
        found["Env"] = kept
    if spec.labels:
        found["Labels"] = {**(found.get("Labels") or {}), **spec.labels}
    check = declared_check(spec, container.image_health)
    if check is not None:
        found["Healthcheck"] = to_docker(check)
    for key, value in (("WorkingDir", spec.workdir), ("User", spec.user), ("StopSignal", spec.stop_signal)):
        if value:
            found[key] = value
    return found
