# SPDX-License-Identifier: Apache-2.0
"""What the Docker Engine API has and this agent does not: answered as an engine without it would, by name."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import NotSupported, Unavailable
from ..messages import Reply, Request, json_response
from ..router import Call, Need, Route

_MISSING = (
    ("POST", "/grpc", "BuildKit's interface, by which buildx builds (without it: DOCKER_BUILDKIT=0)"),
    ("POST", "/plugins/create", "docker plugin"),
    ("GET", "/plugins/privileges", "docker plugin"),
    ("POST", "/plugins/pull", "docker plugin"),
)
_SWARM = (
    ("GET", "/swarm"),
    *(("POST", f"/swarm/{call}") for call in ("init", "join", "leave", "unlock", "update")),
    ("GET", "/swarm/unlockkey"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{id}"),
    ("DELETE", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}"),
    ("GET", "/tasks/{id}/logs"),
    ("GET", "/services/{id}/logs"),
    *(
        call
        for kind in ("configs", "secrets", "services")
        for call in (
            ("GET", f"/{kind}"),
            ("POST", f"/{kind}/create"),
            ("GET", f"/{kind}/{{id}}"),
            ("DELETE", f"/{kind}/{{id}}"),
            ("POST", f"/{kind}/{{id}}/update"),
        )
    ),
)


class UnsupportedCalls:
    """Calls that say why they do nothing."""

    def routes(self) -> Iterator[Route]:
        """The route table of what is missing."""
        for method, path, what in _MISSING:
            yield Route(method, path, _refuses(what), versioned=True, needs=Need.ALL)
        for method, path in _SWARM:
            needs = Need.READ if method == "GET" else Need.ALL
            yield Route(method, path, self.no_swarm, versioned=True, needs=needs)
        yield Route("GET", "/plugins", self.plugins, versioned=True, needs=Need.READ)

    async def plugins(self, request: Request) -> Reply:
        """There are none."""
        return json_response([])

    async def no_swarm(self, request: Request) -> Reply:
        """As an engine that is no part of a swarm answers."""
        raise Unavailable(
            "This node is not a swarm manager. Mooring takes no part in swarms: use its own fleet."
        )


def _refuses(what: str) -> Call:
    async def call(request: Request) -> Reply:
        raise NotSupported(f"{what} is not supported by this agent ({request.method} {request.path})")

    return call
