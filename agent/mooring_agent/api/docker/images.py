# SPDX-License-Identifier: Apache-2.0
"""Docker's images: list, inspect, history, tag, remove, prune."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Collection, Iterator
from time import time
from typing import TYPE_CHECKING, Any

from ...errors import InvalidSpec, NotFound
from ...images.pruning import PruneFilter
from ...images.reference import Reference
from ..messages import Reply, Request, Response, json_response
from ..query import Filters
from ..router import Need, Route
from ..timestamps import moment_or_span, rfc3339_seconds
from .render import has_label

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.images import Images
    from ...images.image import Image
    from ...images.pruning import Removed

_FILTERS = ("before", "dangling", "label", "reference", "since", "until")
_PRUNE_FILTERS = ("dangling", "label", "label!", "until")
# From this version on an image's size has one name.
_ONE_SIZE = (1, 44)


class ImageCalls:
    """Calls about images."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._images = engine.image_service

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/images/json", self.list, versioned=True, needs=Need.READ)
        yield Route("POST", "/images/prune", self.prune, versioned=True, needs=Need.ALL)
        yield Route("GET", "/images/{ref:path}/json", self.inspect, versioned=True, needs=Need.READ)
        yield Route("GET", "/images/{ref:path}/history", self.history, versioned=True, needs=Need.ALL)
        yield Route("POST", "/images/{ref:path}/tag", self.tag, versioned=True, needs=Need.ALL)
        yield Route("DELETE", "/images/{ref:path}", self.remove, versioned=True, needs=Need.ALL)

    async def list(self, request: Request) -> Reply:
        """What `docker images` shows."""
        filters = request.query.filters(_FILTERS)
        users = Counter(container.image_id for container in self._engine.containers.list())
        images = sorted(await self._images.list(), key=lambda image: image.created_at, reverse=True)
        bounds = {
            name: [(await self._images.get(value)).created_at for value in filters.get(name, ())]
            for name in ("before", "since")
        }
        until = [moment_or_span(value, "until", time()) for value in filters.get("until", ())]
        shared: dict[str, int] = {}
        if request.query.flag("shared-size"):
            shared = {each.image.id: each.shared for each in (await self._images.usage()).images}
        entries, parent_of = [], parents(images)
        for image in images:
            if any(image.created_at >= moment for moment in bounds["before"]) or any(
                image.created_at <= moment for moment in bounds["since"]
            ):
                continue
            if any(moment is not None and image.created_at > moment for moment in until):
                continue
            names = _names_to_show(image, filters)
            if names is not None and _has_labels(image, filters.get("label", ())):
                entries.append(
                    summary(image, names, users[image.id], shared.get(image.id, -1))
                    | virtual_size(image, request)
                    | {"ParentId": parent_of.get(image.id, "")}
                )
        return json_response(entries)

    async def inspect(self, request: Request) -> Reply:
        """Everything about one image."""
        image = await docker_get(self._images, request.params["ref"])
        images = await self._images.list()
        line = [each for each in images if each.history == image.history[: len(each.history)]]
        parent = parents(line).get(image.id, "")
        return json_response(
            {
                "Id": image.id,
                "RepoTags": names(image),
                "RepoDigests": list(image.view()["digests"]),
                "Parent": parent,
                "Comment": image.history[-1].get("comment", "") if image.history else "",
                "Created": rfc3339_seconds(image.created_at),
                "DockerVersion": "",
                "Author": image.author,
                "Config": _config(image),
                "Architecture": image.architecture,
                "Variant": image.variant,
                "Os": image.os,
                "Size": image.size,
                **virtual_size(image, request),
                "GraphDriver": {"Data": None, "Name": self._engine.snapshotter.driver},
                "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
                "Metadata": {"LastTagTime": "0001-01-01T00:00:00Z"},
            }
        )

    async def history(self, request: Request) -> Reply:
        """How it came to be, newest first, with the bytes of each step."""
        image = await docker_get(self._images, request.params["ref"])
        entries: list[dict[str, Any]] = [
            {
                "Id": "<missing>",
                "Created": int(step.created_at),
                "CreatedBy": step.created_by,
                "Tags": None,
                "Size": step.size,
                "Comment": step.comment,
            }
            for step in await self._images.history(image.id)
        ]
        if entries:
            entries[0] |= {"Id": image.id, "Tags": names(image) or None}
        return json_response(entries)

    async def tag(self, request: Request) -> Reply:
        """Give an image a further name."""
        repository, tag = request.query.text("repo"), request.query.text("tag")
        if not repository:
            raise InvalidSpec("repo is missing: give the new name of the image")
        image = await docker_get(self._images, request.params["ref"])
        await self._images.tag(image.id, f"{repository}:{tag}" if tag else repository)
        return Response(201)

    async def remove(self, request: Request) -> Reply:
        """Take a name away, and the image with its last one.

        `noprune` keeps parents without names, and an image of this store is always removed alone.
        """
        request.query.flag("noprune")
        await docker_get(self._images, request.params["ref"])
        removed = await self._images.remove(request.params["ref"], force=request.query.flag("force"))
        return json_response(told(removed))

    async def prune(self, request: Request) -> Reply:
        """Delete images that no container uses: those without a name, unless `dangling` is false."""
        filters = request.query.filters(_PRUNE_FILTERS)
        removed = await self._images.prune(prune_filter(filters, time()))
        return json_response({"ImagesDeleted": told(removed) or None, "SpaceReclaimed": removed.freed})


