# SPDX-License-Identifier: Apache-2.0
"""The Docker Engine API, versions 1.24 to 1.47, on the agent's engine: one file a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .system import SystemCalls

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ..router import Resource, Route


def routes(engine: Engine) -> list[Route]:
    """The route table of this API."""
    resources: tuple[Resource, ...] = (SystemCalls(engine),)
    return [route for resource in resources for route in resource.routes()]
