# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/registry`: what registries have, and what they are to have no more.

These calls are POSTs, since credentials for the registry may come with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...engine.imagesources import credentials_of
from ...errors import InvalidSpec
from ...images.reference import Reference
from ...images.specs import parse_credentials
from ..fields import Fields
from ..messages import Reply, Request, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...images.registry.settings import Credentials


class RegistryCalls:
    """Calls about images at their registries; those of the host stay as they are."""

    def __init__(self, engine: Engine) -> None:
        self._images = engine.image_service

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/mooring/v1/registry/tags", self.tags, abandon=True, needs=Need.ALL)
        yield Route("POST", "/mooring/v1/registry/remove", self.remove, needs=Need.ALL)

    async def tags(self, request: Request) -> Reply:
        """{name, credentials}: the tags that the repository of a name has, as {name, tags}, sorted."""
        body = await request.json()
        fields = Fields(body, "tags", ("name", "credentials"))
        name = Reference.parse(_name(fields, "tags"))
        tags = await self._images.at_registry(
            str(name), credentials_in(body), lambda repository: repository.tags()
        )
        return json_response({"name": name.familiar_repository, "tags": tags})

    async def remove(self, request: Request) -> Reply:
        """{name, force, credentials}: have a registry remove a tag, or a manifest by digest: an Outcome."""
        body = await request.json()
        fields = Fields(body, "remove", ("name", "force", "credentials"))
        return json_response(
            await self._images.remove_at_registry(
                _name(fields, "remove"),
                credentials=credentials_in(body),
                dry_run=request.query.flag("dry_run"),
                force=fields.flag("force"),
            )
        )


def credentials_in(body: Mapping[str, Any]) -> Credentials | None:
    """Those of a request's body, for the registry; None if it brings none. Raises InvalidSpec."""
    given = body.get("credentials")
    return credentials_of(parse_credentials(given, "credentials") if given is not None else None)


def _name(fields: Fields, call: str) -> str:
    name = fields.text("name")
    if not name:
        raise InvalidSpec(f"{call} needs name: that of an image, such as registry.example:5000/team/app:1")
    return name
