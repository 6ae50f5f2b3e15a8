# SPDX-License-Identifier: Apache-2.0
"""How a container gets its launcher: acquired, plugged into its networks, given its plan."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass, replace

from ..errors import MooringError, Unavailable
from ..failpoints import reached
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, StartRefused
from ..network.records import Endpoint
from ..network.service import NetworkService
from ..runtime.plan import LaunchPlan, Shape
from ..storage.snapshotter import Snapshotter
from .background import Background
from .confinement import PLAIN, Surroundings, is_plain
from .container import Container
from .launching import Launching
from .mountpoints import MountPoints
from .mountsources import MountSources
from .naming import Naming
from .registry import Registry
from .reserve import Berth, Reserve, acquire, release
from .resources import ContainerSpec
from .resources.attachments import is_alone, preferred_networks
from .volumemounts import VolumeMounts

# How long what has been prepared waits for its start.
_PATIENCE = 2.0
_REMOVE_GROUP_TIMEOUT = 5.0


@dataclass(frozen=True)
class _Prepared:
    """A launcher that has built everything for a container as it was, and waits for the word."""

    spec: ContainerSpec
    endpoints: tuple[Endpoint, ...]
    client: KeeperClient
    berth: Berth

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
        volume_mounts: VolumeMounts,
        mount_points: MountPoints,
        naming: Naming,
    ) -> None:
        self._registry = registry
        self._launching = launching
        self._reserve = reserve
        self._snapshotter = snapshotter
        self._networks = networks
        self._mount_points = mount_points
        self._naming = naming
        self._preparing: dict[str, tuple[Container, asyncio.Task[_Prepared | None]]] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._giving_up = Background()
        self.sources = MountSources(snapshotter, volume_mounts, launching.directory)

    # Ahead of a start

    def has_waiting(self, container: Container, client: KeeperClient) -> bool:
        """Whether a launcher waits for it in the reserve."""
        shape = self._launching.launcher_shape(container, PLAIN)
        return self._reserve.has_waiting(client, shape, _network_of(container))

    def prepare(self, container: Container, client: KeeperClient, patience: float = _PATIENCE) -> bool:
        """Begin with what a start will need, up to the execve: whoever has made a container has been
        answered, and mostly asks for its start next. What is not started soon is given up.

        Only where a launcher waits in the reserve, and nothing is bound that its owner may yet replace, nor
        mounted before it is to be; else False. Whoever writes to the container's layer has to `forget` it.
        """
        if (
            container.id in self._preparing
            or container.status != "created"
            or container.lock.locked()
            or not is_plain(container.spec)
            or any(volume.type == "bind" for volume in container.spec.volumes)
            or self.sources.volumes.has_any(container)
            or len(self._preparing) >= self._reserve.size
        ):
            return False
        shape = self._launching.launcher_shape(container, PLAIN)
        berth = self._take_waiting(container, client, shape)
        if berth is None:
            return False
        task = asyncio.get_running_loop().create_task(self._build(container, client, berth))
        self._preparing[container.id] = container, task
        self._be_patient(container, patience)
        return True

    def renew(self, container: Container) -> None:
        """Have what is prepared for it wait for a start as long as if it had just been made."""
        self._be_patient(container, _PATIENCE)

    def _be_patient(self, container: Container, seconds: float) -> None:
        timer = self._timers.pop(container.id, None)
        if timer is not None:
            timer.cancel()
        self._timers[container.id] = asyncio.get_running_loop().call_later(
            seconds, lambda: self._giving_up.start(self.forget(container))
        )

    async def forget(self, container: Container) -> None:
        """Give up what has been prepared for the container; nothing is left of it then."""
        task = self._take_prepared(container)
        if task is None:
            return
        prepared = await asyncio.shield(task)
        if prepared is not None:
            await release(prepared.client, prepared.berth)
        await self._clear_group(container)

    async def forget_all(self) -> None:
        """Give up all that has been prepared: the keeper that had it is gone."""
        for container in [container for container, _ in self._preparing.values()]:
            await self.forget(container)

    def _take_prepared(self, container: Container) -> asyncio.Task[_Prepared | None] | None:
        timer = self._timers.pop(container.id, None)
        if timer is not None:
            timer.cancel()
        _, task = self._preparing.pop(container.id, (None, None))
        return task

    async def _build(self, container: Container, client: KeeperClient, berth: Berth) -> _Prepared | None:
        spec, endpoints = container.spec, container.endpoints  # which may change while it is built
        try:
            plan = await self._outfit(container, PLAIN, berth)
            await client.prepare(self._order(container, berth), replace(plan, ahead=True).encode())
        except (MooringError, OSError):
            await release(client, berth)  # the start finds out, and says what is wrong
            return None
        return _Prepared(spec, endpoints, client, berth)

    # The start

    async def start(
        self, container: Container, client: KeeperClient, around: Surroundings
    ) -> messages.Launched:
        """Run the container's first process. Raises StartRefused where that is not possible, KeeperLost, and
        what keeps it from its networks.
        """
        shape = self._launching.launcher_shape(container, around)
        task = self._take_prepared(container)
        prepared = None if task is None else await task
        if prepared is not None and prepared.fits(container):
            given = self._give(container, client, around, shape, prepared.berth, built=True)
            launched = await self._unless_gone(container, given)
            if launched is not None:
                return launched
        elif prepared is not None:
            await release(client, prepared.berth)
        berth = self._take_waiting(container, client, shape)
        if berth is not None:
            given = self._give(container, client, around, shape, berth)
            launched = await self._unless_gone(container, given)
            if launched is not None:
                return launched
        return await self._give(container, client, around, shape, await acquire(client, shape))

    def _take_waiting(self, container: Container, client: KeeperClient, shape: Shape) -> Berth | None:
        return self._reserve.take_waiting(client, shape, _network_of(container))

    async def _unless_gone(
        self, container: Container, launch: Awaitable[messages.Launched]
    ) -> messages.Launched | None:
        """What became of a launcher that had been waiting; None if it had ended, or its cable was no good any
        more, so that a fresh one is needed.
        """
        try:
            return await launch
        except KeeperLost:
            raise
        except Unavailable:
            await self._clear_group(container)
            return None

    async def _clear_group(self, container: Container) -> None:
        """Remove the control group that a launcher had taken for the container, if it is there."""
        group = self._launching.hierarchy.group(container.group)
        await asyncio.to_thread(group.remove, _REMOVE_GROUP_TIMEOUT)

    async def _give(
        self,
        container: Container,
        client: KeeperClient,
        around: Surroundings,
        shape: Shape,
        berth: Berth,
        *,
        built: bool = False,
    ) -> messages.Launched:
        parent = self._launching.parent_group(container.spec)
        reached("start.acquired")
        container.group = f"{parent}/{berth.slot}" if shape.unified else self._launching.group_path(container)
        try:
            self._launching.restrict_devices(f"{parent}/{berth.slot}", container.spec, around)
            plan = None
            if not built:
                plan = (await self._outfit(container, around, berth)).encode()
            # Whose cables are called otherwise now.
            known = {endpoint.network: endpoint for endpoint in self._networks.endpoints(container.id)}
            container.endpoints = tuple(known[endpoint.network] for endpoint in container.endpoints)
            if shape.unified:
                self._registry.save_resolved(container)
            await self._naming.attend(container)
            return await client.launch(self._order(container, berth), plan)
        except (MooringError, OSError) as error:
            self._naming.withdraw(container)
            if isinstance(error, StartRefused):
                error.put_before(f"container {container.name} cannot start: ")
                raise
            if not isinstance(error, KeeperLost):
                await release(client, berth)
            if isinstance(error, OSError):
                raise MooringError(f"container {container.name} could not be started: {error}") from error
            raise

    def _order(self, container: Container, berth: Berth) -> messages.Launch:
        return messages.Launch(
            slot=berth.slot,
            id=container.id,
            terminal=container.spec.tty,
            stdin=container.spec.interactive,
            log_directory=self._launching.log_directory(container),
            log_size=container.spec.log.max_size,
            log_files=container.spec.log.max_files,
        )

    async def _outfit(self, container: Container, around: Surroundings, berth: Berth) -> LaunchPlan:
        """Connect a launcher to the container's networks and write the files below /etc; the plan for it."""
        spec = container.spec
        routes = self._networks.default_routes(container.endpoints, preferred_networks(spec.networks))
        attached = {network.name: network for network in spec.networks}
        names = self._networks.interface_names(container.endpoints)
        for number, endpoint in enumerate(container.endpoints):
            await self._networks.connect(
                endpoint,
                berth.pid,
                ifname=names[number],
                default_routes=routes[endpoint.network],
                cable=berth.cable if number == 0 else None,
                sysctls=attached[endpoint.network].sysctls,
                link_local=attached[endpoint.network].link_local,
            )
        await self._naming.expect(container)
        reached("start.connected")
        await self.sources.make_ready(container)
        self._launching.write_etc(container)
        rootfs = self._snapshotter.rootfs(container.id)
        parent = self._snapshotter.stat(container.id).parent
        if parent is not None and rootfs.bind_source is None:
            points = self._mount_points.above(parent, rootfs.lower)
            if points is not None:
                rootfs = replace(rootfs, lower=(points, *rootfs.lower))
        volumes = await self.sources.volumes.hold(container)
        return self._launching.plan(container, rootfs, volumes, around)


def _network_of(container: Container) -> str | None:
    """The network to which its launcher needs a cable."""
    return next((one.name for one in container.spec.networks if not is_alone(one.name)), None)
