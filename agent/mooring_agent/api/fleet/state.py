# SPDX-License-Identifier: Apache-2.0
"""`PUT /mooring/v1/state`: a whole host's document at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..messages import Reply, Request, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine


class StateCalls:
    """The call that converges a host."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("PUT", "/mooring/v1/state", self.put, needs=Need.ALL)

    async def put(self, request: Request) -> Reply:
        """Bring the host to what the document says; each item succeeds or fails for itself."""
        document = await request.json()
        query = request.query
        return json_response(
            await self._engine.apply_state(document, dry_run=query.flag("dry_run"), prune=query.flag("prune"))
        )
