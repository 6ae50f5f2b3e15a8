# SPDX-License-Identifier: Apache-2.0
"""Volumes whose driver has options, and images: each is mounted in a mount namespace of its own while
somebody uses it.

Nothing of it is on the host, where a killed agent would leave it. The namespace has nothing but the volume,
which is its root, and no process: it is there as long as this agent has it open. Launchers clone the volume
out of it, so that all containers have the same file system, and what a container has cloned stays with it
when the agent goes.

Another mount of a device, a server's directory or one of the host is the same file system again. Of one in
memory it is not: an agent that comes after a killed one takes that from a container that has it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import Unavailable
from ..images.store import ImageStore
from ..linux import syscalls
from ..runtime.join import is_still
from ..runtime.mounts import Borrow, MountOperation
from ..storage.snapshotter import Snapshotter
from .apart import in_thread
from .container import Container
from .imagemounts import layer_tree
from .registry import Registry
from .volumeoptions import IN_MEMORY, compile_mount, meaning
from .volumes import Volumes

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAGIC_IN_MEMORY = (0x01021994, 0x858458F6)  # linux/magic.h, TMPFS_MAGIC and RAMFS_MAGIC
_PATIENCE = 60.0  # seconds that a server may take for its part of a mount


@dataclass(frozen=True, slots=True)
class Source:
    """Where a volume is: at `path`, in the mount namespace at the path `namespace` if there is one.
    `directory` leads to the same for whoever reads and writes there within this process.
    """

    path: str
    directory: Path
    namespace: str = ""


@dataclass(slots=True)
class _Held:
    """A volume that is mounted: its namespace, its top directory, and by whom it is used."""

    namespace: int
    top: int
    users: set[str] = field(default_factory=set)

    def close(self) -> None:
        os.close(self.top)
        os.close(self.namespace)

    def close_soon(self) -> None:
        """The same without waiting: what is unmounted with it may have much to write."""
        threading.Thread(target=self.close, name="mooring-unmount", daemon=True).start()

    def source(self) -> Source:
        own = os.getpid()
        return Source("/", Path(f"/proc/self/fd/{self.top}"), f"/proc/{own}/fd/{self.namespace}")


class VolumeMounts:
    """Says where the volumes of containers are, and has those mounted that have to be. `place` is a directory
    over which they are, in namespaces of their own.
    """

    def __init__(
        self,
        volumes: Volumes,
        images: ImageStore,
        snapshotter: Snapshotter,
        registry: Registry,
        place: Path,
    ) -> None:
        self._volumes = volumes
        self._images = images
        self._snapshotter = snapshotter
        self._registry = registry
        self._place = place
        self._held: dict[str, _Held] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def has_any(self, container: Container) -> bool:
        """Whether a container has a volume that is to be mounted, or an image."""
        return bool(container.images) or any(self._volumes.driver_opts(name) for _, name in container.volumes)

    def is_in_memory(self, name: str) -> bool:
        """Whether what is in a volume goes with its last user."""
        return self._volumes.driver_opts(name).get("type") in IN_MEMORY

    async def hold(
        self, container: Container, *, user: str = "", only: Collection[str] | None = None
    ) -> dict[str, Source]:
        """The volumes and images of a container by their targets (`only` some of these), mounted until its,
        or `user`'s, `release`.

        Raises NotFound, and what keeps one from being mounted; then none of them is held.
        """
        user = user or container.id
        found: dict[str, Source] = {}
        try:
            for target, name in container.volumes:
                if only is None or target in only:
                    found[target] = await self._volume(name, user)
            for target, image_id in container.images:
                if only is None or target in only:
                    found[target] = await self._hold(image_id, user, partial(self._mount_image, image_id))
        except BaseException:
            self.release(user)
            raise
        return found

    @asynccontextmanager
    async def held(
        self, container: Container, purpose: str, *, only: Collection[str] | None = None
    ) -> AsyncIterator[dict[str, Source]]:
        """The same for a work on a container's files that is no run of it."""
        user = f"{purpose} {container.id}"
        sources = await self.hold(container, user=user, only=only)
        try:
            yield sources
        finally:
            self.release(user)

    def release(self, user: str) -> None:
        """Let go of what a container, or another user, has held; nothing where it holds nothing."""
        for name, held in list(self._held.items()):
            held.users.discard(user)
            if not held.users:
                del self._held[name]
                held.close_soon()

    async def _volume(self, name: str, user: str) -> Source:
        path = self._volumes.path(name)
        if not self._volumes.driver_opts(name):
            return Source(str(path), path)
        return await self._hold(name, user, partial(self._mount_volume, name, user))

    async def _hold(self, key: str, user: str, mount: Callable[[], Awaitable[_Held]]) -> Source:
        """A volume by its name or an image by its ID, which has a colon in it."""
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            held = self._held.get(key)
            if held is None:
                self._place.mkdir(mode=0o700, parents=True, exist_ok=True)
                held = await mount()
                self._held[key] = held
            held.users.add(user)
            return held.source()

    async def _mount_image(self, image_id: str) -> _Held:
        place = str(self._place)
        what = f"image {image_id[7:19]}"
        operation = layer_tree(self._images, self._snapshotter, image_id, place)

        def mount() -> _Held:
            try:
                return _apart(operation, place)
            except OSError as error:
                raise Unavailable(
                    f"{what} cannot be mounted ({error}): see what the kernel has logged (dmesg)"
                ) from error

        return await _in_time(mount, what)

    async def _mount_volume(self, name: str, user: str) -> _Held:
        options = self._volumes.driver_opts(name)
        place = str(self._place)
        if options["type"] in IN_MEMORY:
            having = [one for one in self._registry if one.running and one.id != user and _has(one, name)]
            if having and (held := await self._take_over(name, having, place)):
                return held

        def mount() -> _Held:
            try:
                return _apart(compile_mount(name, options, _resolve), place)
            except OSError as error:
                raise meaning(name, options, error) from error

        return await _in_time(mount, f"volume {name}")

    async def _take_over(self, name: str, having: list[Container], place: str) -> _Held | None:
        """What one of the containers has of a volume in memory, from before this agent; None if all of them
        have ended by now, and what they had with them.
        """
        refusing: list[Container] = []
        for container in having:
            try:
                held = await self._take_from(container, name, place)
            except ProcessLookupError:
                continue
            if held is not None:
                return held
            refusing.append(container)
        if not refusing:
            return None
        raise Unavailable(
            f"volume {name} is in the memory of container {refusing[0].name}, which has had it since before "
            "this agent was started, and in a way that others cannot share: stop that container first"
        )

    async def _take_from(self, container: Container, name: str, place: str) -> _Held | None:
        """What a container has of a volume, None if others cannot share that. Raises ProcessLookupError."""
        for volume in container.spec.volumes:
            # One with users of its own shows other owners, and a part is not the whole.
            whole = volume.subpath is None and container.spec.userns.mode == "host"
            if volume.source != name or volume.type != "volume" or not whole:
                continue
            clone = partial(_clone_of, container, volume.target, place)
            try:
                return await _in_time(clone, f"volume {name}")
            except ProcessLookupError:
                raise
            except OSError:
                continue  # it has something else there now
        return None


