# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/{networks,volumes,cgroups}`: resources that are only declared, shown and removed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from ..messages import Reply, Request, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine

View = dict[str, Any]


class DeclaredCalls:
    """Calls about one kind of declared resource; `kind` is its plural, as it stands in the path."""

    def __init__(
        self,
        kind: str,
        *,
        list: Callable[[], list[View]],
        get: Callable[[str], View],
        put: Callable[..., Awaitable[View]],
        delete: Callable[..., Awaitable[View]],
    ) -> None:
        self._kind = kind
        self._list = list
        self._get = get
        self._put = put
        self._delete = delete

    @classmethod
    def of(cls, engine: Engine) -> Iterator[DeclaredCalls]:
        """The calls about networks, volumes and cgroups."""
        yield cls(
            "networks",
            list=engine.network_list,
            get=engine.network_get,
            put=engine.network_put,
            delete=engine.network_delete,
        )
        for kind, store in (("volumes", engine.volumes), ("cgroups", engine.groups)):
            yield cls(kind, list=store.list, get=store.get, put=store.put, delete=store.delete)

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = f"/mooring/v1/{self._kind}"
        yield Route("GET", base, self.list, needs=Need.READ)
        yield Route("GET", base + "/{name}", self.show, needs=Need.READ)
        yield Route("PUT", base + "/{name}", self.put, needs=Need.ALL)
        yield Route("DELETE", base + "/{name}", self.delete, needs=Need.ALL)

    async def list(self, request: Request) -> Reply:
        """All of this kind."""
        return json_response(self._list())

    async def show(self, request: Request) -> Reply:
        """One of them."""
        return json_response(self._get(request.params["name"]))

    async def put(self, request: Request) -> Reply:
        """Make it what the spec says."""
        spec = await request.json()
        return json_response(
            await self._put(request.params["name"], spec, dry_run=request.query.flag("dry_run"))
        )

    async def delete(self, request: Request) -> Reply:
        """Make it not be."""
        return json_response(
            await self._delete(request.params["name"], dry_run=request.query.flag("dry_run"))
        )
