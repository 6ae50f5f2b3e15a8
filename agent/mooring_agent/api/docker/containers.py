# SPDX-License-Identifier: Apache-2.0
"""Docker's containers as things: create, list, inspect, rename, update, remove, top."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...engine.resources import ContainerSpec
from ...engine.resources.attachments import is_alone
from ...errors import InvalidSpec, MooringError, NotFound
from ..messages import Reply, Request, json_response, no_content
from ..router import Need, Route
from . import listing, processes
from .convert import Conversion, convert, convert_update
from .images import docker_get
from .inspect import Surroundings, exposed_ports, inspect
from .render import summary

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine
    from ...images.image import Image

_PLAIN_PS = ("", "-ef")


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
        yield Route("GET", one + "/json", self.inspect, versioned=True, needs=Need.READ)
        yield Route("GET", one + "/top", self.top, versioned=True, needs=Need.READ)
        yield Route("POST", one + "/rename", self.rename, versioned=True, needs=Need.ALL)
        yield Route("POST", one + "/update", self.update, versioned=True, needs=Need.ALL)
        yield Route("DELETE", one, self.remove, versioned=True, needs=Need.ALL)

    async def create(self, request: Request) -> Reply:
        """Make a container that does not run yet."""
        name = request.query.text("name").removeprefix("/") or None
        converted = convert(await request.json())
        spec = dict(converted.spec)
        await docker_get(self._engine.image_service, spec["image"])
        await self._publish_exposed(converted, spec)
        await self._link(converted)
        made = self._name_volumes(converted, spec)
        try:
            container = await self._containers.create(
                ContainerSpec.parse(spec, name=name),
                name=name,
                auto_remove=converted.auto_remove,
                extra=converted.extra | ({"Volumes": made} if made else {}),
            )
        except MooringError as error:
            await self._engine.volumes.drop_anonymous(made.values())
            if isinstance(error, NotFound):
                # Clients take a 404 of this call for a missing image, and would try to pull it.
                raise InvalidSpec(error.message) from None
            raise
        return json_response({"Id": container.id, "Warnings": []}, 201)

    async def _link(self, converted: Conversion) -> None:
        """`--link`: the other containers get another name on a network that both are on."""
        if not converted.links:
            return
        mine = {network.name for network in ContainerSpec.parse(converted.spec).networks}
        for target, alias in converted.links:
            try:
                other = self._containers.get(target)
            except NotFound as error:
                raise InvalidSpec(f"a link leads nowhere: {error.message}") from None
            shared = [network.name for network in other.spec.networks if network.name in mine]
            if not shared or is_alone(shared[0]):
                raise InvalidSpec(
                    f"the link to {other.name} leads nowhere: they share no network; put both on one"
                )
            await self._engine.live.add_alias(other, shared[0], alias)

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

    def _name_volumes(self, converted: Conversion, spec: dict[str, Any]) -> dict[str, str]:
        """Name the volumes that have no name of their own. Returns target → name."""
        made = {target: self._engine.volumes.name_anonymous() for target in converted.anonymous}
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
                entry |= await self._sizes(container, images.get(container.image_id))
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
        own = (await asyncio.to_thread(self._engine.snapshotter.usage, container.id)).bytes
        return {"SizeRw": own, "SizeRootFs": own + (image.size if image is not None else 0)}

    def _volume_paths(self) -> dict[str, str]:
        return {view["name"]: view["path"] for view in self._engine.volumes.list()}

    async def top(self, request: Request) -> Reply:
        """The processes of a running container, as `ps -ef` lists them."""
        arguments = request.query.text("ps_args")
        if arguments not in _PLAIN_PS:
            raise InvalidSpec(f"ps_args={arguments!r} is not supported: leave it out or give -ef")
        rows = processes.table(await self._containers.top(request.params["id"]))
        return json_response({"Titles": processes.TITLES, "Processes": rows})

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

    async def remove(self, request: Request) -> Reply:
        """Make it go; `v` takes the volumes without names along."""
        query = request.query
        if query.flag("link"):
            raise InvalidSpec("link=true is not supported: containers of this agent have no links")
        await self._containers.remove(
            request.params["id"], force=query.flag("force"), volumes=query.flag("v")
        )
        return no_content()
