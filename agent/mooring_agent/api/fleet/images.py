# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/images`: declared images, made from a template or an import, with progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

from ..messages import NDJSON, Reply, Request, Stream, encode, json_response
from ..progress import report
from ..router import Route

if TYPE_CHECKING:
    from ...engine.engine import Engine


class ImageCalls:
    """Calls about images as declared things."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.image_service

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = "/mooring/v1/images"
        yield Route("GET", base, self.list)
        yield Route("GET", base + "/{ref:path}", self.show)
        yield Route("PUT", base + "/{ref:path}", self.put)
        yield Route("DELETE", base + "/{ref:path}", self.delete)

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
        if not request.accepts(NDJSON):
            return json_response(await self._images.put(reference, spec, dry_run=dry_run, progress=None))
        events = report(
            lambda progress: self._images.put(reference, spec, dry_run=dry_run, progress=progress)
        )

        async def rendered() -> AsyncIterator[bytes]:
            async for event in events:
                yield encode(event)

        return Stream(rendered(), NDJSON)

    async def delete(self, request: Request) -> Reply:
        """Make the reference name nothing; an image that has no name left goes."""
        return json_response(
            await self._images.delete(request.params["ref"], dry_run=request.query.flag("dry_run"))
        )
