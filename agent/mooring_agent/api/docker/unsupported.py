# SPDX-License-Identifier: Apache-2.0
"""What the Docker Engine API has and this agent does not: answered as an engine without it would, by name."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import NotSupported, Unavailable
from ..messages import Reply, Request
from ..router import Call, Need, Route

_MISSING = (
    ("GET", "/containers/{id}/archive", "docker cp"),
    ("HEAD", "/containers/{id}/archive", "docker cp"),
    ("PUT", "/containers/{id}/archive", "docker cp"),
    ("GET", "/containers/{id}/attach/ws", "attaching through a websocket"),
    ("POST", "/containers/prune", "docker container prune"),
    ("POST", "/grpc", "the session of buildkit"),
    ("GET", "/plugins", "docker plugin"),
    ("POST", "/session", "the session of buildkit"),
    ("POST", "/volumes/prune", "docker volume prune"),
)
_SWARM = (
    ("GET", "/configs"),
    ("GET", "/nodes"),
    ("GET", "/secrets"),
    ("GET", "/services"),
    ("GET", "/swarm"),
    ("GET", "/tasks"),
    ("POST", "/swarm/init"),
    ("POST", "/swarm/join"),
    ("POST", "/swarm/leave"),
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

    async def no_swarm(self, request: Request) -> Reply:
        """As an engine that is no part of a swarm answers."""
        raise Unavailable(
            "This node is not a swarm manager. Mooring takes no part in swarms: use its own fleet."
        )


def _refuses(what: str) -> Call:
    async def call(request: Request) -> Reply:
        raise NotSupported(f"{what} is not supported by this agent ({request.method} {request.path})")

    return call
