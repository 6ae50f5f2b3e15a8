# SPDX-License-Identifier: Apache-2.0
"""The engine: every service of the agent, put together, started and stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from typing import Any

from .. import __version__
from ..cgroups import hierarchy as cgroups
from ..config import AgentConfig
from ..errors import MooringError
from ..images.image import Image, Progress
from ..images.peering.settings import PeerSettings
from ..images.platform import Platform
from ..images.registry.client import Registries
from ..images.registry.settings import Credentials, RegistriesSettings
from ..images.store import ImageStore
from ..keeper import messages
from ..network.service import NetworkService
from ..network.traffic import PLAIN_TERMS, Terms
from ..state.database import Database
from ..storage.choose import open_snapshotter
from .attaching import Attaching
from .berthing import Berthing
from .buildruns import BuildRuns
from .builds import Builds
from .commits import Commits
from .container import Container
from .containerfiles import ContainerFiles
from .containers import Containers
from .dataroot import take_data_root
from .declaredimages import DeclaredImages
from .desired import DesiredContainers
from .document import Documents
from .events import EventBus
from .execs import Execs
from .forwarding.forwarding import Forwarding
from .groups import Groups
from .healthchecks import HealthChecks
from .healthrecords import HealthRecords
from .idranges import IdRanges
from .images import Images
from .joining import Joining, donors_first
from .keeper_link import KeeperLink
from .launching import Launching
from .lifecycle import Lifecycle
from .livechanges import LiveChanges
from .mountpoints import MountPoints
from .naming import Naming
from .networks import Networks
from .peers import Peers
from .probing import Probes
from .registry import Registry
from .reserve import Reserve
from .resources import PortMapping
from .sweeping import Sweeping
from .switching import Switching
from .teardown import remove_all
from .terms import terms_of
from .volumemounts import VolumeMounts
from .volumes import Volumes

logger = logging.getLogger(__name__)

_FLUSH_PERIOD = 1.0
_RESERVE = 16  # launchers that wait with the agent as a rule; after a burst as many as with the keeper


class Engine:
    """One agent's engine. Make it, `start` it, use its services, `stop` it; containers outlive it."""

    def __init__(self, config: AgentConfig) -> None:
        self.config = config
        registries = Registries(RegistriesSettings.parse(config.registries))
        configured_peers = None if config.peers is None else PeerSettings.parse(config.peers)
        self._lock = take_data_root(config)
        self.database = Database(config.data_root / "state.db")
        self.hierarchy = cgroups.detect()
        self.events = EventBus()
        self.registry = Registry(self.database)
        self.networks = NetworkService(config, self.database, self._container_name, self._terms)
        self.snapshotter = open_snapshotter(config.data_root, config.storage_driver)
        self.images = ImageStore(
            config.data_root / "images", self.snapshotter, in_use=lambda: self.containers.using_image()
        )
        self.peers = Peers(self.images, self.database, configured_peers)
        self.naming = Naming(config, self.networks, self.registry)
        self._launching = Launching(config, self.hierarchy, self.naming.resolv_conf)
        self.volumes = Volumes(
            self.database,
            config.data_root / "volumes",
            self.events,
            lambda name: self.containers.using_volume(name),
        )
        self.groups = Groups(
            self.database, self._launching, config.cgroup_parent, lambda name: self.containers.in_group(name)
        )
        joining = Joining(self.registry, IdRanges(str(config.data_root)))
        self._mount_points = MountPoints(config.data_root / "mountpoints")
        self._reserve = Reserve(self.networks, min(config.pool // 2, _RESERVE), config.pool)
        berthing = Berthing(
            self.registry,
            self._launching,
            self._reserve,
            self.snapshotter,
            self.networks,
            VolumeMounts(
                self.volumes, self.images, self.snapshotter, self.registry, config.run_root / "volume"
            ),
            self._mount_points,
            self.naming,
        )
        self.health = HealthChecks(self.registry, self.events, HealthRecords(config.run_root / "health"))
        self.switching = Switching(self.registry, self.networks, self.events, self.health)
        self._attaching = Attaching(self.networks)
        self.lifecycle = Lifecycle(
            self.registry, self._launching, berthing, self.switching, self.events, joining, self._attaching
        )
        self.health.restart = self.lifecycle.end_unhealthy
        self.forwarding = Forwarding(
            self._launching, self.events, self.images, lambda: self.containers.directory_watch()
        )
        self.live = LiveChanges(
            self.registry,
            self.lifecycle,
            self._launching,
            self.networks,
            self._attaching,
            self.events,
            self.naming,
            self.health,
            self.forwarding,
        )
        self.containers = Containers(
            self.registry,
            self.lifecycle,
            self._launching,
            self.images,
            self.snapshotter,
            self.networks,
            self.volumes,
            self.groups,
            self.events,
            joining,
            self._attaching,
            self.live,
            self.forwarding,
        )
        self.execs = Execs(self.registry, self.lifecycle, self._launching, self.events)
        self._build_runs = BuildRuns(
            self.lifecycle, self._launching, self.snapshotter, self.networks, self.naming
        )
        self.builds = Builds(self.images, self._build_runs, self.events, self.groups.exists)
        self.image_service = Images(
            self.images,
            registries,
            self.peers,
            self.database,
            self.events,
            self.containers.vacate,
            lambda: [container.image_id for container in self.registry],
        )
        self.builds.pull = self._pull_for_build
        self.declared_images = DeclaredImages(self.image_service, self.images, self.builds, self.database)
        self.network_resources = Networks(
            self.networks,
            self.database,
            self.events,
            self.containers.vacate,
            self._name_if_known,
            self.naming.service,
        )
        self.desired = DesiredContainers(
            self.containers, self.registry, self.images, self.image_service, self.switching, self.health
        )
        self.commits = Commits(self.containers, self.images, self.events)
        self.files = ContainerFiles(self.containers, self.snapshotter, self._launching.directory)
        self.containers.desired = self.desired
        self._documents = self._make_documents()
        self._flusher: asyncio.Task[None] | None = None
        self._sweeping = Sweeping(
            config, self.registry, self.snapshotter, self._mount_points, self.volumes, self.hierarchy
        )

    def _terms(self, container_id: str) -> Terms:
        """What a container is allowed on its networks; one that nobody knows yet has nothing special."""
        container = self.registry.find(container_id)
        return PLAIN_TERMS if container is None else terms_of(container.spec)

    async def start(self) -> None:
        """Take up what is declared: networks, cgroups, running containers; start those that ought to run."""
        self._launching.refresh()
        self._sweeping.sweep()
        self._launching.homes.sweep()
        for drift in await self.networks.start():
            logger.warning("network repaired what=%r", drift)
        await self.networks.obstacles.start(self._network_obstructed, self.naming.service.look_for_obstacles)
        self.networks.watch(self._network_drifted)
        for owner in self.networks.owners():
            if self.registry.find(owner) is None:  # a container whose creation or removal was cut off
                await self.networks.unpublish(owner)
                self.networks.release(owner)
        for container in self.registry:
            self._attaching.restore(container)
            container.ports = self._published(container.id)
        self.groups.restore()
        shape = self._launching.shape(self.config.cgroup_parent)
        self.lifecycle.link = KeeperLink(
            self.config.run_root,
            shape,
            self._reserve,
            self._process_ended,
            self._take_inventory,
        )
        await self.lifecycle.link.start()
        await self.forwarding.start(self.registry)
        for container in self.registry:
            if not self._attaching.is_settled(container):
                await self.live.settle(container)
        self.lifecycle.run_soon(self.naming.settle())
        await self.peers.start()
        self._flusher = asyncio.create_task(self._flush_changes())
        self.health.start(Probes(self.execs))
        self._settle_ends()
        self.lifecycle.run_soon(self._sweeping.sweep_groups())
        for container in self.registry:
            if container.running:
                self.switching.started(container)
                self.switching.health_turned(container)
        await self.desired.finish_replacements()
        coming = [container for container in self.registry if self.lifecycle.should_come_back(container)]
        if coming:
            self.lifecycle.run_soon(self._bring_back(coming))

    async def stop(self) -> None:
        """Let go of everything; containers run on."""
        self.lifecycle.stopping = True
        self.health.close()
        await self.forwarding.close()
        self.desired.close()
        await self.builds.close()
        await self.containers.vacate()
        if self._flusher is not None:
            self._flusher.cancel()
        self.lifecycle.close()
        self.events.close()
        await self.image_service.close()
        await self.peers.close()
        await self.naming.service.stop()
        await self.networks.stop()
        self._launching.homes.close()
        self.snapshotter.close()
        self.database.close()
        os.close(self._lock)

    async def tear_down(self) -> None:
        """Stop and remove every container, and take every network and cgroup from the kernel. Images stay."""
        await self.builds.close()
        await self.containers.vacate()
        await remove_all(self.containers, self.lifecycle)
        for name in self.groups.names():
            await self.groups.delete(name)
        await self.naming.service.teardown()
        await self.networks.teardown()
        link = self.lifecycle.link
        self._reserve.close()
        await link.request(messages.Configure(vars(link.shape), 0))
        await asyncio.to_thread(self.hierarchy.group(self.config.cgroup_parent).remove, 5.0)
        await link.end_keeper()

    async def apply_state(self, document: dict[str, Any], *, dry_run: bool, prune: bool) -> dict[str, Any]:
        """Bring the host to a document. See `document.Documents.apply`."""
        return await self._documents.apply(document, dry_run=dry_run, prune=prune)

    def host(self) -> dict[str, Any]:
        """What this host is and has."""
        keeper = self.lifecycle.link.client.identity
        statuses = [container.status for container in self.registry]
        return {
            "name": self.config.name or platform.node(),
            "version": __version__,
            "kernel": platform.release(),
            "arch": platform.machine(),
            "cpus": os.cpu_count() or 1,
            "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "cgroup": {"mode": self.hierarchy.mode, "controllers": sorted(self.hierarchy.controllers)},
            "containers": {
                "total": len(statuses),
                "running": statuses.count("running"),
                "paused": statuses.count("paused"),
            },
            "images": len(self.images.list()),
            "networks": len(self.networks.list()),
            "obstacles": [*self.networks.obstacles.found, *self.naming.service.obstacles],
            "storage_driver": self.snapshotter.driver,
            "data_root": str(self.config.data_root),
            "run_root": str(self.config.run_root),
            "agent": {"pid": os.getpid()},
            "keeper": {
                "pid": keeper.pid,
                "guardian_pid": keeper.guardian or None,
                "version": keeper.version,
            },
        }

    def _published(self, container_id: str) -> tuple[PortMapping, ...]:
        published = (
            PortMapping(
                container=publication.container_port,
                host=publication.host_port,
                host_ip=publication.host_ip,
                protocol=publication.protocol,
                balance=publication.balance or None,
                weight=publication.weight,
            )
            for publication in self.networks.published(container_id)
        )
        return tuple(sorted(published, key=lambda port: port.place))

    # Networks, as the API calls them

    def network_list(self) -> list[dict[str, Any]]:
        """The views of all networks."""
        return self.network_resources.list()

    def network_get(self, name: str) -> dict[str, Any]:
        """The view of one network."""
        return self.network_resources.get(name)

    async def network_put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Declare a network."""
        return await self.network_resources.put(name, spec, dry_run=dry_run)

    async def network_delete(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        """Remove a network."""
        return await self.network_resources.delete(name, dry_run=dry_run)

    # Inside

    def _network_drifted(self, what: list[str], repaired: bool) -> None:
        """Somebody else has changed what is ours in the kernel."""
        for drift in what:
            logger.warning("network %s what=%r", "repaired" if repaired else "not repaired", drift)
        self.naming.service.follow_networks()
        action = "repair" if repaired else "drift"
        self.events.publish("network", action, self.config.nft_table, {"what": "; ".join(what)})

    def _network_obstructed(self, obstacle: str) -> None:
        """A firewall of the host is in the way."""
        logger.warning("network obstructed what=%r", obstacle)
        self.events.publish("network", "obstructed", self.config.nft_table, {"what": obstacle})

    def _make_documents(self) -> Documents:
        return Documents(
            put={
                "image": self.declared_images.put,
                "network": self.network_put,
                "volume": self.volumes.put,
                "cgroup": self.groups.put,
                "container": self.desired.put,
            },
            delete={
                "image": self.declared_images.delete,
                "network": self.network_delete,
                "volume": self.volumes.delete,
                "cgroup": self.groups.delete,
                "container": self.desired.delete,
            },
            managed={
                "image": self.declared_images.declared,
                "network": self.network_resources.declared,
                "volume": self.volumes.managed,
                "cgroup": self.groups.names,
                "container": lambda: [one.name for one in self.registry if one.managed],
            },
        )

    def _process_ended(self, event: messages.Exited) -> None:
        self.execs.container_ended(event.id)
        if not self.lifecycle.exited(event) and not self._build_runs.exited(event):
            self.execs.exited(event)

    async def _pull_for_build(
        self, reference: str, platform: Platform, progress: Progress, credentials: Credentials | None
    ) -> Image:
        pulled = await self.image_service.pull(
            reference, platform=platform, credentials=credentials, progress=progress
        )
        return pulled.image

    async def _take_inventory(self, records: list[dict[str, Any]]) -> None:
        """Compare what the keeper has with what is known here, after every connection to it."""
        await self.lifecycle.berthing.forget_all()
        await self.containers.vacate()
        present = set()
        others = []
        runs = set()
        for record in records:
            event = messages.Exited(
                record["id"], record["exit_code"] or 0, record["known"], record["finished_at"] or 0.0
            )
            container = self.registry.find(record["id"])
            if container is not None and container.id == record["id"]:
                present.add(container.id)
                self._compare(container, record, event)
            elif record["id"] != record["container"]:
                others.append(record)
            elif record["id"] in self._build_runs:
                runs.add(record["id"])
                if record["exit_code"] is not None:
                    self._build_runs.exited(event)
                else:
                    self._build_runs.found(record)
            elif record["exit_code"] is None:
                self.lifecycle.run_soon(self.lifecycle.dispose(record["id"]))
            else:
                self.lifecycle.run_soon(self.lifecycle.link.request(messages.Forget(record["id"])))
        self._build_runs.lost_but(runs)
        self.execs.take_inventory(others)
        for container in self.registry:
            if container.running and container.id not in present:
                self.lifecycle.found_missing(container)

    def _compare(self, container: Any, record: dict[str, Any], event: messages.Exited) -> None:
        if record["exit_code"] is None:
            self.lifecycle.found_running(container, record)
        elif container.running:
            self.lifecycle.process_ended(container, event.exit_code, event.known, event.finished_at)
        else:
            self.lifecycle.run_soon(self.lifecycle.link.request(messages.Forget(container.id)))

    def _settle_ends(self) -> None:
        """Do what a killed agent owed to containers that have ended: their group, their ports, themselves."""
        for container in self.registry:
            if container.running:
                continue
            vanishes = container.auto_remove and container.status == "exited"
            if vanishes or container.ports or self.hierarchy.group(container.group).exists():
                self.lifecycle.settle(container)

    async def _bring_back(self, coming: list[Container]) -> None:
        for side_by_side in donors_first(coming):
            await asyncio.gather(*(self._bring_one_back(container.id) for container in side_by_side))

    async def _bring_one_back(self, id: str) -> None:
        try:
            await self.containers.start(id)
        except MooringError as error:
            logger.error("start failed container=%s error=%r", id[:12], error.message)

    def _container_name(self, id: str) -> str:
        return self._name_if_known(id) or id[:12]

    def _name_if_known(self, id: str) -> str | None:
        container = self.registry.find(id)
        return None if container is None else container.name

    async def _flush_changes(self) -> None:
        """Bound what a power cut can take to the last second."""
        changed = asyncio.Event()
        self.database.on_change(changed.set)
        changed.set()  # by the start so far
        while True:
            await changed.wait()
            await asyncio.sleep(_FLUSH_PERIOD)
            changed.clear()
            await asyncio.to_thread(self.database.flush)
