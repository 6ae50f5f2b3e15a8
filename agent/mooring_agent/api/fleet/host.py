# SPDX-License-Identifier: Apache-2.0
"""`GET /mooring/v1/host` shows the host and how much runs on it; `POST …/host/down` clears it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..messages import Reply, Request, json_response, no_content
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine


class HostCalls:
    """Calls about the host."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/mooring/v1/host", self.show, needs=Need.READ)
        yield Route("POST", "/mooring/v1/host/down", self.down, needs=Need.ALL)

    async def show(self, request: Request) -> Reply:
        """{name, version, kernel, arch, cpus, memory (bytes), cgroup, containers, images, networks, …}."""
        return json_response(self._engine.host())

    async def down(self, request: Request) -> Reply:
        """Stop and remove all containers, networks and cgroups; then the agent ends as if by SIGTERM."""
        await self._engine.tear_down()
        # After the answer has gone out: the server lets what is being answered end first.
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGTERM)
        return no_content()
