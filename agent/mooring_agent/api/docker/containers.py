# SPDX-License-Identifier: Apache-2.0
"""Docker's containers as things: create, list, inspect, rename, update, remove, top."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from posixpath import normpath
from time import time
from typing import TYPE_CHECKING, Any

from ...engine.resources import ContainerSpec
from ...engine.resources.attachments import is_alone
from ...errors import Conflict, InvalidSpec, MooringError, NotFound
from ...images.platform import Platform
from ..access.ownership import Forbidden
from ..messages import Reply, Request, json_response, no_content
from ..query import Filters
from ..router import Need, Route
from ..timestamps import moment_or_span
from . import hostps, listing, processes
from .convert import Conversion, convert, convert_update
from .images import docker_get
from .inspect import Surroundings, exposed_ports, inspect
from .relations import link, name_networks, take_volumes
from .render import has_label, summary

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine
    from ...images.image import Image

_PLAIN_PS = ("", "-ef")
_PRUNE_FILTERS = ("label", "label!", "until")
_AT_REST = ("created", "exited", "dead")


class ContainerCalls:
    """Calls about containers as things."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        one = "/containers/{id}"
        yield Route("POST", "/containers/create", self.create, versioned=True, needs=Need.ALL)
        yield Route("GET", "/containers/json", self.list, versioned=True, needs=Need.READ)
        yield Route("POST", "/containers/prune", self.prune, versioned=True, needs=Need.ALL)
        yield Route("GET", one + "/json", self.inspect, versioned=True, needs=Need.READ)
        yield Route("GET", one + "/top", self.top, versioned=True, needs=Need.READ)
        yield Route("POST", one + "/rename", self.rename, versioned=True, needs=Need.ALL)
        yield Route("POST", one + "/update", self.update, versioned=True, needs=Need.ALL)
        yield Route("DELETE", one, self.remove, versioned=True, needs=Need.ALL)
        yield Route("DELETE", one + "/{alias}", self.remove, versioned=True, needs=Need.ALL)

    async def create(self, request: Request) -> Reply:
        """Make a container that does not run yet."""
        name = request.query.text("name").removeprefix("/") or None
        converted = convert(await request.json())
        spec = dict(converted.spec)
        image = await docker_get(self._engine.image_service, spec["image"])
        _check_platform(image, request)
        await self._publish_exposed(converted, spec)
        name_networks(self._engine, spec)
        warnings = self._discard_ports(spec)
        if converted.links:
            name = name or self._containers.free_name()
            await link(self._engine, converted.links, name, spec)
        take_volumes(self._engine, converted.extra.get("VolumesFrom", []), spec, converted.anonymous)
        made = self._name_volumes((*converted.anonymous, *(image.config.get("Volumes") or ())), spec)
        new = self._new_volumes(converted)
        try:
            for volume, volume_spec in new.items():
                await self._engine.volumes.put(volume, volume_spec)
            container = await self._containers.create(
                ContainerSpec.parse(spec, name=name),
                name=name,
                auto_remove=converted.auto_remove,
                extra=converted.extra | ({"Volumes": made} if made else {}),
            )
        except MooringError as error:
            await self._engine.volumes.drop_anonymous(made.values())
            for volume in new:
                await self._engine.volumes.delete(volume)
            if isinstance(error, NotFound):
                # Clients take a 404 of this call for a missing image, and would try to pull it.
                raise InvalidSpec(error.message) from None
            raise
        return json_response({"Id": container.id, "Warnings": warnings}, 201)

    async def _publish_exposed(self, converted: Conversion, spec: dict[str, Any]) -> None:
        """`--publish-all`: what is exposed gets free ports of the host."""
        if not converted.extra.get("PublishAllPorts"):
            return
        image = await self._engine.image_service.get(spec["image"])
        wanted = {*(image.config.get("ExposedPorts") or ()), *converted.extra.get("ExposedPorts", ())}
        taken = {f"{port['container']}/{port['protocol']}" for port in spec.get("ports", ())}
        free = sorted(port for port in wanted if port not in taken)
        if free:
            spec["ports"] = [*spec.get("ports", ()), *free]

    def _new_volumes(self, converted: Conversion) -> Mapping[str, dict[str, Any]]:
        """The volumes that it says more of than their names, as far as they are not there."""
        if not converted.volume_specs:
            return {}
        there = {view["name"] for view in self._engine.volumes.list()}
        return {name: spec for name, spec in converted.volume_specs.items() if name not in there}

    def _discard_ports(self, spec: dict[str, Any]) -> list[str]:
        """Leave ports out that its networks give no way in for, as docker does; returns the warnings. Those
        of a container that has another one's network are refused, as docker does too.
        """
        if not spec.get("ports"):
            return []
        networks = [one.name for one in ContainerSpec.parse({**spec, "ports": []}).networks]
        if networks[0] == "host":
            why = "when using host network mode"
        elif networks[0] == "none":
            why = "when using the network none"
        elif not is_alone(networks[0]) and (reason := self._engine.switching.no_way_in(networks)):
            why = f"since {reason}"
        else:
            return []
        del spec["ports"]
        return [f"Published ports are discarded {why}"]

    def _name_volumes(self, wanted: tuple[str, ...], spec: dict[str, Any]) -> dict[str, str]:
        """Name volumes for the paths, of the request or the image, at which there is nothing else. Returns
        target → name.
        """
        taken = {normpath(volume["target"]) for volume in spec.get("volumes", ())}
        targets = dict.fromkeys(path for path in map(normpath, wanted) if path not in taken)
        made = {target: self._engine.volumes.name_anonymous() for target in targets}
        if made:
            mounts = [{"type": "volume", "source": name, "target": target} for target, name in made.items()]
            spec["volumes"] = [*spec.get("volumes", ()), *mounts]
        return made

    async def list(self, request: Request) -> Reply:
        """What `docker ps` shows."""
        query = request.query
        containers = await listing.select(
            self._engine,
            query.filters(listing.FILTERS),
            everything=query.flag("all"),
            limit=query.integer("limit", 0) or 0,
        )
        volumes = self._volume_paths()
        images = {image.id: image for image in await self._engine.image_service.list()} if containers else {}
        entries = []
        for container in containers:
            config = images[container.image_id].config if container.image_id in images else {}
            entry = summary(container, volumes, exposed_ports(container, config))
            if query.flag("size"):
                try:
                    entry |= await self._sizes(container, images.get(container.image_id))
                except NotFound:
                    continue  # removed meanwhile
            entries.append(entry)
        return json_response(entries)

    async def inspect(self, request: Request) -> Reply:
        """Everything about one container."""
        container = self._containers.get(request.params["id"])
        image = await self._image_of(container)
        config = self._engine.config
        document = inspect(
            container,
            Surroundings(
                image=image,
                volumes=self._volume_paths(),
                log_directory=str(config.data_root / "containers" / container.id / "log"),
                etc_directory=str(config.run_root / "etc" / container.id),
                driver=self._engine.snapshotter.driver,
                exec_ids=tuple(self._engine.execs.ids_of(container.id)),
            ),
        )
        if request.query.flag("size"):
            document |= await self._sizes(container, image)
        return json_response(document)

    async def _image_of(self, container: Container) -> Image | None:
        try:
            return await self._engine.image_service.get(container.image_id)
        except NotFound:
            return None

    async def _sizes(self, container: Container, image: Image | None) -> dict[str, int]:
        try:
            own = (await asyncio.to_thread(self._engine.snapshotter.usage, container.id)).bytes
        except NotFound:
            self._containers.get(container.id)  # raises if it has been removed meanwhile
            raise
        return {"SizeRw": own, "SizeRootFs": own + (image.size if image is not None else 0)}

    def _volume_paths(self) -> dict[str, str]:
        return {view["name"]: view["path"] for view in self._engine.volumes.list()}

    async def top(self, request: Request) -> Reply:
        """The processes of a running container, as `ps -ef` lists them, or as the host's ps does with other
        arguments.
        """
        arguments = request.query.text("ps_args")
        if arguments in _PLAIN_PS:
            rows = processes.table(await self._containers.top(request.params["id"]))
            return json_response({"Titles": processes.TITLES, "Processes": rows})
        if request.looks_only:
            raise Forbidden(
                f"ps_args={arguments!r} may show variables of processes, which are hidden from who may read "
                "only; leave it out or give -ef"
            )
        chosen = hostps.words(arguments)
        pids = await self._containers.top(request.params["id"])
        titles, rows = hostps.table(await hostps.run(chosen, pids), pids)
        return json_response({"Titles": titles, "Processes": rows})

    async def rename(self, request: Request) -> Reply:
        """Give it another name."""
        name = request.query.text("name").removeprefix("/")
        if not name:
            raise InvalidSpec("name is missing: give the new name of the container")
        await self._containers.rename(request.params["id"], name)
        return no_content()

    async def update(self, request: Request) -> Reply:
        """Change limits and restart policy while it runs."""
        changes = convert_update(await request.json())
        await self._containers.update(request.params["id"], changes)
        return json_response({"Warnings": []})

    async def prune(self, request: Request) -> Reply:
        """Remove the containers that do not run."""
        filters = request.query.filters(_PRUNE_FILTERS)
        until = filters.get("until", ())
        if len(until) > 1:
            raise InvalidSpec(f"filter until is given {len(until)} times: expected one time or span")
        before = moment_or_span(until[0], "until", time()) if until else None
        removed, freed = [], 0
        for container in self._containers.list():
            if not _to_prune(container, filters, before):
                continue
            try:
                size = (await asyncio.to_thread(self._engine.snapshotter.usage, container.id)).bytes
                await self._containers.remove(container.id)
            except (Conflict, NotFound):
                continue  # it runs meanwhile, or has gone
            removed.append(container.id)
            freed += size
        return json_response({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})

    async def remove(self, request: Request) -> Reply:
        """Make it go; `v` takes the volumes without names along, `link` takes back one of its links alone."""
        query = request.query
        alias = request.params.get("alias", "")
        if query.flag("link") != bool(alias):
            raise InvalidSpec(
                "a link is removed by the path /containers/CONTAINER/ALIAS with link=true, and a container "
                "by /containers/CONTAINER without; give one of them"
            )
        if alias:
            await self._engine.live.unlink(self._containers.get(request.params["id"]), alias)
            return no_content()
        await self._containers.remove(
            request.params["id"], force=query.flag("force"), volumes=query.flag("v")
        )
        return no_content()


def _to_prune(container: Container, filters: Filters, before: float | None) -> bool:
    """Whether a container is at rest, and meant by the filters of a prune."""
    labels = container.spec.labels
    return (
        container.status in _AT_REST
        and (before is None or container.created_at < before)
        and all(has_label(labels, value) for value in filters.get("label", ()))
        and not any(has_label(labels, value) for value in filters.get("label!", ()))
    )


def _check_platform(image: Image, request: Request) -> None:
    """Raise NotFound, upon which clients pull another one, where an image is not for the platform wanted."""
    if not (wanted := request.query.text("platform")):
        return
    there = Platform(image.os, image.architecture, image.variant).normal()
    if there != Platform.parse(wanted):
        raise NotFound(
            f"image {image.name} is for {there}, which does not match the specified platform ({wanted}): "
            "pull it for that"
        )
