# SPDX-License-Identifier: Apache-2.0
"""`GET /system/df`: what images, containers and volumes take of the disk."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import InvalidSpec, NotFound
from ..messages import Reply, Request, json_response
from ..router import Need, Route
from ..timestamps import rfc3339_seconds
from . import images as docker_images
from .inspect import exposed_ports
from .render import summary
from .volumes import measured, render

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine
    from ...images.build.pruning import CacheUsage
    from ...images.image import Image

_TYPES = ("container", "image", "volume", "build-cache")
# From this version on the build cache's entries speak for themselves.
_NO_SUM = (1, 42)


class DiskUsageCalls:
    """The call that measures."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/system/df", self.df, versioned=True, needs=Need.READ)

    async def df(self, request: Request) -> Reply:
        """What `docker system df` shows."""
        wanted = request.query.many("type") or list(_TYPES)
        for name in wanted:
            if name not in _TYPES:
                raise InvalidSpec(f"type={name!r} is not known: expected one of {', '.join(_TYPES)}")
        answer: dict[str, Any] = {"LayersSize": 0, "Images": None, "Containers": None, "Volumes": None}
        if "image" in wanted:
            usage = await self._engine.image_service.usage()
            answer["LayersSize"] = usage.layers
            answer["Images"] = [
                docker_images.summary(
                    each.image, docker_images.names(each.image), each.containers, each.shared
                )
                | docker_images.virtual_size(each.image, request)
                for each in usage.images
            ]
        if "container" in wanted:
            answer["Containers"] = await self._containers()
        if "volume" in wanted:
            answer["Volumes"] = await self._volumes()
        answer["BuildCache"] = []
        cache = await self._engine.builds.cache() if "build-cache" in wanted else None
        if cache is not None:
            answer["BuildCache"] = _cached(cache)
        if request.is_before(_NO_SUM):
            answer["BuilderSize"] = cache.size if cache is not None else 0
        return json_response(answer)

    async def _containers(self) -> list[dict[str, Any]]:
        images = {image.id: image for image in await self._engine.image_service.list()}
        volumes = {view["name"]: view["path"] for view in self._engine.volumes.list()}
        entries = []
        for container in self._engine.containers.list():
            image = images.get(container.image_id)
            own = await asyncio.to_thread(self._size, container)
            config = image.config if image is not None else {}
            entries.append(
                summary(container, volumes, exposed_ports(container, config))
                | {"SizeRw": own, "SizeRootFs": own + _size_of(image)}
            )
        return entries

    def _size(self, container: Container) -> int:
        try:
            return int(self._engine.snapshotter.usage(container.id).bytes)
        except NotFound:
            return 0  # removed meanwhile

    async def _volumes(self) -> list[dict[str, Any]]:
        users = Counter(name for container in self._engine.containers.list() for _, name in container.volumes)
        entries = []
        for view in self._engine.volumes.list():
            if view["driver_opts"]:
                continue  # its content is not on this disk
            size = await asyncio.to_thread(measured, Path(view["path"]))
            usage = {"Size": size, "RefCount": users[view["name"]]}
            entries.append(render(view) | {"UsageData": usage})
        return entries


def _cached(cache: CacheUsage) -> list[dict[str, Any]]:
    steps = [
        {
            "ID": step.record.key,
            "Type": "regular",
            "Description": step.record.description,
            "InUse": False,
            "Shared": step.in_image,
            "Size": step.record.size,
            "CreatedAt": step.record.created,
            "LastUsedAt": rfc3339_seconds(step.used_at),
            "UsageCount": 1,
        }
        for step in cache.steps
    ]
    return steps + [
        {
            "ID": mount.path.name,
            "Type": "exec.cachemount",
            "Description": "a cache mount of RUN",
            "InUse": False,
            "Shared": False,
            "Size": mount.size,
            "CreatedAt": rfc3339_seconds(mount.used_at),
            "LastUsedAt": rfc3339_seconds(mount.used_at),
            "UsageCount": 1,
        }
        for mount in cache.mounts
    ]


def _size_of(image: Image | None) -> int:
    return image.size if image is not None else 0
