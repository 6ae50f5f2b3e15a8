# SPDX-License-Identifier: Apache-2.0
"""Containers as their users see them: made, started, followed and removed by name or id."""

from __future__ import annotations

import asyncio
import builtins
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..failpoints import reached
from ..images.image import Image, check_runnable
from ..images.ingest import is_there
from ..images.store import ImageStore
from ..keeper import messages
from ..linux.inotify import DirectoryWatch
from ..network.service import NetworkService
from ..storage.snapshotter import Snapshotter
from .attaching import Attaching
from .confinement import check_capabilities, check_relabelling, is_plain
from .container import FOLLOWED, Container
from .events import EventBus
from .forwarding.forwarding import Forwarding
from .givennames import free_name
from .groups import Groups
from .health import image_part
from .joining import Joining
from .launching import Launching, resources_of
from .lifecycle import Lifecycle
from .livechanges import LiveChanges
from .logs import LogChunk, LogReader, Selection, read_lines
from .logs import follow as follow_log
from .mountpoints import limit_layer, prepare_layer
from .oci import merged_argv, merged_environment
from .registry import Registry
from .resources import ContainerSpec, check_name, options_of
from .standby import Standby
from .streams import Attachment, first_words
from .volumes import Volumes

if TYPE_CHECKING:
    from .desired import DesiredContainers

# Options whose values are there on this host, or not.
_OF_THE_HOST = ("apparmor", "devices", "init", "seccomp", "selinux", "ulimits", "userns")


