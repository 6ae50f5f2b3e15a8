# SPDX-License-Identifier: Apache-2.0
"""Docker's images: list, inspect, history, import, tag, remove."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import InvalidSpec, NotFound, NotSupported
from ...images.changes import apply_changes
from ...images.config import ImageConfig
from ...images.reference import Reference
from ..messages import Reply, Request, Response, Stream, encode, json_response
from ..progress import report
from ..router import Route
from ..timestamps import rfc3339_seconds
from .render import has_label

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...images.image import Image

_FILTERS = ("before", "dangling", "label", "reference", "since")


class ImageCalls:
    """Calls about images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._images = engine.image_service

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/images/json", self.list, versioned=True)
        yield Route("POST", "/images/create", self.create, versioned=True)
        yield Route("GET", "/images/{ref:path}/json", self.inspect, versioned=True)
        yield Route("GET", "/images/{ref:path}/history", self.history, versioned=True)
        yield Route("POST", "/images/{ref:path}/tag", self.tag, versioned=True)
        yield Route("DELETE", "/images/{ref:path}", self.remove, versioned=True)

    async def list(self, request: Request) -> Reply:
        """What `docker images` shows."""
        filters = request.query.filters(_FILTERS)
        users = Counter(container.image_id for container in self._engine.containers.list())
        images = sorted(await self._images.list(), key=lambda image: image.created_at, reverse=True)
        bounds = {
            name: [(await self._images.get(value)).created_at for value in filters.get(name, ())]
            for name in ("before", "since")
        }
        entries = []
        for image in images:
            if any(image.created_at >= moment for moment in bounds["before"]) or any(
                image.created_at <= moment for moment in bounds["since"]
            ):
                continue
            names = _names_to_show(image, filters)
            if names is not None and _has_labels(image, filters.get("label", ())):
                entries.append(_summary(image, names, users[image.id]))
        return json_response(entries)

    async def inspect(self, request: Request) -> Reply:
        """Everything about one image."""
        image = await self._images.get(request.params["ref"])
        return json_response(
            {
                "Id": image.id,
                "RepoTags": names(image),
                "RepoDigests": list(image.view()["digests"]),
                "Parent": "",
                "Comment": "",
                "Created": rfc3339_seconds(image.created_at),
                "DockerVersion": "",
                "Author": "",
                "Config": _config(image),
                "Architecture": image.architecture,
                "Os": image.os,
                "Size": image.size,
                "VirtualSize": image.size,
                "GraphDriver": {"Data": None, "Name": self._engine.snapshotter.driver},
                "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
                "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
            }
        )

    async def history(self, request: Request) -> Reply:
        """How it came to be, newest first."""
        image = await self._images.get(request.params["ref"])
        entries = [
            {
                "Id": "<missing>",
                "Created": int(image.created_at),
                "CreatedBy": entry.get("created_by", ""),
                "Tags": None,
                "Size": 0,
                "Comment": entry.get("comment", ""),
            }
            for entry in reversed(image.history or ({},))
        ]
        entries[0] |= {"Id": image.id, "Tags": names(image) or None, "Size": image.size}
        return json_response(entries)

    async def create(self, request: Request) -> Reply:
        """`docker import`: an image from a tar stream in the body. Pulling is refused."""
        query = request.query
        if name := query.text("fromImage"):
            tag = query.text("tag")
            whole = f"{name}@{tag}" if ":" in tag else f"{name}:{tag or 'latest'}"
            raise NotFound(
                f"image {whole} is not on this host, and this agent does not pull from registries; "
                "import it with 'docker import' or make it with 'mooring image template'"
            )
        if query.text("fromSrc") != "-":
            raise NotSupported(
                f"fromSrc={query.text('fromSrc')!r} is not supported: "
                "fetch the file and import it from standard input"
            )
        repository, tag = query.text("repo"), query.text("tag")
        reference = (f"{repository}:{tag}" if tag else repository) if repository else None
        config = apply_changes(ImageConfig(), query.many("changes"))
        architecture = _architecture(query.text("platform"))
        return Stream(self._import(request.body, reference, config, query.text("message"), architecture))

    async def _import(
        self,
        body: AsyncIterator[bytes],
        reference: str | None,
        config: ImageConfig,
        comment: str,
        architecture: str | None,
    ) -> AsyncIterator[bytes]:
        """Progress on the way, then the image's id, in the messages that the client renders."""
        events = report(
            lambda progress: self._images.import_stream(
                body, reference, config, progress, comment, architecture
            )
        )
        async for event in events:
            if "progress" in event:
                yield _progress_line(event["progress"])
            elif "error" in event:
                error = event["error"]
                message = error["message"]
                yield encode({"errorDetail": {"code": error["status"], "message": message}, "error": message})
            else:
                yield encode({"status": event["outcome"].id})

    async def tag(self, request: Request) -> Reply:
        """Give an image a further name."""
        repository, tag = request.query.text("repo"), request.query.text("tag")
        if not repository:
            raise InvalidSpec("repo is missing: give the new name of the image")
        image = await self._images.get(request.params["ref"])
        await self._images.tag(image.id, f"{repository}:{tag}" if tag else repository)
        return Response(201)

    async def remove(self, request: Request) -> Reply:
        """Take a name away, and the image with its last one."""
        removed = await self._images.remove(request.params["ref"], force=request.query.flag("force"))
        return json_response(
            [{"Untagged": Reference.parse(name).familiar} for name in removed.untagged]
            + [{"Deleted": id} for id in removed.deleted]
        )


