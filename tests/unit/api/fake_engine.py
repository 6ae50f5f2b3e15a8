# SPDX-License-Identifier: Apache-2.0
"""An engine in memory: what the calls need of the real one, and a record of what they asked for."""

from __future__ import annotations

import asyncio
import builtins
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mooring_agent.cgroups.resources import IoCount, Usage
from mooring_agent.config import AgentConfig
from mooring_agent.engine.container import Container
from mooring_agent.engine.containerfiles import FileStatus
from mooring_agent.engine.events import EventBus
from mooring_agent.engine.execplans import ExecSpec
from mooring_agent.engine.execution import Exec
from mooring_agent.engine.forwarding.origin import attributes_of
from mooring_agent.engine.logs import LogChunk
from mooring_agent.engine.outcome import Action, outcome
from mooring_agent.engine.resources import ContainerSpec, check_name, merge
from mooring_agent.errors import Conflict, NotFound
from mooring_agent.images.build.options import BuildOptions
from mooring_agent.images.build.pruning import CachePruned, CacheUsage
from mooring_agent.images.image import Image, Progress, ProgressEvent
from mooring_agent.network.records import Endpoint

from .fake_images import IMAGE, FakeCommits, FakeImages


class FakeStreams:
    """Streams that upper-case what they are sent, and end with it."""

    def __init__(self, tty: bool = False) -> None:
        self.tty = tty
        self.closed = False
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        yield 2, b"ready\n"
        while (piece := await self._pieces.get()) is not None:
            yield 1, piece.upper()
        self._ended.set_result(0)

    async def write(self, data: bytes) -> None:
        await self._pieces.put(data)

    async def close_stdin(self) -> None:
        await self._pieces.put(None)

    async def wait(self) -> int:
        return await asyncio.shield(self._ended)

    def close(self) -> None:
        self.closed = True