class Containers:
    """Every container of this agent. References are names, ids or unique beginnings of ids."""

    def __init__(
        self,
        registry: Registry,
        lifecycle: Lifecycle,
        launching: Launching,
        images: ImageStore,
        snapshotter: Snapshotter,
        networks: NetworkService,
        volumes: Volumes,
        groups: Groups,
        events: EventBus,
        joining: Joining,
        attaching: Attaching,
        live: LiveChanges,
        forwarding: Forwarding,
    ) -> None:
        self.registry = registry
        self._attaching = attaching
        self.live = live
        self.forwarding = forwarding
        self._joining = joining
        self.lifecycle = lifecycle
        self._launching = launching
        self._images = images
        self._snapshotter = snapshotter
        self._networks = networks
        self._volumes = volumes
        self._groups = groups
        self._events = events
        self.desired: DesiredContainers
        self._watch: DirectoryWatch | None = None
        self._standby = Standby(lifecycle.berthing, self._make, self._equip, self._discard)
        lifecycle.remove = self._vanish

    def get(self, reference: str) -> Container:
        """The container. Raises NotFound, or Conflict for an ambiguous beginning of an id."""
        return self.registry.get(reference)

    def list(self) -> builtins.list[Container]:
        """All, oldest first."""
        return list(self.registry)

    async def create(
        self,
        spec: ContainerSpec,
        *,
        name: str | None,
        auto_remove: bool = False,
        extra: dict[str, Any] | None = None,
        managed: bool = False,
        replaces: str = "",
    ) -> Container:
        """Make a container that can be started: its layer, its addresses, its volumes. It costs no disk.

        Raises what is wrong with the spec on this host, and leaves nothing then.
        """
        name = check_name("container", name) if name is not None else self.free_name()
        self.registry.require_free(name)
        image = self._images.get(spec.image)
        check_runnable(image)
        if await self._unpack_again(image):
            self.registry.require_free(name)
        mounted = await self._images_to_mount(name, spec)
        self._check_host(name, spec)
        made_ahead = None if self._networks.is_in_rules(name) else self._standby.take(spec, image)
        container = made_ahead if made_ahead is not None else self._make(spec, image, name)
        container.name, container.created_at = name, time.time()
        container.auto_remove, container.managed = auto_remove, managed
        container.extra, container.replaces, container.images = extra or {}, replaces, mounted
        try:
            if made_ahead is None:
                await self._equip_or_make_room(container, image)
            reached("create.prepared")
            named = [volume for volume in spec.volumes if volume.type == "volume"]
            with self._volumes.made_with(self.registry) if named else nullcontext():
                container.volumes = tuple(
                    (volume.target, self._volumes.ensure(volume.source)) for volume in named
                )
                self.registry.add(container)
            reached("create.added")
        except BaseException:
            self._discard(container)
            raise
        if named or spec.log.forwarded:
            try:
                async with container.lock:  # whoever finds it meanwhile and wants it gone has to wait
                    await self.lifecycle.berthing.sources.fill(container)
                    await self.forwarding.begin(container)
            except BaseException:
                with suppress(NotFound):  # somebody else has removed it
                    await self.remove(container.id, force=True, volumes=True)
                raise
        self._publish(container, "create")
        if made_ahead is None and self._attaching.is_complete(container):
            asyncio.get_running_loop().call_soon(self.lifecycle.prepare, container)
        self._standby.note(spec, image, self.lifecycle.link.client)
        return container

    async def _unpack_again(self, image: Image) -> bool:
        """Have the layers of an image there, which a power failure may have taken; False if they were."""
        if image.chain_id is not None and is_there(self._snapshotter, image.chain_id):
            return False
        await asyncio.to_thread(self._images.ensure_unpacked, image)
        return True

    async def _images_to_mount(self, name: str, spec: ContainerSpec) -> tuple[tuple[str, str], ...]:
        """Target and ID of the images that are to be mounted, whose layers are there then."""
        found = []
        for volume in spec.volumes:
            if volume.type == "image" and volume.source is not None:
                image = self._images.get(volume.source)
                if await self._unpack_again(image):
                    self.registry.require_free(name)
                found.append((volume.target, image.id))
        return tuple(found)

    async def vacate(self) -> None:
        """Undo what has been made ahead of any request: whoever removes a network or an image needs that."""
        await self._standby.vacate()

    async def _equip_or_make_room(self, container: Container, image: Image) -> None:
        try:
            self._equip(container, image)
        except Conflict:
            await self.vacate()  # what stands by may have the address
            self.registry.require_free(container.name)
            self._equip(container, image, may_wait=not container.managed)

    def _equip(self, container: Container, image: Image, *, may_wait: bool = False) -> None:
        """Give it its addresses, its layer and its directory."""
        self._attaching.allocate(container, may_wait=may_wait)
        prepare_layer(self._snapshotter, container.id, image.chain_id)
        if container.spec.storage_size is not None:
            limit_layer(self._snapshotter, container)
        self._launching.homes.make(container.id)

    async def start(self, reference: str) -> None:
        """Run it, unless it runs. One that is to be removed at its end is so too if it cannot begin."""
        container = self.get(reference)
        try:
            for image_id in (container.image_id, *(id for _, id in container.images)):
                with suppress(NotFound):  # an image that only its containers hold on to
                    await self._unpack_again(self._images.get(image_id))
            if not self._attaching.is_complete(container):
                await self.vacate()  # what stands by may have the address
            await self.lifecycle.start(container)
        except MooringError:
            if container.auto_remove and not container.running:
                await self._vanish(container)
            raise

    async def stop(self, reference: str, timeout: float | None = None, signal: str | None = None) -> None:
        """Ask it to end, and kill it after `timeout` seconds."""
        await self.lifecycle.stop(self.get(reference), timeout, signal)

    async def restart(self, reference: str, timeout: float | None = None) -> None:
        """Stop it if it runs, then start it."""
        await self.lifecycle.restart(self.get(reference), timeout)

    async def kill(self, reference: str, signal: str = "KILL") -> None:
        """Send a signal to its first process."""
        await self.lifecycle.kill(self.get(reference), signal)

    async def pause(self, reference: str) -> None:
        """Freeze it."""
        await self.lifecycle.freezing.pause(self.get(reference))

    async def unpause(self, reference: str) -> None:
        """Let it go on."""
        await self.lifecycle.freezing.unpause(self.get(reference))

    async def rename(self, reference: str, name: str) -> None:
        """Give it another name."""
        container = self.get(reference)
        check_name("container", name)
        old = container.name
        self.registry.rename(container, name)
        self.renamed()
        self._publish(container, "rename", oldName=f"/{old}")

    def renamed(self) -> None:
        """Containers are called something else."""
        self._networks.renamed()

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        """Remove it and what it wrote; its anonymous volumes too with `volumes`.

        A running one needs `force`.
        """
        container = self.get(reference)
        if not force and (container.running or container.status == "restarting"):
            # The words that clients look for are dockerd's.
            raise Conflict(
                f"container {container.name} is {container.status}: stop the container before it is removed, "
                "or use force"
            )
        await self.lifecycle.stop(container, 0, "KILL")
        reached("remove.stopped")
        async with container.lock:
            if self.registry.find(container.id) is not container:
                return
            await self.lifecycle.release(container)
            reached("remove.released")
            await self.forwarding.finish(container)
            own = [name for _, name in container.volumes if volumes or container.auto_remove]
            async with self._volumes.removed_with(own, of=container.name) as forget_volumes:
                self.registry.remove(container, forget_volumes)
            reached("remove.row")
            self._discard(container)
        container.removed = True
        container.wake()
        self._publish(container, "destroy")

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Declare a container; see `desired.DesiredContainers`."""
        return await self.desired.put(name, spec, dry_run=dry_run)

    async def delete(
        self, name: str, *, force: bool = True, timeout: float | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """See to it that there is no such container."""
        return await self.desired.delete(name, force=force, timeout=timeout, dry_run=dry_run)

    async def drain(self, name: str, timeout: float | None, *, dry_run: bool = False) -> dict[str, Any]:
        """Take a container out of the ports that it shares; see `desired.DesiredContainers`."""
        return await self.desired.drain(name, timeout, dry_run=dry_run)

    async def wait(self, reference: str, condition: str = "not-running") -> int:
        """Wait until it does not run, ends next or is removed; its exit code."""
        container = self.get(reference)
        if condition == "not-running":
            if not container.running and container.status != "restarting":
                return container.exit_code or 0
            return await self.lifecycle.ended(container)
        if condition == "next-exit":
            return await self.lifecycle.ended(container)
        if condition == "removed":
            await container.until(lambda: container.removed)
            return container.exit_code or 0
        raise InvalidSpec(
            f"wait condition {condition!r} is not known: expected not-running, next-exit or removed"
        )

    async def update(self, reference: str, changes: dict[str, Any]) -> None:
        """Change options that can be changed live. Raises Conflict naming those that cannot, InvalidSpec."""
        container = self.get(reference)
        await self.live.update(container, changes)
        self._publish(container, "update")

    def resize(self, reference: str, rows: int, cols: int) -> None:
        """Set the size of its terminal, in characters."""
        container = self.get(reference)
        if container.running:
            self.lifecycle.run_soon(self.lifecycle.link.request(messages.Resize(container.id, rows, cols)))

    async def attach(
        self, reference: str, *, logs: bool, stream: bool, stdin: bool, stdout: bool, stderr: bool
    ) -> Attachment:
        """Follow its output, and write to its input. Output is read from the log, so a slow client harms
        nobody.
        """
        container = self.get(reference)
        streams = tuple(
            number for number, wanted in ((1, stdout), (2, stderr or container.spec.tty)) if wanted
        )

        async def open_stdin() -> int:
            client = await self.lifecycle.link.ready()
            _, descriptors = await client.request(messages.Streams(container.id))
            return descriptors[0] if descriptors else -1

        async def close_stdin() -> None:
            if container.running:
                await self.lifecycle.link.request(messages.CloseStdin(container.id))

        return Attachment(
            container,
            self._launching.log_directory(container),
            self.directory_watch(),
            logs=logs,
            stream=stream,
            streams=streams,
            stdin=open_stdin if stdin and container.spec.interactive else None,
            close_stdin=close_stdin,
        )

    async def logs(
        self,
        reference: str,
        *,
        follow: bool,
        tail: int | None = None,
        since: float | None = None,
        until: float | None = None,
        stdout: bool = True,
        stderr: bool = True,
    ) -> AsyncIterator[LogChunk]:
        """Its output in lines, the last `tail` of them, those between two moments; with `follow` until it
        ends.
        """
        container = self.get(reference)
        directory = self._launching.log_directory(container)
        streams = tuple(number for number, wanted in ((1, stdout), (2, stderr)) if wanted)

        def following(reader: LogReader) -> AsyncGenerator[LogChunk]:
            return follow_log(
                reader,
                directory,
                self.directory_watch(),
                lambda: container.status not in FOLLOWED or container.removed,
                container.wakers,
            )

        if not follow:
            await first_words(container, directory, self.directory_watch())
        selection = Selection(streams, tail, since, until)
        async with aclosing(read_lines(directory, selection, following if follow else None)) as lines:
            async for line in lines:
                yield line

    def log_attributes(self, container: Container) -> dict[str, str]:
        """What its log options want to be told with its output."""
        return self.forwarding.attributes(container)

    async def top(self, reference: str) -> builtins.list[int]:
        """The process ids (on the host) of its processes."""
        container = self.get(reference)
        if not container.running:
            raise Conflict(f"container {container.name} is not running: it has no processes")
        return list(self._launching.hierarchy.group(container.group).pids(recursive=True))

    async def stats(self, reference: str) -> Any:
        """What its control group has used (cgroups `Usage`)."""
        container = self.get(reference)
        if not container.running:
            raise Conflict(f"container {container.name} is not running: it uses nothing")
        return self._launching.hierarchy.group(container.group).usage()

    async def io_stats(self, reference: str) -> Any:
        """What its control group has read from disks and written to them (cgroups `IoCount`s)."""
        return self._launching.hierarchy.group(self.get(reference).group).io_stat()

    def using_image(self) -> frozenset[str]:
        """The ids of images that containers were made from, and of those that they have mounted."""
        return frozenset(
            id for one in self.registry for id in (one.image_id, *(mounted for _, mounted in one.images))
        )

    def using_volume(self, name: str) -> builtins.list[str]:
        """The names of the containers that have a volume."""
        return [one.name for one in self.registry if any(volume == name for _, volume in one.volumes)]

    def in_group(self, name: str) -> builtins.list[str]:
        """The names of the containers in a declared control group."""
        return [one.name for one in self.registry if one.spec.cgroup == name]

    def _make(self, spec: ContainerSpec, image: Image, name: str = "") -> Container:
        id = secrets.token_hex(32)
        argv = merged_argv(spec.entrypoint, spec.command, image.config)
        if not argv:
            raise InvalidSpec(
                f"container {name} has nothing to run: image {spec.image} names no command, so give one"
            )
        if not argv[0]:
            raise InvalidSpec(f"container {name} has a command whose first word is empty: name a program")
        container = Container(
            id=id,
            name=name,
            spec=spec,
            image_id=image.id,
            created_at=time.time(),
            managed=False,
            argv=argv,
            env=merged_environment(spec, image, spec.hostname or id[:12]),
            workdir=spec.workdir or image.config.get("WorkingDir") or "/",
            user=spec.user or image.config.get("User") or "0",
            stop_signal=spec.stop_signal or image.config.get("StopSignal") or "TERM",
        )
        container.image_health = image_part(image.config)
        container.settle_check()
        container.group = self._launching.group_path(container)
        if not is_plain(spec):
            self._joining.settle(container)
            container.env = merged_environment(spec, image, container.hostname)
        return container

    def _check_host(self, name: str, spec: ContainerSpec) -> None:
        """What of a spec depends on this host."""
        self._launching.hierarchy.settings(resources_of(spec))
        self.lifecycle.switching.require_way_in(name, spec)
        if spec.log.forwarded:
            self.forwarding.check_host(name, spec.log)
        if spec.cap_add or spec.cap_drop:
            check_capabilities(name, spec)
        if not spec.given_fields.isdisjoint(_OF_THE_HOST):
            self._launching.check_host(name, spec)
        if spec.cgroup and not self._groups.exists(spec.cgroup):
            raise NotFound(
                f"container {name} is to live in cgroup {spec.cgroup}, which is not declared: "
                "declare it first"
            )
        for volume in spec.volumes:
            if volume.relabel is not None:
                check_relabelling(name, volume)
            if volume.type != "bind" or volume.create_host_path:
                continue
            if not os.path.exists(volume.source or ""):
                raise InvalidSpec(
                    f"container {name} is to mount {volume.source}, which does not exist on this host: "
                    "create it first"
                )

    def _discard(self, container: Container) -> None:
        """Undo all that `_equip` has made, as far as it is there."""
        self._networks.release(container.id)
        with suppress(NotFound):
            self._snapshotter.remove(container.id)
        for directory in (self._launching.directory(container), self._launching.etc_directory(container.id)):
            shutil.rmtree(directory, ignore_errors=True)

    async def _vanish(self, container: Container) -> None:
        """Auto-remove, which whoever removes it by hand may overtake."""
        with suppress(NotFound):
            await self.remove(container.id, volumes=True)

    def free_name(self) -> str:
        """A name for a container that was given none; it is not kept for it."""
        return free_name(lambda name: self.registry.find(name) is None)

    def directory_watch(self) -> DirectoryWatch:
        """What tells of changes in containers' directories."""
        if self._watch is None:
            self._watch = DirectoryWatch()
        return self._watch

    def _publish(self, container: Container, action: str, **attributes: str) -> None:
        self._events.publish("container", action, container.id, {**container.attributes, **attributes})


def spec_view(spec: ContainerSpec) -> dict[str, Any]:
    """A spec as plans show it: what was given, in the order of the options."""
    given = spec.given
    return {name: given[name] for name in options_of(ContainerSpec) if name in given}
