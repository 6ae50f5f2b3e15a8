# SPDX-License-Identifier: Apache-2.0
"""The containers in which builds run their commands: nobody's but the build's, and gone with the command.

None of them is in the registry. So an agent that finds one, because its predecessor was killed, treats it as
what is left of a container: its process is killed, and its files, addresses and group go (engine.Engine).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from ..errors import Ended, InvalidSpec, MooringError, NotFound, Unavailable
from ..failpoints import reached
from ..images.build.options import RunLimits
from ..images.build.running import Output, RunBind, RunFile, RunMount, RunRequest, RunTmpfs
from ..images.turns import Cancelled, Stop
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, KeeperRefused
from ..linux.inotify import DirectoryWatch
from ..network.names import hosts_file
from ..network.service import NetworkService
from ..runtime.plan import Shape
from ..storage.snapshotter import Snapshotter
from .confinement import PLAIN
from .container import Container
from .launching import Launching, resources_of
from .lifecycle import LAUNCH_ATTEMPTS, Lifecycle
from .logs import LogReader, follow
from .naming import Naming
from .reserve import Berth, acquire, release
from .resources import ContainerSpec
from .resources.attachments import is_alone

logger = logging.getLogger(__name__)

T = TypeVar("T")

HOSTNAME = "build"
"""The same in every build, so that what writes it down gives the same layer."""

_UNKNOWN_EXIT = 255
_SIGKILL = 9
_LOOK = 0.2  # seconds between two looks at whether a build goes on
_KILL_TIMEOUT = 10.0
_GROUP_TIMEOUT = 5.0
_LOG_FILES = 4
_GROUP_FILE = "group"


@dataclass(eq=False)
class _Run:
    """One command that runs, and who is to be told of its end."""

    container: Container
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    given_up: asyncio.Event = field(default_factory=asyncio.Event)
    exit_code: int | None = None
    known: bool = True

    def end(self, exit_code: int, known: bool) -> None:
        """The process has ended."""
        if self.exit_code is None:
            self.exit_code, self.known = exit_code, known
            self.ended.set()
            self.container.wake()


class BuildRuns:
    """Runs commands in containers of their own."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        launching: Launching,
        snapshotter: Snapshotter,
        networks: NetworkService,
        naming: Naming,
    ) -> None:
        self._lifecycle = lifecycle
        self._launching = launching
        self._snapshotter = snapshotter
        self._networks = networks
        self._naming = naming
        self._runs: dict[str, _Run] = {}
        self._watch: DirectoryWatch | None = None

    def __contains__(self, id: str) -> bool:
        return id in self._runs

    def found(self, record: dict[str, Any]) -> None:
        """The keeper has told that a command runs: one whose start it had not answered before it was lost."""
        container = self._runs[record["id"]].container
        container.pid, container.start_time = record["pid"], record["start_time"]

    def exited(self, event: messages.Exited) -> bool:
        """A process has ended; False when it is not a build's."""
        run = self._runs.get(event.id)
        if run is not None:
            run.end(event.exit_code, event.known)
        return run is not None

    def lost_but(self, present: set[str]) -> None:
        """The keeper has told what it has: commands that are not among it have ended unseen."""
        for id, run in self._runs.items():
            if id not in present and run.container.pid is not None:
                run.end(_UNKNOWN_EXIT, False)

    def runner(self, loop: asyncio.AbstractEventLoop) -> Runner:
        """What runs commands for threads of a build."""
        return Runner(self, loop)

    async def run(self, request: RunRequest, output: Output, given_up: asyncio.Event) -> int | None:
        """Run a command; returns its exit code, None if it was given up. Nothing of it is left then.

        Raises what kept it from being started, Unavailable when its end was not seen.
        """
        container = _container(request)
        run = self._runs[container.id] = _Run(container, given_up=given_up)
        try:
            await self._prepare(container, request)
            await self._launch(run, request)
            reached("build-launched")
            await self._attend(run, output)
        finally:
            try:
                await self._clear(container)
            finally:
                del self._runs[container.id]
        if given_up.is_set():
            return None
        if not run.known:
            raise Unavailable("nobody saw the command end: the keeper was killed; build again")
        return run.exit_code

    # Starting

    async def _prepare(self, container: Container, request: RunRequest) -> None:
        """Addresses and directories."""
        self._launching.hierarchy.settings(resources_of(container.spec))
        container.group = self._launching.group_path(container)
        container.endpoints = tuple(
            self._networks.allocate(network.name, container.id)
            for network in container.spec.networks
            if not is_alone(network.name)
        )
        await self._naming.attend(container)
        self._launching.homes.make(container.id)
        self._launching.write_etc(container)
        etc = self._launching.etc_directory(container.id)
        if request.limits.extra_hosts:
            more = "".join(f"{line}\n" for line in _extra_hosts(request.limits.extra_hosts))
            (etc / "hosts").write_text(hosts_file(container.hostname, container.endpoints) + more)

    async def _launch(self, run: _Run, request: RunRequest) -> None:
        """Start it; once more where a launcher has gone with its keeper before it was a command."""
        for attempt in range(1, LAUNCH_ATTEMPTS + 1):
            client = await self._lifecycle.link.ready()
            if run.container.pid is not None or run.ended.is_set():
                return  # an earlier attempt had worked, as the keeper's successor has told
            try:
                return await self._launch_with(client, run.container, request)
            except (KeeperLost, Ended):
                if attempt == LAUNCH_ATTEMPTS:
                    raise

    async def _launch_with(self, client: KeeperClient, container: Container, request: RunRequest) -> None:
        shape = self._launching.launcher_shape(container, PLAIN)
        berth = await acquire(client, shape)
        try:
            await self._give(container, request, client, shape, berth)
        except KeeperLost:
            raise
        except (MooringError, OSError) as error:
            await release(client, berth)
            if isinstance(error, OSError):
                raise MooringError(f"the command could not be started: {error}") from error
            raise

    async def _give(
        self, container: Container, request: RunRequest, client: KeeperClient, shape: Shape, berth: Berth
    ) -> None:
        parent = self._launching.parent_group(container.spec)
        if shape.unified:
            container.group = f"{parent}/{berth.slot}"
            etc = self._launching.etc_directory(container.id)
            (etc / _GROUP_FILE).write_text(container.group)  # it has not the name by which it would be swept
        self._launching.restrict_devices(f"{parent}/{berth.slot}", container.spec)
        names = self._networks.interface_names(container.endpoints)
        for number, endpoint in enumerate(container.endpoints):
            routes = (4, 6) if number == 0 else ()
            await self._networks.connect(endpoint, berth.pid, names[number], routes)
        rootfs = self._snapshotter.rootfs(request.key)
        if request.stubs is not None:
            rootfs = replace(rootfs, lower=(request.stubs, *rootfs.lower))
        mounts = _mounts(request.mounts, self._launching.etc_directory(container.id))
        plan = self._launching.plan(container, rootfs, {}, mounts=list(mounts))
        order = messages.Launch(
            slot=berth.slot,
            id=container.id,
            terminal=False,
            stdin=False,
            log_directory=self._launching.log_directory(container),
            log_size=container.spec.log.max_size,
            log_files=_LOG_FILES,
        )
        launched = await client.launch(order, plan.encode())
        container.pid, container.start_time = launched.pid, launched.start_time

    # Until its end

    async def _attend(self, run: _Run, output: Output) -> None:
        """Hand on what it writes until it has ended, or kill it when the build is given up."""
        watch = self._watch = self._watch or DirectoryWatch()
        directory = self._launching.log_directory(run.container)

        async def hand_on() -> None:
            chunks = follow(
                LogReader(directory),
                directory,
                watch,
                run.ended.is_set,
                run.container.wakers,
            )
            async for chunk in chunks:
                output(chunk.stream, chunk.data)

        handing = asyncio.ensure_future(hand_on())
        giving_up = asyncio.ensure_future(run.given_up.wait())
        try:
            await asyncio.wait((handing, giving_up), return_when=asyncio.FIRST_COMPLETED)
            if not handing.done():
                await self._kill(run)
            await handing
        finally:
            giving_up.cancel()
            handing.cancel()

    async def _kill(self, run: _Run) -> None:
        with suppress(KeeperLost, KeeperRefused):
            await self._lifecycle.link.request(messages.Signal(run.container.id, _SIGKILL))
        group = self._launching.hierarchy.group(run.container.group)
        await asyncio.to_thread(group.kill)
        try:
            await asyncio.wait_for(run.ended.wait(), _KILL_TIMEOUT)
        except TimeoutError:
            run.end(_UNKNOWN_EXIT, False)

    async def _clear(self, container: Container) -> None:
        """Let nothing of it stay."""
        group = self._launching.hierarchy.group(container.group)
        try:
            await asyncio.to_thread(group.kill)
            await asyncio.to_thread(group.remove, _GROUP_TIMEOUT)
        except MooringError as error:
            logger.warning("group of a build stays for now group=%s error=%r", container.group, error.message)
        with suppress(KeeperLost, KeeperRefused, Unavailable):
            await self._lifecycle.link.request(messages.Forget(container.id))
        self._naming.withdraw(container)
        self._networks.release(container.id)
        for directory in (self._launching.directory(container), self._launching.etc_directory(container.id)):
            shutil.rmtree(directory, ignore_errors=True)


