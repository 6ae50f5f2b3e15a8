# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/networks/NAME/{connect,disconnect}`: containers come onto a network and leave it live.

`/mooring/v1/host/network-key` is the key of this host for networks that are encrypted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...engine.resources import NetworkAttachment
from ...errors import InvalidSpec
from ..fields import Fields
from ..messages import Reply, Request, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine


class NetworkCalls:
    """Calls about who is on a network; networks themselves are declared."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = "/mooring/v1/networks/{name}"
        yield Route("POST", base + "/connect", self.connect, needs=Need.ALL)
        yield Route("POST", base + "/disconnect", self.disconnect, needs=Need.ALL)
        yield Route("GET", "/mooring/v1/host/network-key", self.key, needs=Need.ALL)
        yield Route("POST", "/mooring/v1/host/network-key/renew", self.renew_key, needs=Need.ALL)

    async def connect(self, request: Request) -> Reply:
        """Attach `container`; the other keys are those of an attachment (ipv4_address, aliases, …)."""
        body = await request.json()
        container = self._container(body.pop("container", None))
        name = request.params["name"]
        attachment = NetworkAttachment.parse({**body, "name": name})
        await self._engine.live.connect(container, attachment)
        return json_response(container.view())

    async def disconnect(self, request: Request) -> Reply:
        """Take `container` off."""
        fields = Fields(await request.json(), "disconnect", ("container",))
        container = self._container(fields.text("container"))
        await self._engine.live.disconnect(container, request.params["name"])
        return json_response(container.view())

    async def key(self, request: Request) -> Reply:
        """{public_key}: what others are to know this host by. Its pair is made when it is first asked for."""
        return json_response({"public_key": await self._engine.network_resources.public_key()})

    async def renew_key(self, request: Request) -> Reply:
        """{public_key}: another one, which networks use from the time on that they are declared with it."""
        return json_response({"public_key": await self._engine.network_resources.renew_key()})

    def _container(self, reference: object) -> Container:
        if not isinstance(reference, str) or not reference:
            raise InvalidSpec(f"option container is {reference!r}: expected the name or id of a container")
        return self._engine.containers.get(reference)
