# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/peers`: the hosts with which this one shares the blobs of images."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..messages import Reply, Request, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine


class PeerCalls:
    """Calls about the peers of this host, which are declared as one thing."""

    def __init__(self, engine: Engine) -> None:
        self._peers = engine.peers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/mooring/v1/peers", self.show, needs=Need.READ)
        yield Route("PUT", "/mooring/v1/peers", self.put, needs=Need.ALL)
        yield Route("DELETE", "/mooring/v1/peers", self.delete, needs=Need.ALL)

    async def show(self, request: Request) -> Reply:
        """{declared, configured, serving, failure}: what was asked for, whether by the agent's configuration,
        where it is served, and what is in the way.
        """
        return json_response(self._peers.view())

    async def put(self, request: Request) -> Reply:
        """Share with these: {listen, address, members, tls: {ca_file, certificate, key}, uploads}.

        Addresses are HOST:PORT; `listen` is where this host serves, `address` what it is among `members`.
        In place of `tls`, `plain: true` is taken on loopback.
        """
        spec = await request.json()
        return json_response(await self._peers.put(spec, dry_run=request.query.flag("dry_run")))

    async def delete(self, request: Request) -> Reply:
        """Share with nobody, and listen no more."""
        return json_response(await self._peers.delete(dry_run=request.query.flag("dry_run")))
