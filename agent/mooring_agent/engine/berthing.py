# SPDX-License-Identifier: Apache-2.0
"""How a container gets its launcher: acquired, plugged into its networks, given its plan."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import MooringError, NotFound, Unavailable
from ..failpoints import reached
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, StartRefused
from ..network.records import Endpoint
from ..network.service import NetworkService
from ..runtime.plan import Shape
from ..storage.snapshotter import Snapshotter
from .confinement import PLAIN, Surroundings, is_plain
from .container import Container
from .launching import Launching
from .mountpoints import MountPoints
from .registry import Registry
from .reserve import Berth, Reserve, acquire
from .resources import ContainerSpec
from .volumes import Volumes

# Plans that wait for a start; each has some two thousand bytes.
_PREPARED_MOST = 64
_REMOVE_GROUP_TIMEOUT = 5.0


@dataclass(frozen=True)
class _Prepared:
    """The plan of a container as it was; its files below /etc are written."""

    spec: ContainerSpec
    endpoints: tuple[Endpoint, ...]
    plan: bytes

    def fits(self, container: Container) -> bool:
        """Whether the container is still the same."""
        return container.spec is self.spec and container.endpoints == self.endpoints


class Berthing:
    """Turns launchers into containers."""

    def __init__(
        self,
        registry: Registry,
        launching: Launching,
        reserve: Reserve,
        snapshotter: Snapshotter,
        networks: NetworkService,
        volumes: Volumes,
        mount_points: MountPoints,
    ) -> None:
        self._registry = registry
        self._launching = launching
        self._reserve = reserve
        self._snapshotter = snapshotter
        self._networks = networks
        self._volumes = volumes
        self._mount_points = mount_points
        self._prepared: dict[str, _Prepared] = {}

    def prepare(self, container: Container) -> None:
        """Do now what a start of the container will need: whoever has made it has been answered, and mostly
        asks for the start next.
        """
        if container.status != "created" or container.lock.locked() or not is_plain(container.spec):
            return
        while len(self._prepared) >= _PREPARED_MOST:
            del self._prepared[next(iter(self._prepared))]
        try:
            self._launching.write_etc(container)
            plan = self._plan(container, PLAIN)
        except (MooringError, OSError):
            return  # the start finds out, and says what is wrong
        self._prepared[container.id] = _Prepared(container.spec, container.endpoints, plan)

    async def start(
        self, container: Container, client: KeeperClient, around: Surroundings
    ) -> messages.Launched:
        """Run the container's first process. Raises StartRefused where that is not possible, KeeperLost, and
        what keeps it from its networks.
        """
        shape = self._launching.launcher_shape(container, around)
        network = container.endpoints[0].network if container.endpoints else None
        berth = await self._reserve.take(client, shape, network)
        try:
            return await self._give(container, client, around, shape, berth)
        except KeeperLost:
            raise
        except Unavailable:
            if not berth.reserved:
                raise
        # It had ended while it waited, or its cable was no good any more: with a fresh one.
        with suppress(NotFound):
            group = self._launching.hierarchy.group(container.group)
            await asyncio.to_thread(group.remove, _REMOVE_GROUP_TIMEOUT)
        return await self._give(container, client, around, shape, await acquire(client, shape))

    async def _give(
        self,
        container: Container,
        client: KeeperClient,
        around: Surroundings,
        shape: Shape,
        berth: Berth,
    ) -> messages.Launched:
        parent = self._launching.parent_group(container.spec)
        reached("start.acquired")
        container.group = f"{parent}/{berth.slot}" if shape.unified else f"{parent}/{container.id}"
        try:
            self._launching.restrict_devices(f"{parent}/{berth.slot}", container.spec, around)
            for number, endpoint in enumerate(container.endpoints):
                await self._networks.connect(
                    endpoint,
                    berth.pid,
                    ifname=f"eth{number}",
                    default_route=number == 0,
                    cable=berth.cable if number == 0 else None,
                )
            reached("start.connected")
            prepared = self._prepared.pop(container.id, None)
            if prepared is not None and prepared.fits(container):
                plan = prepared.plan
            else:
                self._launching.write_etc(container)
                plan = self._plan(container, around)
            if shape.unified:
                self._registry.save_resolved(container)
            return await client.launch(
                messages.Launch(
                    slot=berth.slot,
                    id=container.id,
                    terminal=container.spec.tty,
                    stdin=container.spec.interactive,
                    log_directory=self._launching.log_directory(container),
                    log_size=container.spec.log.max_size,
                    log_files=container.spec.log.max_files,
                ),
                plan,
            )
        except StartRefused as error:
            error.put_before(f"container {container.name} cannot start: ")
            raise
        except (MooringError, OSError) as error:
            if not isinstance(error, KeeperLost):
                with suppress(KeeperLost):  # its launchers go with the connection
                    await client.request(messages.Release(berth.slot))
            if isinstance(error, OSError):
                raise MooringError(f"container {container.name} could not be started: {error}") from error
            raise

    def _plan(self, container: Container, around: Surroundings) -> bytes:
        rootfs = self._snapshotter.rootfs(container.id)
        parent = self._snapshotter.stat(container.id).parent
        if parent is not None:
            points = self._mount_points.above(parent, rootfs.lower)
            if points is not None:
                rootfs = replace(rootfs, lower=(points, *rootfs.lower))
        paths = self._volumes.paths(container.volumes)
        return self._launching.plan(container, rootfs, paths, around).encode()