class Runner:
    """Runs commands for threads: images/build `Runner`."""

    def __init__(self, runs: BuildRuns, loop: asyncio.AbstractEventLoop) -> None:
        self._runs = runs
        self._loop = loop

    def run(self, request: RunRequest, output: Output, stop: Stop) -> int:
        """See images/build/running.py."""
        given_up = asyncio.Event()
        work = asyncio.run_coroutine_threadsafe(self._runs.run(request, output, given_up), self._loop)
        exit_code = awaited(work, stop, lambda: self._loop.call_soon_threadsafe(given_up.set))
        if exit_code is None:
            stop.check()
            raise Cancelled("the command was given up")
        return exit_code


def awaited(work: concurrent.futures.Future[T], stop: Stop, give_up: Callable[[], object]) -> T:
    """What the event loop does for a thread of a build; `give_up`, which may raise, is called when `stop`
    says so.
    """
    while not concurrent.futures.wait((work,), _LOOK).done:
        try:
            stop.check()
        except Cancelled:
            give_up()
    return work.result()


def abandoned_group(etc_directory: Path) -> str | None:
    """The control group of a command whose agent was killed, where that is not called after its id."""
    try:
        return (etc_directory / _GROUP_FILE).read_text(encoding="utf-8")
    except OSError:
        return None


