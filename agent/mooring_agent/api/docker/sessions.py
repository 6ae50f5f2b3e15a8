# SPDX-License-Identifier: Apache-2.0
"""BuildKit's `/session`: taken, so that a client comes as far as its build, whose refusal it shows.

A client shows nothing of the answer with which a session is refused but its status. It asks for the session
and the build at once, the latter with `version=2`: that one is answered with what to do instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ...errors import NotSupported
from ..messages import Hijack, RawStream, Reply, Request
from ..router import Need, Route

_PROTOCOL = "h2c"
# A client ends the session as soon as it knows of its build.
_SECONDS = 30.0


class SessionCalls:
    """The session in which BuildKit would ask a client for its files."""

    def __init__(self, seconds: float = _SECONDS) -> None:
        """`seconds` is how long a session may stay."""
        self._seconds = seconds

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/session", self.session, versioned=True, abandon=True, needs=Need.ALL)

    async def session(self, request: Request) -> Reply:
        """Take it over, and ask for nothing in it. Raises NotSupported where it is no upgrade to HTTP/2."""
        if request.headers.get("upgrade", "").lower() != _PROTOCOL:
            raise NotSupported(
                f"a session of BuildKit is not supported by this agent ({request.method} {request.path}): "
                "build with DOCKER_BUILDKIT=0 or 'mooring build'"
            )
        return Hijack(self._until_it_ends, content_type=None, protocol=_PROTOCOL)

    async def _until_it_ends(self, raw: RawStream) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                while await raw.read():
                    continue
        except TimeoutError:
            return  # the connection is closed
