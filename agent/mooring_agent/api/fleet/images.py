# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/images`: declared images, and what moves, cleans and checks images, with progress."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from ...images.platform import Platform
from ...images.pruning import PruneFilter
from ..fields import Fields
from ..messages import NDJSON, Reply, Request, Stream, encode, json_response
from ..progress import report
from ..router import Need, Route
from ..timestamps import moment_or_span
from .registry import credentials_in

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...images.image import Progress
    from ...images.usage import DiskUsage
    from ...images.verifying import Verdict


class ImageCalls:
    """Calls about images as declared things."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.image_service
        self._declared = engine.declared_images

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = "/mooring/v1/images"
        one = base + "/{ref:path}"
        yield Route("GET", base, self.list, needs=Need.READ)
        yield Route("GET", base + "/usage", self.usage, needs=Need.READ)
        yield Route("POST", base + "/prune", self.prune, needs=Need.ALL)
        yield Route("POST", base + "/verify", self.verify, abandon=True, needs=Need.ALL)
        yield Route("POST", one + "/pull", self.pull, abandon=True, needs=Need.ALL)
        yield Route("POST", one + "/push", self.push, abandon=True, needs=Need.ALL)
        yield Route("POST", one + "/verify", self.verify, abandon=True, needs=Need.ALL)
        yield Route("GET", one, self.show, needs=Need.READ)
        yield Route("PUT", one, self.put, needs=Need.ALL)
        yield Route("DELETE", one, self.delete, needs=Need.ALL)

    async def list(self, request: Request) -> Reply:
        """All images."""
        return json_response([image.view() for image in await self._images.list()])

    async def show(self, request: Request) -> Reply:
        """One image, by a reference, its id or the beginning of it."""
        return json_response((await self._images.get(request.params["ref"])).view())

    async def put(self, request: Request) -> Reply:
        """Make the reference name an image that is made as the spec says.

        With `Accept: application/x-ndjson` the answer is a stream of {"progress"} lines that ends with one of
        {"outcome"} or {"error"}; it goes on to its end even if the client does not.
        """
        spec = await request.json()
        reference = request.params["ref"]
        dry_run = request.query.flag("dry_run")
        return await _answer(
            request,
            lambda progress: self._declared.put(reference, spec, dry_run=dry_run, progress=progress),
        )

    async def delete(self, request: Request) -> Reply:
        """Make the reference name nothing; an image that has no name left goes."""
        return json_response(
            await self._declared.delete(
                request.params["ref"],
                dry_run=request.query.flag("dry_run"),
                force=request.query.flag("force"),
            )
        )

    async def pull(self, request: Request) -> Reply:
        """Pull an image from its registry, without declaring it; given up when nobody waits for it."""
        body = await request.json()
        platform = Fields(body, "pull", ("platform", "credentials")).text("platform")
        wanted = Platform.parse(platform) if platform else None
        credentials = credentials_in(body)

        async def work(progress: Progress | None) -> dict[str, Any]:
            pulled = await self._images.pull(
                request.params["ref"], platform=wanted, credentials=credentials, progress=progress
            )
            return {
                "changed": pulled.changed,
                "digest": pulled.digest,
                "image": pulled.image.view(),
            }

        return await _answer(request, work, abandon=True)

    async def push(self, request: Request) -> Reply:
        """See to it that a registry has the image: an Outcome."""
        body = await request.json()
        to = Fields(body, "push", ("to", "credentials")).text("to") or None
        credentials = credentials_in(body)
        dry_run = request.query.flag("dry_run")
        return await _answer(
            request,
            lambda progress: self._images.push_declared(
                request.params["ref"], to=to, credentials=credentials, progress=progress, dry_run=dry_run
            ),
            abandon=True,
        )

    async def prune(self, request: Request) -> Reply:
        """Delete images that no container uses: those without a name, with `all` the others too."""
        wanted = prune_filter(await request.json(), time.time())
        removed = await self._images.prune(wanted, dry_run=request.query.flag("dry_run"))
        return json_response(
            {
                "changed": bool(removed.deleted),
                "untagged": list(removed.untagged),
                "deleted": list(removed.deleted),
                "freed": removed.freed,
            }
        )

    async def usage(self, request: Request) -> Reply:
        """How much of the disk images take, in bytes."""
        return json_response(_usage(await self._images.usage()))

    async def verify(self, request: Request) -> Reply:
        """Read all of one image, or of all; with `repair` what is damaged is fetched again."""
        repair = Fields(await request.json(), "verify", ("repair",)).flag("repair")

        async def work(progress: Progress | None) -> dict[str, Any]:
            verdicts = await self._images.verify(request.params.get("ref"), repair=repair, progress=progress)
            return {
                "sound": all(verdict.sound for verdict in verdicts),
                "images": [_verdict(verdict) for verdict in verdicts],
            }

        return await _answer(request, work, abandon=True)


def prune_filter(body: Mapping[str, Any], now: float) -> PruneFilter:
    """Read which images are to go, `now` in seconds since 1970; raises InvalidSpec naming the option."""
    fields = Fields(body, "prune", ("all", "until", "labels", "without"))
    return PruneFilter(
        all=fields.flag("all"),
        until=moment_or_span(fields.text("until"), "until", now),
        labels=tuple(fields.texts("labels")),
        without=tuple(fields.texts("without")),
    )


async def _answer(
    request: Request,
    work: Callable[[Progress | None], Awaitable[Any]],
    *,
    abandon: bool = False,
) -> Reply:
    """The result whole, or, for who accepts it, as a stream with progress on the way."""
    if not request.accepts(NDJSON):
        return json_response(await work(None))

    async def rendered() -> AsyncIterator[bytes]:
        async for event in report(work, abandon=abandon):
            yield encode(event)

    return Stream(rendered(), NDJSON)


def _usage(usage: DiskUsage) -> dict[str, Any]:
    return {
        "images": [
            {
                "id": each.image.id,
                "references": each.image.view()["references"],
                "size": each.size,
                "shared": each.shared,
                "unique": each.unique,
                "containers": each.containers,
            }
            for each in usage.images
        ],
        "layers": usage.layers,
        "blobs": usage.blobs,
        "reclaimable": usage.reclaimable,
    }


def _verdict(verdict: Verdict) -> dict[str, Any]:
    return {
        "name": verdict.name,
        "id": verdict.image_id,
        "blobs": verdict.blobs,
        "sound": verdict.sound,
        "damages": [asdict(damage) for damage in verdict.damages],
        "missing_layers": list(verdict.missing_layers),
    }
