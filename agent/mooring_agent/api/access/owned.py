# SPDX-License-Identifier: Apache-2.0
"""The calls that an owner of names may make, and what each is held to: `allow: own`.

A call that is in no table here is refused. Whatever is referred to is looked up before the call, and put in
its place by its id, so that the call cannot find something else.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

from ...errors import MooringError
from ..docker.convert import convert, convert_update
from ..docker.convert_networks import attachment
from ..docker.listing import FILTERS
from ..docker.networks import find_network, network_spec
from ..docker.rules import canonical, mapping, text
from ..messages import Reply, Request, Response, Stream, json_response
from ..router import Call, Route
from .admission import Mine, admit, admit_attachment, admit_changes, admit_exec, admit_network, admit_volume
from .ownership import Owner

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine

Guard = Callable[[Request, Call, Owner], Awaitable[Reply]]

# What is the same for everybody, and changes nothing. Images are the host's, and there for all.
OPEN = (
    "GET /_ping",
    "GET /images/json",
    "GET /images/{ref:path}/json",
    "GET /info",
    "GET /plugins",
    "GET /version",
)
# Calls about one container, with nothing in them that could reach beyond it.
OF_A_CONTAINER = (
    "DELETE /containers/{id}",
    "DELETE /containers/{id}/{alias}",
    "GET /containers/{id}/archive",
    "GET /containers/{id}/attach/ws",
    "GET /containers/{id}/changes",
    "GET /containers/{id}/export",
    "GET /containers/{id}/json",
    "GET /containers/{id}/logs",
    "GET /containers/{id}/stats",
    "GET /containers/{id}/top",
    "HEAD /containers/{id}/archive",
    "POST /containers/{id}/attach",
    "POST /containers/{id}/kill",
    "POST /containers/{id}/pause",
    "POST /containers/{id}/resize",
    "POST /containers/{id}/restart",
    "POST /containers/{id}/start",
    "POST /containers/{id}/stop",
    "POST /containers/{id}/unpause",
    "POST /containers/{id}/wait",
    "PUT /containers/{id}/archive",
)
OF_AN_EXEC = ("GET /exec/{id}/json", "POST /exec/{id}/resize", "POST /exec/{id}/start")
OF_A_NETWORK = ("DELETE /networks/{id}", "GET /networks/{id}")
OF_A_VOLUME = ("DELETE /volumes/{name}", "GET /volumes/{name}")


class OwnedCalls:
    """What stands between owners of names and the calls of Docker's API on one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.guards: Mapping[str, Guard] = {
            **dict.fromkeys(OPEN, self._open),
            **dict.fromkeys(OF_A_CONTAINER, self._container),
            **dict.fromkeys(OF_AN_EXEC, self._exec),
            **dict.fromkeys(OF_A_NETWORK, self._network),
            **dict.fromkeys(OF_A_VOLUME, self._volume),
            "GET /containers/json": self._containers,
            "GET /events": self._events,
            "GET /networks": self._networks,
            "GET /volumes": self._volumes,
            "POST /containers/create": self._create,
            "POST /containers/{id}/exec": self._create_exec,
            "POST /containers/{id}/rename": self._rename,
            "POST /containers/{id}/update": self._update,
            "POST /networks/create": self._create_network,
            "POST /networks/{id}/connect": self._connect,
            "POST /networks/{id}/disconnect": self._connect,
            "POST /volumes/create": self._create_volume,
        }

    async def call(self, request: Request, route: Route, owner: Owner) -> Reply:
        """Make a call for an owner. Raises Forbidden, and NotFound for what is not theirs."""
        guard = self.guards.get(f"{route.method} {route.path}")
        if guard is None:
            raise owner.may_not(request.method, request.path)
        return await guard(request, route.call, owner)

    # -- whose something is ----------------------------------------------------------------------------------

    def _mine(self, reference: str, owner: Owner) -> Container:
        try:
            container = self._engine.containers.get(reference)
        except MooringError:  # not there, or the beginning of several ids
            raise owner.missing("container", reference) from None
        if not owner.owns(container.name):
            raise owner.missing("container", reference)
        return container

    def _my_network(self, reference: str, owner: Owner) -> str:
        try:
            name = str(find_network(self._engine, reference)["name"])
        except MooringError:
            raise owner.missing("network", reference) from None
        if not owner.owns(name):
            raise owner.missing("network", reference)
        return name

    def _lookups(self, owner: Owner) -> tuple[Mine, Mine]:
        """Whose a container and a network is, as `admission` asks."""
        return (
            lambda reference: self._mine(reference, owner).name,
            lambda reference: self._my_network(reference, owner),
        )

    # -- guards ----------------------------------------------------------------------------------------------

    async def _open(self, request: Request, call: Call, owner: Owner) -> Reply:
        return await call(request)

    async def _container(self, request: Request, call: Call, owner: Owner) -> Reply:
        request.params["id"] = self._mine(request.params["id"], owner).id
        return await call(request)

    async def _exec(self, request: Request, call: Call, owner: Owner) -> Reply:
        identity = request.params["id"]
        try:
            execution = self._engine.execs.get(identity)
            self._mine(execution.container_id, owner)
        except MooringError:
            raise owner.missing("exec", identity) from None
        if execution.spec.privileged:  # somebody else's, which an owner might start in their place
            raise owner.refuses("privileged", True)
        return await call(request)

    async def _network(self, request: Request, call: Call, owner: Owner) -> Reply:
        request.params["id"] = self._my_network(request.params["id"], owner)
        return await call(request)

    async def _volume(self, request: Request, call: Call, owner: Owner) -> Reply:
        if not owner.owns(request.params["name"]):
            raise owner.missing("volume", request.params["name"])
        return await call(request)

    async def _containers(self, request: Request, call: Call, owner: Owner) -> Reply:
        query = request.query
        filters = query.filters(FILTERS)
        for reference in (*filters.get("before", ()), *filters.get("since", ())):
            self._mine(reference, owner)
        limit = query.integer("limit", 0) or 0
        if limit > 0:  # so many of theirs; to ask for a number is to ask for those too that do not run
            request.query = query.replaced(limit="", all="1")
        entries = _document(await call(request))
        kept = [entry for entry in entries if self._is_mine(entry["Id"], owner)]
        return json_response(kept[:limit] if limit > 0 else kept)

    def _is_mine(self, identity: str, owner: Owner) -> bool:
        try:
            self._mine(identity, owner)
        except MooringError:
            return False
        return True

    async def _networks(self, request: Request, call: Call, owner: Owner) -> Reply:
        return json_response([each for each in _document(await call(request)) if owner.owns(each["Name"])])

    async def _volumes(self, request: Request, call: Call, owner: Owner) -> Reply:
        document = _document(await call(request))
        mine = [each for each in document["Volumes"] if owner.owns(each["Name"])]
        return json_response(document | {"Volumes": mine})

    async def _events(self, request: Request, call: Call, owner: Owner) -> Reply:
        reply = cast(Stream, await call(request))
        return Stream(told_to(reply.chunks, owner), reply.content_type, reply.status, reply.headers)

    async def _create(self, request: Request, call: Call, owner: Owner) -> Reply:
        name = request.query.text("name").removeprefix("/")
        if not owner.owns(name):
            raise owner.needs_name("a container", name)
        await request.keep()
        admit(convert(await request.json()), owner, *self._lookups(owner))
        return await call(request)

    async def _create_exec(self, request: Request, call: Call, owner: Owner) -> Reply:
        await request.keep()
        admit_exec(await request.json(), owner)
        return await self._container(request, call, owner)

    async def _rename(self, request: Request, call: Call, owner: Owner) -> Reply:
        name = request.query.text("name").removeprefix("/")
        if not owner.owns(name):
            raise owner.needs_name("a container", name)
        return await self._container(request, call, owner)

    async def _update(self, request: Request, call: Call, owner: Owner) -> Reply:
        await request.keep()
        admit_changes(convert_update(await request.json()), owner)
        return await self._container(request, call, owner)

    async def _create_network(self, request: Request, call: Call, owner: Owner) -> Reply:
        await request.keep()
        admit_network(*network_spec(await request.json()), owner)
        return await call(request)

    async def _connect(self, request: Request, call: Call, owner: Owner) -> Reply:
        name = self._my_network(request.params["id"], owner)
        body = canonical(await request.json(), ("Container", "EndpointConfig", "Force"))
        reference = text(body.get("Container"), "Container") or ""
        container = self._mine(reference, owner)
        settings = mapping(body.get("EndpointConfig"), "EndpointConfig") or {}
        admit_attachment(attachment(name, settings, "EndpointConfig"), owner, *self._lookups(owner))
        request.params["id"] = name
        request.put(body | {"Container": container.id})
        return await call(request)

    async def _create_volume(self, request: Request, call: Call, owner: Owner) -> Reply:
        await request.keep()
        admit_volume(await request.json(), owner)
        return await call(request)


def _document(reply: Reply) -> Any:
    return json.loads(cast(Response, reply).body)


async def told_to(chunks: AsyncIterator[bytes], owner: Owner) -> AsyncIterator[bytes]:
    """Of a stream of events, one a piece, those about what is theirs."""
    async with aclosing(cast(Any, chunks)) as pieces:
        async for piece in pieces:
            if _is_about(json.loads(piece), owner):
                yield piece


def _is_about(event: Mapping[str, Any], owner: Owner) -> bool:
    actor = event["Actor"]
    if event["Type"] == "volume":
        return owner.owns(actor["ID"])
    if event["Type"] in ("container", "network"):
        return owner.owns(actor["Attributes"].get("name", ""))
    return False