async def docker_get(images: Images, reference: str) -> Image:
    """The image; one that is not there is told in dockerd's words, which clients look for."""
    try:
        return await images.get(reference)
    except NotFound:
        shown = reference
        if not reference.startswith("sha256:"):
            shown = Reference.parse(reference).familiar
        raise NotFound(f"No such image: {shown}") from None


def parents(images: Collection[Image]) -> dict[str, str]:
    """Of each image that is made of another one of these, the id of that: the nearest whose history and
    layers its own begin with. Pure.
    """
    steps = {image.id: _steps(image) for image in images if image.history}
    whole: dict[str, list[Image]] = {}
    for image in images:
        if image.id in steps:
            whole.setdefault(steps[image.id][-1], []).append(image)
    found = {}
    for image in images:
        nearer = (each for step in reversed(steps.get(image.id, [])[:-1]) for each in whole.get(step, ()))
        for parent in nearer:
            if image.diff_ids[: len(parent.diff_ids)] == parent.diff_ids:
                found[image.id] = parent.id
                break
    return found


def _steps(image: Image) -> list[str]:
    """For each step of its history what names it with all before."""
    digest = hashlib.sha256()
    found = []
    for entry in image.history:
        digest.update(json.dumps(entry, sort_keys=True).encode())
        found.append(digest.hexdigest())
    return found


def prune_filter(filters: Filters, now: float) -> PruneFilter:
    """Read the filters of a prune; raises InvalidSpec. `now` is in seconds since the epoch. Pure."""
    dangling = filters.get("dangling", ("true",))[0]
    if dangling not in ("true", "1", "false", "0"):
        raise InvalidSpec(f"filter dangling={dangling!r} is no boolean: expected true or false")
    until = filters.get("until", ())
    if len(until) > 1:
        raise InvalidSpec(f"filter until is given {len(until)} times: expected one time or span")
    return PruneFilter(
        all=dangling in ("false", "0"),
        until=moment_or_span(until[0], "until", now) if until else None,
        labels=filters.get("label", ()),
        without=filters.get("label!", ()),
    )


def told(removed: Removed) -> list[dict[str, str]]:
    """What a removal did, as Docker lists it."""
    return [{"Untagged": Reference.parse(name).familiar} for name in removed.untagged] + [
        {"Deleted": id} for id in removed.deleted
    ]


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


def summary(image: Image, shown: list[str], users: int, shared: int = -1) -> dict[str, Any]:
    """One entry of `GET /images/json`; `shared` in bytes, -1 if that is not asked for."""
    return {
        "Id": image.id,
        "ParentId": "",
        "RepoTags": shown,
        "RepoDigests": list(image.view()["digests"]),
        "Created": int(image.created_at),
        "Size": image.size,
        "SharedSize": shared,
        "Labels": image.config.get("Labels") or None,
        "Containers": users,
    }


def virtual_size(image: Image, request: Request) -> dict[str, int]:
    """The second name of an image's size, which API 1.44 has done away with."""
    return {"VirtualSize": image.size} if request.is_before(_ONE_SIZE) else {}


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
        "OnBuild": config.get("OnBuild"),
        "Labels": config.get("Labels") or None,
        "StopSignal": config.get("StopSignal", ""),
        **{key: config[key] for key in ("Healthcheck", "Shell") if config.get(key)},
    }
