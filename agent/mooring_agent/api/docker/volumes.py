# SPDX-License-Identifier: Apache-2.0
"""Docker's volumes: list, inspect, create, remove, prune."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import Conflict, InvalidSpec, NotFound
from ...storage.tree import measure_tree
from ..messages import Reply, Request, json_response, no_content
from ..query import Filters
from ..router import Need, Route
from ..timestamps import NEVER, rfc3339_seconds
from .render import has_label
from .rules import asks, canonical, pairs, text, unsupported

if TYPE_CHECKING:
    from ...engine.engine import Engine

_FILTERS = ("dangling", "driver", "label", "name")
_PRUNE_FILTERS = ("all", "label", "label!")
# The label by which dockerd knows a volume that was made without a name, and may be pruned.
_ANONYMOUS = "com.docker.volume.anonymous"
# The first version whose prune spares the volumes with names.
_ANONYMOUS_ONLY = (1, 42)


class VolumeCalls:
    """Calls about volumes."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._volumes = engine.volumes

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/volumes", self.list, versioned=True, needs=Need.READ)
        yield Route("POST", "/volumes/create", self.create, versioned=True, needs=Need.ALL)
        yield Route("POST", "/volumes/prune", self.prune, versioned=True, needs=Need.ALL)
        yield Route("GET", "/volumes/{name}", self.inspect, versioned=True, needs=Need.READ)
        yield Route("DELETE", "/volumes/{name}", self.remove, versioned=True, needs=Need.ALL)

    async def list(self, request: Request) -> Reply:
        """What `docker volume ls` shows."""
        filters = request.query.filters(_FILTERS)
        shown = [render(view) for view in self._volumes.list()]
        used = {name for container in self._engine.containers.list() for _, name in container.volumes}
        return json_response(
            {"Volumes": [volume for volume in shown if _passes(volume, filters, used)], "Warnings": None}
        )

    async def inspect(self, request: Request) -> Reply:
        """One volume."""
        return json_response(render(self._get(request.params["name"])))

    async def create(self, request: Request) -> Reply:
        """Make one, or answer with the one of that name."""
        body = canonical(await request.json(), ("Name", "Driver", "Labels", "DriverOpts"))
        name = text(body.get("Name"), "Name") or secrets.token_hex(32)
        spec: dict[str, Any] = {}
        for key, value in body.items():
            if key == "Labels":
                if labels := pairs(value, key):
                    spec["labels"] = labels
            elif key == "DriverOpts":
                if options := pairs(value, key):
                    spec["driver_opts"] = options
            elif key == "Driver":
                if value not in (None, "", "local"):
                    raise unsupported(key, value, "use local")
            elif key != "Name" and asks(value):
                raise unsupported(key, value)
        if not any(view["name"] == name for view in self._volumes.list()):
            if not body.get("Name"):
                spec["labels"] = {**spec.get("labels", {}), _ANONYMOUS: ""}
            await self._volumes.put(name, spec, dry_run=False)
        return json_response(render(self._get(name)), 201)

    async def remove(self, request: Request) -> Reply:
        """Remove one that no container uses."""
        name = request.params["name"]
        try:
            self._get(name)
        except NotFound:
            if request.query.flag("force"):
                return no_content()
            raise
        await self._volumes.delete(name, dry_run=False)
        return no_content()

    async def prune(self, request: Request) -> Reply:
        """Remove what no container has: volumes without a name of their own, with `all` the others too."""
        filters = request.query.filters(_PRUNE_FILTERS)
        everything = _truth(filters.get("all", ()), "all")
        # Before API 1.42 all of them were meant.
        if "all" not in filters and request.is_before(_ANONYMOUS_ONLY):
            everything = True
        removed, freed = [], 0
        for view in self._volumes.list():
            labels = view.get("labels") or {}
            wanted = all(has_label(labels, value) for value in filters.get("label", ()))
            spared = any(has_label(labels, value) for value in filters.get("label!", ()))
            nameless = view["anonymous"] or _ANONYMOUS in labels
            # One that is mounted from elsewhere would free nothing, and is left, as dockerd does.
            if not wanted or spared or view["driver_opts"] or not (everything or nameless):
                continue
            if self._engine.containers.using_volume(view["name"]):
                continue
            size = await asyncio.to_thread(measured, Path(view["path"]))
            try:
                await self._volumes.delete(view["name"], dry_run=False)
            except Conflict:
                continue  # somebody has taken it meanwhile
            removed.append(view["name"])
            freed += size
        return json_response({"VolumesDeleted": removed, "SpaceReclaimed": freed})

    def _get(self, name: str) -> dict[str, Any]:
        return self._volumes.get(name)


def _passes(volume: dict[str, Any], filters: Filters, used: set[str]) -> bool:
    return all(
        (all if name == "label" else any)(
            _fits(volume, name, value, volume["Name"] not in used) for value in values
        )
        for name, values in filters.items()
    )


def _truth(values: tuple[str, ...], name: str) -> bool:
    """A filter that is a boolean, false where it is not given."""
    for value in values:
        if value.lower() not in ("1", "true", "0", "false"):
            raise InvalidSpec(f"filter {name}={value!r} is no boolean: expected true or false")
    return bool(values) and values[0].lower() in ("1", "true")


def _fits(volume: dict[str, Any], name: str, value: str, dangling: bool) -> bool:
    if name == "label":
        return has_label(volume["Labels"], value)
    if name == "name":
        return value in volume["Name"]
    if name == "dangling":
        return (value in ("1", "true")) == dangling
    return bool(volume[name.capitalize()] == value)  # driver


def measured(path: Path) -> int:
    """Bytes of a volume on disk; 0 for one that was removed meanwhile."""
    try:
        return measure_tree(path).bytes
    except OSError:
        return 0


def render(view: dict[str, Any]) -> dict[str, Any]:
    """A volume in Docker's words."""
    created = view.get("created_at")
    return {
        "Name": view["name"],
        "Driver": "local",
        "Mountpoint": view["path"],
        "CreatedAt": rfc3339_seconds(created) if isinstance(created, int | float) else created or NEVER,
        "Labels": view.get("labels") or {},
        "Scope": "local",
        "Options": view["driver_opts"] or None,
    }