def _container(request: RunRequest) -> Container:
    spec = ContainerSpec.parse(_spec(request), name="build")
    return Container(
        id=request.key,
        name=f"build-{request.key[:12]}",
        spec=spec,
        image_id="",
        created_at=time.time(),
        managed=False,
        argv=request.argv,
        env=request.env,
        workdir=request.workdir,
        user=request.user,
        stop_signal="KILL",
    )


def _spec(request: RunRequest) -> dict[str, Any]:
    limits: RunLimits = request.limits
    network = "bridge" if request.network == "default" else request.network
    given: dict[str, Any] = {
        "image": "build",
        "networks": [network],
        "memory": limits.memory,
        "memory_swap": limits.memory_swap,
        "cpus": limits.cpus,
        "cpu_shares": limits.cpu_shares,
        "cpuset_cpus": limits.cpuset_cpus,
        "cpuset_mems": limits.cpuset_mems,
        "shm_size": limits.shm_size,
        "ulimits": limits.ulimits or None,
        "cgroup": limits.cgroup,
    }
    if network != "host":
        given["hostname"] = HOSTNAME
    return {name: value for name, value in given.items() if value is not None}


def _mounts(mounts: tuple[RunMount, ...], etc: Path) -> Iterator[dict[str, Any]]:
    """The mounts as the runtime-spec has them; files are written to `etc` first."""
    for number, mount in enumerate(mounts):
        if isinstance(mount, RunTmpfs):
            options = ["nosuid", "nodev", "mode=1777", *([f"size={mount.size}"] if mount.size else ())]
            yield {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}
        elif isinstance(mount, RunFile):
            path = etc / f"file-{number}"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as file:
                file.write(mount.content)
            os.chown(path, mount.uid, mount.gid)
            os.chmod(path, mount.mode)
            yield _bind(mount.target, path, read_only=True)
        elif len(mount.sources) == 1:
            yield _bind(mount.target, mount.sources[0], read_only=mount.read_only)
        else:
            yield _overlay(mount)


def _bind(target: str, source: Path, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", *(["rro"] if read_only else ())]
    return {"destination": target, "type": "bind", "source": str(source), "options": options}


def _overlay(mount: RunBind) -> dict[str, Any]:
    """Several directories as one, read-only since there is none to write to."""
    if not mount.sources:
        raise NotFound(f"--mount: there is nothing to mount at {mount.target}")
    lower = "lowerdir=" + ":".join(map(str, mount.sources))
    return {"destination": mount.target, "type": "overlay", "source": "overlay", "options": ["ro", lower]}


def _extra_hosts(entries: tuple[str, ...]) -> Iterator[str]:
    """Lines of hosts(5) from `name:address`, as docker writes them."""
    for entry in entries:
        name, mark, address = entry.partition("=") if "=" in entry else entry.partition(":")
        if not mark or not name or not address or any(sign.isspace() for sign in entry):
            raise InvalidSpec(f"extra host {entry!r} is not valid: expected NAME:ADDRESS")
        yield f"{address}\t{name}"
