# SPDX-License-Identifier: Apache-2.0
"""What Docker's containers wrote, taken out: commit, export, changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ...errors import InvalidSpec, NotSupported
from ...storage.snapshotter import ChangeKind
from ..jsontext import parsed
from ..messages import Reply, Request, Stream, json_response
from ..router import Need, Route
from .imagetransfers import named
from .rules import asks, canonical, shown

if TYPE_CHECKING:
    from ...engine.engine import Engine

_TAR = "application/x-tar"
_KINDS = {ChangeKind.MODIFIED: 0, ChangeKind.ADDED: 1, ChangeKind.DELETED: 2}  # Docker's ChangeType
# Of a body that is a ContainerConfig, what an image's configuration has, and what is of a container alone.
_OF_IMAGES = (
    *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "Labels", "OnBuild"),
    *("Shell", "StopSignal", "User", "Volumes", "WorkingDir"),
)
_LISTS = ("Cmd", "Entrypoint", "Env", "OnBuild", "Shell")
_TEXTS = ("StopSignal", "User", "WorkingDir")
_OF_CONTAINERS = (
    *("AttachStderr", "AttachStdin", "AttachStdout", "Domainname", "Hostname", "Image"),
    *("MacAddress", "NetworkDisabled", "OpenStdin", "StdinOnce", "StopTimeout", "Tty", "ArgsEscaped"),
)


class CommitCalls:
    """Calls that read what containers wrote."""

    def __init__(self, engine: Engine) -> None:
        self._commits = engine.commits

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/commit", self.commit, versioned=True, needs=Need.ALL)
        yield Route("GET", "/containers/{id}/changes", self.changes, versioned=True, needs=Need.READ)
        yield Route("GET", "/containers/{id}/export", self.export, versioned=True, needs=Need.ALL)

    async def commit(self, request: Request) -> Reply:
        """Make an image of a container."""
        query = request.query
        container = query.text("container")
        if not container:
            raise InvalidSpec("container is missing: name the container to make an image of")
        repository = query.text("repo")
        text = (await request.read()).strip()
        # Clients that have no configuration to give send null.
        body = {} if text in (b"", b"null") else _object(text)
        image = await self._commits.commit(
            container,
            str(named(repository, query.text("tag"))) if repository else None,
            config=image_config(body),
            changes=tuple(query.many("changes")),
            author=query.text("author"),
            message=query.text("comment"),
            pause=query.flag("pause", default=True),
        )
        return json_response({"Id": image.id}, 201)

    async def changes(self, request: Request) -> Reply:
        """What `docker diff` shows; null when there is nothing."""
        found = [
            {"Path": "/" + change.path.decode(errors="replace"), "Kind": _KINDS[change.kind]}
            for change in await self._commits.changes(request.params["id"])
        ]
        return json_response(found or None)

    async def export(self, request: Request) -> Reply:
        """The whole file tree as a tar archive."""
        return Stream(await self._commits.export(request.params["id"]), _TAR)


def image_config(body: Mapping[str, Any]) -> dict[str, Any]:
    """What a ContainerConfig says of an image. Raises InvalidSpec, NotSupported naming the key. Pure."""
    found = {}
    for key, value in canonical(body, (*_OF_IMAGES, *_OF_CONTAINERS)).items():
        if not asks(value) or key in _OF_CONTAINERS:
            continue
        if key not in _OF_IMAGES:
            raise NotSupported(f"option {key}={shown(value)} is not known to this agent; leave it out")
        if key in _LISTS:
            usable = isinstance(value, list) and all(isinstance(item, str) for item in value)
        else:
            usable = isinstance(value, str if key in _TEXTS else dict)
        if not usable:
            expected = "a list of texts" if key in _LISTS else "a text" if key in _TEXTS else "an object"
            raise InvalidSpec(f"option {key}={shown(value)} is not usable: expected {expected}")
        found[key] = value
    return found


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = parsed(text)
    except ValueError as error:
        raise InvalidSpec(f"the body of a commit is not JSON ({error}): send a JSON object") from None
    if not isinstance(value, dict):
        raise InvalidSpec("the body of a commit is no JSON object: send the configuration of the image")
    return value