def _has(container: Container, name: str) -> bool:
    return any(volume == name for _, volume in container.volumes)


def _clone_of(container: Container, target: str, place: str) -> _Held:
    """What a container that runs has mounted at a path, if that is a file system in memory. Raises
    ProcessLookupError if it has ended, and the agent has not heard of that yet.
    """
    pid = container.pid or 0
    try:
        namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(f"container {container.name} has ended") from None
    try:
        # The number may have gone to another process before it was opened, not after.
        if not is_still(pid, container.start_time):
            raise ProcessLookupError(f"container {container.name} has ended")
        held = _apart(Borrow(f"/proc/self/fd/{namespace}", target, "/"), place)
    finally:
        os.close(namespace)
    if syscalls.file_system_type(held.top) in _MAGIC_IN_MEMORY:
        return held
    held.close()
    raise OSError(f"container {container.name} has something else at {target} now")


def _apart(operation: MountOperation, place: str) -> _Held:
    """Mount in a namespace that has nothing else. The calling thread is to end after that."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    below = os.open(place, _DIRECTORY)
    try:
        operation.execute(below)
    finally:
        os.close(below)
    top = os.open(place, _DIRECTORY)
    try:
        if isinstance(operation, Borrow):  # the container may have it read-only; another need not
            syscalls.mount_setattr(top, "", syscalls.AT_EMPTY_PATH, clear=syscalls.MOUNT_ATTR_RDONLY)
        namespace = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fchdir(top)
            # pivot_root(2): the old root is then on top of the new one.
            syscalls.pivot_root(".", ".")
            syscalls.umount(".", syscalls.MNT_DETACH)
        except BaseException:
            os.close(namespace)
            raise
    except BaseException:
        os.close(top)
        raise
    return _Held(namespace, top)


async def _in_time(mount: Callable[[], _Held], what: str) -> _Held:
    """What is mounted in a thread of its own; what comes too late is unmounted again. Raises Unavailable."""
    lock = threading.Lock()
    made: list[_Held] = []
    given_up = False

    def work() -> None:
        held = mount()
        with lock:
            if not given_up:
                made.append(held)
                return
        held.close()

    try:
        async with asyncio.timeout(_PATIENCE):
            await in_thread(work)
        return made.pop()
    except TimeoutError:
        raise Unavailable(
            f"{what} was not mounted within {_PATIENCE:g} s: its server or device does not answer; "
            "see to that, then start the container again"
        ) from None
    finally:
        with lock:
            given_up = True
        for late in made:
            late.close_soon()


def _resolve(host: str) -> str:
    return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
