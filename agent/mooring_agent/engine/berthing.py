# SPDX-License-Identifier: Apache-2.0
"""How a container gets its launcher: acquired, plugged into its networks, given its plan."""

from __future__ import annotations

from contextlib import suppress

from ..errors import MooringError, Unavailable
from ..failpoints import reached
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, StartRefused
from ..network.service import NetworkService
from ..runtime.plan import Shape
from ..storage.snapshotter import Snapshotter
from .confinement import Surroundings
from .container import Container
from .launching import Launching
from .registry import Registry
from .reserve import Berth, Reserve, acquire
from .volumes import Volumes


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
    ) -> None:
        self._registry = registry
        self._launching = launching
        self._reserve = reserve
        self._snapshotter = snapshotter
        self._networks = networks
        self._volumes = volumes

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
            self._launching.write_etc(container)
            plan = self._launching.plan(
                container,
                self._snapshotter.rootfs(container.id),
                self._volumes.paths(container.volumes),
                around,
            )
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
                plan.encode(),
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