class FakeContainers:
    """Containers that do what they are told at once."""

    def __init__(self, events: EventBus) -> None:
        self.all: dict[str, Container] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.lines: list[LogChunk] = []
        self.streams: list[FakeStreams] = []
        self._events = events

    def get(self, reference: str) -> Container:
        for container in self.all.values():
            if reference == container.name or (len(reference) > 2 and container.id.startswith(reference)):
                return container
        raise NotFound(f"no such container: {reference}")

    def list(self) -> list[Container]:
        return list(self.all.values())

    def using_volume(self, name: str) -> builtins.list[str]:
        return [one.name for one in self.all.values() if any(volume == name for _, volume in one.volumes)]

    async def create(
        self, spec: ContainerSpec, *, name: str | None, auto_remove: bool = False, extra: Any = None
    ) -> Container:
        if spec.image != "web:1":
            raise NotFound(f"no such image: {spec.image}")
        name = name or "some_name"
        if any(container.name == name for container in self.all.values()):
            raise Conflict(f"container name {name} is in use")
        container = Container(
            id=secrets.token_hex(32),
            name=name,
            spec=spec,
            image_id=IMAGE.id,
            created_at=time.time(),
            managed=False,
            argv=spec.command or ("serve",),
            env=tuple(f"{key}={value}" for key, value in spec.env.items()),
            workdir="/",
            user="0",
            stop_signal="TERM",
            auto_remove=auto_remove,
            extra=extra or {},
        )
        container.volumes = tuple(
            (volume.target, volume.source or "") for volume in spec.volumes if volume.type == "volume"
        )
        self.all[container.id] = container
        return container

    async def start(self, reference: str) -> None:
        container = self.get(reference)
        container.status, container.pid, container.started_at = "running", 1, time.time()
        container.ports = tuple(replace(port, host=port.host or 40000) for port in container.spec.ports)
        container.endpoints = (
            Endpoint("bridge", container.id, "10.1.0.2", 24, "10.1.0.1", "02:6d:0a:01:00:02", "v0"),
        )
        self._events.publish("container", "start", container.id, {"name": container.name})

    async def _end(self, container: Container, code: int) -> None:
        container.status, container.exit_code, container.pid = "exited", code, None
        container.finished_at = time.time()
        for future in container.ended:
            future.set_result(code)
        container.ended.clear()

    async def stop(self, reference: str, timeout: float | None = None, signal: str | None = None) -> None:
        self.asked.append(("stop", timeout, signal))
        await self._end(self.get(reference), 0)

    async def restart(self, reference: str, timeout: float | None = None) -> None:
        self.asked.append(("restart", timeout))
        await self.start(reference)

    async def kill(self, reference: str, signal: str = "KILL") -> None:
        self.asked.append(("kill", signal))
        await self._end(self.get(reference), 137)

    async def pause(self, reference: str) -> None:
        self.get(reference).status = "paused"

    async def unpause(self, reference: str) -> None:
        self.get(reference).status = "running"

    async def rename(self, reference: str, name: str) -> None:
        self.get(reference).name = name

    async def remove(self, reference: str, *, force: bool = False, volumes: bool = False) -> None:
        container = self.get(reference)
        if container.running and not force:
            raise Conflict(f"container {container.name} is running")
        self.asked.append(("remove", force, volumes))
        del self.all[container.id]
        container.removed = True

    async def wait(self, reference: str, condition: str = "not-running") -> int:
        container = self.get(reference)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        container.ended.append(future)
        return await future

    async def update(self, reference: str, changes: dict[str, Any]) -> None:
        container = self.get(reference)
        self.asked.append(("update", changes))
        container.spec = merge(container.spec, changes)

    def free_name(self) -> str:
        return "free_name"

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        wanted = ContainerSpec.parse(spec, name=name)
        action = Action("create", "container", name, "it does not exist")
        if dry_run:
            return outcome([action], None, wanted.given, None)
        container = await self.create(wanted, name=name)
        await self.start(container.id)
        return outcome([action], None, wanted.given, container.view())

    async def delete(
        self, name: str, *, force: bool = True, timeout: float | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        self.asked.append(("delete", force, timeout, dry_run))
        return outcome([], None, None, None)

    def resize(self, reference: str, rows: int, cols: int) -> None:
        self.get(reference)
        self.asked.append(("resize", rows, cols))

    async def attach(self, reference: str, **wanted: bool) -> FakeStreams:
        self.asked.append(("attach", wanted))
        streams = FakeStreams(self.get(reference).spec.tty)
        self.streams.append(streams)
        return streams

    async def logs(self, reference: str, **wanted: Any) -> AsyncIterator[LogChunk]:
        self.asked.append(("logs", wanted))
        for line in self.lines:
            yield line
        if wanted["follow"]:
            await asyncio.Event().wait()

    async def top(self, reference: str) -> list[int]:
        return [1]

    async def stats(self, reference: str) -> Usage:
        return Usage(memory_bytes=1000, memory_max_usage=2000, cpu_ns=5000, pids=3)

    async def io_stats(self, reference: str) -> tuple[IoCount, ...]:
        return (IoCount("8:0", "Read", 4096, 1), IoCount("8:0", "Write", 8192, 2))

    def log_attributes(self, container: Container) -> dict[str, str]:
        return attributes_of(container, {})


class FakeExecs:
    """Execs that answer with what they were given, in capitals."""

    def __init__(self, containers: FakeContainers) -> None:
        self._containers = containers
        self.all: dict[str, Exec] = {}
        self.asked: list[tuple[Any, ...]] = []
        self.streams: list[FakeStreams] = []

    async def create(self, reference: str, spec: ExecSpec) -> Exec:
        made = Exec(secrets.token_hex(32), self._containers.get(reference).id, spec)
        self.all[made.id] = made
        return made

    def get(self, id: str) -> Exec:
        if id not in self.all:
            raise NotFound(f"no such exec: {id}")
        return self.all[id]

    def ids_of(self, container_id: str) -> list[str]:
        return [each.id for each in self.all.values() if each.container_id == container_id]

    def require_startable(self, process: Exec) -> None:
        if process.started:
            raise Conflict(f"exec {process.id} has been started already")

    async def start(self, id: str, *, detach: bool = False) -> FakeStreams | None:
        self.asked.append(("start", detach))
        self.get(id).started = self.get(id).running = True
        if detach:
            return None
        streams = FakeStreams(self.get(id).spec.tty)
        self.streams.append(streams)
        return streams

    def resize(self, id: str, rows: int, cols: int) -> None:
        self.get(id)
        self.asked.append(("resize", rows, cols))

    def signal(self, id: str, signal: str, target: str = "foreground") -> None:
        self.asked.append(("signal", signal, target))

    def foreground(self, id: str) -> dict[str, Any]:
        return {"pid": 1, "is_shell": True}

    def client_has_left(self, process: Exec) -> None:
        return

    async def run(self, reference: str, argv: tuple[str, ...], **options: Any) -> dict[str, Any]:
        self._containers.get(reference)
        self.asked.append(("run", argv, options))
        return {"exit_code": 3, "stdout": "out", "stderr": "", "truncated": False, "timed_out": False}


class FakeDeclared:
    """Declared resources of one kind."""

    def __init__(self, kind: str, **view: Any) -> None:
        self._kind = kind
        self._view = view
        self.views: dict[str, dict[str, Any]] = {}
        self.dropped: list[str] = []
        self.users_of: Callable[[str], builtins.list[str]] = lambda name: []

    def list(self) -> list[dict[str, Any]]:
        return list(self.views.values())

    def get(self, name: str) -> dict[str, Any]:
        if name not in self.views:
            raise NotFound(f"no such {self._kind}: {name}")
        return self.views[name]

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        check_name(self._kind, name)
        if not dry_run:
            created = "2026-01-02T03:04:05Z"
            self.views[name] = {"name": name, "labels": {}, "created_at": created, **self._view, **spec}
        return outcome([Action("create", self._kind, name, "it does not exist")], None, spec, None)

    async def delete(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        if users := self.users_of(name):
            raise Conflict(f"{self._kind} {name} is in use by container {', '.join(users)}")
        if not dry_run:
            self.views.pop(name, None)
        return outcome([], None, None, None)

    def name_anonymous(self) -> str:
        return self.ensure(None)

    def ensure(self, name: str | None) -> str:
        name = name or secrets.token_hex(32)
        self.views[name] = {
            "name": name,
            "path": f"/volumes/{name}",
            "labels": {},
            "driver_opts": {},
            "created_at": None,
            "anonymous": True,
        }
        return name

    async def drop_anonymous(self, names: Any) -> None:
        self.dropped += list(names)


class FakeFiles:
    """One file in every container."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def status(self, reference: str, path: str) -> FileStatus:
        return FileStatus("file", 5, 0o104755, 1_000_000_000, "")

    async def read(self, reference: str, path: str) -> tuple[FileStatus, AsyncIterator[bytes]]:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"archive"

        return await self.status(reference, path), pieces()

    async def write(
        self,
        reference: str,
        path: str,
        chunks: AsyncIterator[bytes],
        *,
        keep_kinds: bool = False,
        for_user: bool = False,
    ) -> None:
        content = b"".join([chunk async for chunk in chunks])
        self.asked.append((reference, path, content, keep_kinds, for_user))


class FakeBuilds:
    """Tells what it was asked, and fails as it is told."""

    def __init__(self) -> None:
        self.options: list[BuildOptions] = []
        self.contexts: list[bytes] = []
        self.failure: Exception | None = None

    async def build(self, options: BuildOptions, chunks: AsyncIterator[bytes], progress: Progress) -> Image:
        self.options.append(options)
        self.contexts.append(b"".join([chunk async for chunk in chunks]))
        progress(ProgressEvent("step", 1, 1, "Step 1/1 : FROM x"))
        progress(ProgressEvent("output", detail="said\n"))
        if self.failure is not None:
            raise self.failure
        return IMAGE

    async def cache(self) -> CacheUsage:
        return CacheUsage((), (), 0)

    async def prune_cache(self, **how: Any) -> CachePruned:
        return CachePruned(tuple(f"{name}={value}" for name, value in how.items()), 5)


class FakeEngine:
    """The engine's face towards the API."""

    def __init__(self, base: Path) -> None:
        self.config = AgentConfig.make(data_root=base / "data", run_root=base / "run")
        self.events = EventBus()
        self.containers = FakeContainers(self.events)
        self.execs = FakeExecs(self.containers)
        self.volumes = FakeDeclared("volume", path="/volumes/x", anonymous=False, driver_opts={})
        self.volumes.users_of = self.containers.using_volume
        self.groups = FakeDeclared("cgroup")
        self.image_service = FakeImages()
        self.builds = FakeBuilds()
        self.peers = SimpleNamespace()
        self.declared_images = self.image_service
        self.commits = FakeCommits()
        self.files = FakeFiles()
        self.switching = SimpleNamespace(no_way_in=lambda networks: "")
        self._networks = FakeDeclared(
            "network", subnet="10.1.0.0/24", gateway="10.1.0.1", internal=False, bridge="mr0000-0"
        )
        self.snapshotter = SimpleNamespace(
            driver="overlay", usage=lambda key: SimpleNamespace(bytes=4096, inodes=2)
        )
        self.torn_down = False

    def host(self) -> dict[str, Any]:
        return {
            "name": "here",
            "version": "0",
            "kernel": "6.1",
            "arch": "x86_64",
            "cpus": 2,
            "memory": 8 << 30,
            "cgroup": {"mode": "v2", "controllers": ["cpu", "memory", "pids"]},
            "images": 1,
            "storage_driver": "overlay",
            "obstacles": (),
            "data_root": str(self.config.data_root),
        }

    def network_list(self) -> list[dict[str, Any]]:
        return self._networks.list()

    def network_get(self, name: str) -> dict[str, Any]:
        return self._networks.get(name)

    async def network_put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        return await self._networks.put(name, spec, dry_run=dry_run)

    async def network_delete(self, name: str, *, dry_run: bool = False) -> dict[str, Any]:
        return await self._networks.delete(name, dry_run=dry_run)

    async def apply_state(self, document: dict[str, Any], *, dry_run: bool, prune: bool) -> dict[str, Any]:
        return {"changed": not dry_run, "items": [{"prune": prune, "document": document}], "failed": 0}
