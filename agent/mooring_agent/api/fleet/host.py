# SPDX-License-Identifier: Apache-2.0
"""`GET /mooring/v1/host`: the host, its kernel's cgroups, and how much runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..messages import Reply, Request, json_response
from ..router import Route

if TYPE_CHECKING:
    from ...engine.engine import Engine


class HostCalls:
    """Calls about the host."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/mooring/v1/host", self.show)

    async def show(self, request: Request) -> Reply:
        """{name, version, kernel, arch, cpus, memory (bytes), cgroup, containers, images, networks, …}."""
        return json_response(self._engine.host())