def names(image: Image) -> list[str]:
    """Its names as people write them."""
    return list(image.view()["references"])


def _names_to_show(image: Image, filters: dict[str, tuple[str, ...]]) -> list[str] | None:
    """The names to list it by; None when it is not to be listed."""
    shown = names(image)
    if dangling := filters.get("dangling"):
        wanted = dangling[0].lower() in ("1", "true")
        if bool(shown) == wanted:
            return None
    if patterns := filters.get("reference"):
        shown = [name for name in shown if any(_matches(name, pattern) for pattern in patterns)]
        if not shown:
            return None
    return shown


def _matches(name: str, pattern: str) -> bool:
    """As Go's path.Match, in which * does not cross a slash, on the name with or without its tag."""
    expression = "".join(
        "[^/]*" if char == "*" else "[^/]" if char == "?" else re.escape(char) for char in pattern
    )
    repository = name.rpartition(":")[0] if ":" in name.rpartition("/")[2] else name
    return re.fullmatch(expression, name) is not None or re.fullmatch(expression, repository) is not None


def _has_labels(image: Image, wanted: tuple[str, ...]) -> bool:
    labels = image.config.get("Labels") or {}
    return all(has_label(labels, label) for label in wanted)


def _summary(image: Image, shown: list[str], users: int) -> dict[str, Any]:
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": shown,
        "RepoDigests": list(image.view()["digests"]),
        "Created": int(image.created_at),
        "Size": image.size,
        "SharedSize": -1,
        "VirtualSize": image.size,
        "Labels": image.config.get("Labels") or None,
        "Containers": users,
    }


def _config(image: Image) -> dict[str, Any]:
    config = image.config
    return {
        "Hostname": "",
        "Domainname": "",
        "User": config.get("User", ""),
        "AttachStdin": False,
        "AttachStdout": False,
        "AttachStderr": False,
        "ExposedPorts": config.get("ExposedPorts") or None,
        "Tty": False,
        "OpenStdin": False,
        "StdinOnce": False,
        "Env": config.get("Env") or [],
        "Cmd": config.get("Cmd"),
        "Image": "",
        "Volumes": config.get("Volumes") or None,
        "WorkingDir": config.get("WorkingDir", ""),
        "Entrypoint": config.get("Entrypoint"),
        "OnBuild": None,
        "Labels": config.get("Labels") or None,
        "StopSignal": config.get("StopSignal", ""),
    }


def _architecture(platform: str) -> str | None:
    """The processor of a `--platform` such as linux/arm64; None when none is given."""
    if not platform:
        return None
    system, _, rest = platform.partition("/")
    if system != "linux":
        raise NotSupported(f"platform {platform} is not supported: expected linux/ARCHITECTURE")
    return rest.partition("/")[0] or None


def _progress_line(event: dict[str, Any]) -> bytes:
    message: dict[str, Any] = {"status": event["detail"] or event["step"], "id": event["step"]}
    if event["current"] is not None:
        message["progressDetail"] = {"current": event["current"], "total": event["total"] or 0}
    return encode(message)
