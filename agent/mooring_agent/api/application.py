# SPDX-License-Identifier: Apache-2.0
"""All calls of both APIs behind one `handle`, which turns every exception into an answer."""

from __future__ import annotations

import logging
from time import perf_counter
from typing import TYPE_CHECKING

from .. import __version__
from ..errors import MooringError, NotSupported
from .access.hiding import without_values
from .access.owned import OwnedCalls
from .access.ownership import Forbidden, Owner
from .access.policy import Policy
from .messages import ClientDisconnected, HeaderList, Reply, Request, Response, json_response
from .router import NEWEST_API, MethodNotAllowed, Need, Route, Router

if TYPE_CHECKING:
    from ..engine.engine import Engine

log = logging.getLogger(__name__)

FLEET_PREFIX = "/mooring/"


class Application:
    """The calls of the Docker Engine API and of the Mooring API, on one engine.

    With a `policy`, for those whom it allows them; `owned` is for those whom it gives names.
    """

    def __init__(
        self, routes: list[Route], policy: Policy | None = None, owned: OwnedCalls | None = None
    ) -> None:
        self._router = Router(routes)
        self._policy = policy
        self._owned = owned
        # dockerd sends these with every answer; clients negotiate the version by them.
        self.base_headers: HeaderList = [
            ("Api-Version", f"{NEWEST_API[0]}.{NEWEST_API[1]}"),
            ("Ostype", "linux"),
            ("Server", f"Mooring/{__version__} (linux)"),
        ]

    @classmethod
    def of(cls, engine: Engine, policy: Policy | None = None) -> Application:
        """The application that serves an engine."""
        from . import docker, fleet

        return cls([*docker.routes(engine), *fleet.routes(engine)], policy, OwnedCalls(engine))

    async def handle(self, request: Request) -> Reply:
        """Answer one request. Raises only ClientDisconnected, and CancelledError."""
        started = perf_counter()
        try:
            route = self._router.resolve(request)
            request.abandon = route.abandon
            if self._policy is None:
                reply = await route.call(request)
            else:
                reply = await self._allowed(request, route, self._policy)
        except MethodNotAllowed as error:
            reply = self._failure(request, error)
            reply.headers.append(("Allow", ", ".join(error.allowed)))
        except MooringError as error:
            if error.status >= 500 and not isinstance(error, NotSupported):
                log.warning(
                    "call_failed method=%s path=%s error=%r", request.method, request.path, error.message
                )
            reply = self._failure(request, error)
        except ClientDisconnected:
            raise
        except Exception as error:
            log.exception("call_crashed method=%s path=%s", request.method, request.path)
            reply = self._failure(
                request,
                MooringError(
                    f"{request.method} {request.path} failed inside the agent ({type(error).__name__}); "
                    "the agent's log has the details"
                ),
            )
        if log.isEnabledFor(logging.DEBUG):
            status = getattr(reply, "status", 101)
            elapsed = (perf_counter() - started) * 1000
            log.debug(
                "request method=%s path=%s status=%d ms=%.2f", request.method, request.path, status, elapsed
            )
        return reply

    async def _allowed(self, request: Request, route: Route, policy: Policy) -> Reply:
        """Answer somebody whom the rules may hold. Raises Forbidden, and what the call raises."""
        allowed = await policy.check(request, route)
        if isinstance(allowed, Owner):
            try:
                if self._owned is None:
                    raise allowed.may_not(request.method, request.path)
                return await self._owned.call(request, route, allowed)
            except Forbidden:
                policy.note_refusal(request, allowed.who)
                raise
        request.looks_only = allowed is Need.READ
        reply = await route.call(request)
        if request.looks_only and type(reply) is Response:
            reply = without_values(reply)
        return reply

    def _failure(self, request: Request, error: MooringError) -> Response:
        if request.path.startswith(FLEET_PREFIX):
            return json_response({"message": error.message, "code": error.code}, error.status)
        return json_response({"message": error.message}, error.status)
