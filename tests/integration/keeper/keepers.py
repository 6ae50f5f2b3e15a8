# SPDX-License-Identifier: Apache-2.0
"""A keeper of a test's own, without an agent: the test speaks to it through the agent's client."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from harness.agent import AgentFailed, directory_for_roots
from harness.remains import Traces
from harness.waiting import PATIENCE, eventually, has_died
from mooring_agent.cgroups import hierarchy
from mooring_agent.config import AgentConfig
from mooring_agent.engine.launching import Launching
from mooring_agent.engine.logs import LogReader
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient, KeeperLost, KeeperRefused
from mooring_agent.runtime.join import start_time
from mooring_agent.runtime.mounts import Overlay
from mooring_agent.runtime.plan import JoinPlan, LaunchPlan, Process, Shape

T = TypeVar("T")

LIMIT = 60.0 * PATIENCE  # seconds that one session of a test may take
GONE_WITHIN = 10.0
PATH = "PATH=/bin:/usr/bin:/sbin:/usr/sbin"


class Session:
    """One connection to the keeper, with the ends of processes that it has told of."""

    def __init__(self, keeper: KeeperUnderTest, client: KeeperClient) -> None:
        self.keeper = keeper
        self.client = client
        self.exits: dict[str, messages.Exited] = {}
        self._news = asyncio.Event()
        client.on_exit = self._exited

    def _exited(self, event: messages.Exited) -> None:
        self.exits[event.id] = event
        self._news.set()

    async def acquire(self, shape: Shape | None = None) -> messages.Slot:
        """Get a launcher."""
        answer, _ = await self.client.request(messages.Acquire(vars(shape or self.keeper.shape)))
        assert isinstance(answer, messages.Slot)
        return answer

    async def warm_up(self) -> None:
        """Have the keeper make what it makes but once, before anybody counts what it has open."""
        slot = await self.acquire()
        await self.client.request(messages.Release(slot.slot))
        await until(lambda: launchers(self.client.identity.pid) == [])

    async def launch(
        self,
        *argv: str,
        shape: Shape | None = None,
        terminal: bool = False,
        stdin: bool = False,
        log_size: int = 0,
        log_files: int = 3,
        **options: Any,
    ) -> str:
        """Start a container; its id."""
        slot = await self.acquire(shape)
        id = secrets.token_hex(32)
        self.keeper.note_group(id, slot)
        plan = self.keeper.plan(id, *argv, **options)
        plan = replace(plan, process=replace(plan.process, terminal=terminal))
        request = messages.Launch(
            slot=slot.slot,
            id=id,
            terminal=terminal,
            stdin=stdin,
            log_directory=self.keeper.log_directory(id),
            log_size=log_size,
            log_files=log_files,
        )
        await self.client.launch(request, plan.encode())
        return id

    async def execute(
        self, container: str, *argv: str, terminal: bool = False, stdin: bool = False, **options: Any
    ) -> tuple[str, messages.Launched, list[int]]:
        """Start a process in a container; its id, what was answered and its streams."""
        id = secrets.token_hex(32)
        record = (await self.records())[container]
        plan = JoinPlan(
            pid=record["pid"],
            start_time=record["start_time"],
            groups=self.keeper.directories_of(container),
            process=Process(argv, (PATH,), terminal=terminal, **options),
            unified=self.keeper.shape.unified,
        )
        request = messages.Exec(id, container, terminal=terminal, stdin=stdin, stdout=True, stderr=True)
        launched, descriptors = await self.client.execute(request, plan.encode())
        return id, launched, descriptors

    async def ended(self, id: str) -> messages.Exited:
        """Wait until the keeper tells of the end of `id`."""
        while id not in self.exits:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), 20 * PATIENCE)
        return self.exits[id]

    async def clear(self) -> None:
        """End and forget everything, and remove what is left of containers."""
        records = await self.records()
        for id, record in records.items():
            if record["exit_code"] is None and record["container"] == id:
                with suppress(KeeperRefused):  # it has ended meanwhile
                    await self.client.request(messages.Signal(id, signal.SIGKILL))
        for id, record in records.items():
            if record["exit_code"] is None:
                await self.ended(id)
            await self.client.request(messages.Forget(id))
        for id in list(self.keeper.group_names):
            await until(partial(self.keeper.remove_group, id))

    async def records(self) -> dict[str, dict[str, Any]]:
        """The keeper's inventory by id."""
        _, descriptors = await self.client.request(messages.Inventory())
        found = json.loads(messages.read_memory_file(descriptors[0]))
        return {record["id"]: record for record in found}


class KeeperUnderTest:
    """The directories, groups and processes of one keeper. `base` must be short: a socket is below it."""

    def __init__(self, rootfs: Path) -> None:
        self.base = Path(tempfile.mkdtemp(prefix="mrkt-", dir=directory_for_roots()))
        self.rootfs = rootfs
        self.config = AgentConfig.make(
            data_root=self.base / "data",
            run_root=self.base / "run",
            cgroup_parent=f"mrkt-{secrets.token_hex(4)}",
        )
        self.run_root = self.config.run_root
        self.run_root.mkdir()
        self.hierarchy = hierarchy.detect()
        self._launching = Launching(self.config, self.hierarchy, lambda _: "")
        self.shape = self._launching.shape(self.config.cgroup_parent)
        self.traces = Traces(
            self.base, self.config.cgroup_parent, self.config.nft_table, self.config.bridge_prefix
        )
        self.pids: set[int] = set()
        self.group_names: dict[str, str] = {}

    def run(self, work: Callable[[Session], Awaitable[T]], *, connect: bool = True, clear: bool = True) -> T:
        """Connect, do `work`, end every process, disconnect."""

        async def connected() -> T:
            client = KeeperClient(self.run_root)
            session = Session(self, client)
            if connect:
                await client.connect()
                self.pids |= {client.identity.pid, client.identity.guardian}
            try:
                result = await work(session)
                if connect and clear:
                    await session.clear()
                return result
            finally:
                client.close()

        return asyncio.run(asyncio.wait_for(connected(), LIMIT))

    def plan(self, id: str, *argv: str, **options: Any) -> LaunchPlan:
        """A container of the root file system that all share, with a layer of its own to write to."""
        directory = self.base / "data" / id
        for name in ("upper", "work"):
            (directory / name).mkdir(parents=True)
        root = Overlay((str(self.rootfs),), str(directory / "upper"), str(directory / "work"))
        common = {"root": root, "process": Process(tuple(argv), (PATH,))}
        return LaunchPlan(id=id, group=id, **{**common, **options})

    def log_directory(self, id: str) -> str:
        return str(self.base / "data" / id / "log")

    def output(self, id: str, stream: int = 1) -> bytes:
        """What a container has written, as its log has it."""
        reader = LogReader(self.log_directory(id))
        try:
            return b"".join(chunk.data for chunk in reader.read() if chunk.stream == stream)
        finally:
            reader.close()

    def groups(self) -> set[str]:
        """The names of the groups below ours, in any hierarchy."""
        return {
            entry.name
            for parent in self.shape.groups
            if os.path.isdir(parent)
            for entry in os.scandir(parent)
            if entry.is_dir()
        }

    def log(self) -> str:
        """What the keeper has complained about."""
        path = self.run_root / "keeper/log"
        return path.read_text() if path.exists() else ""

    def destroy(self) -> None:
        """End everything in good order. Raises AgentFailed on what is left, and removes it by force."""
        problems = []
        try:
            self.run(self._shut_down, clear=False)
            for pid in self.pids:
                eventually(partial(has_died, pid), GONE_WITHIN, f"end of {pid}")
            for name in self.groups():
                self.hierarchy.group(f"{self.config.cgroup_parent}/{name}").remove(5)
            self.hierarchy.group(self.config.cgroup_parent).remove(5)
        except (AssertionError, OSError, TimeoutError) as error:
            problems.append(f"it did not end in good order: {error!r}")
        if "Traceback" in self.log():
            problems.append(f"its log has a traceback:\n{self.log()}")
        problems += [f"left behind: {each}" for each in self.traces.wait_until_gone(5)]
        self.traces.sweep()
        shutil.rmtree(self.base, ignore_errors=True)
        if problems:
            raise AgentFailed("\n".join(problems))

    def note_group(self, id: str, slot: messages.Slot) -> None:
        """Remember the group that a container will have: its launcher's, which only cgroup v1 can rename."""
        self.group_names[id] = slot.slot if self.shape.unified else id

    def directories_of(self, id: str) -> tuple[str, ...]:
        """The directories of a container's group."""
        return tuple(f"{parent}/{self.group_names[id]}" for parent in self.shape.groups)

    def remove_group(self, id: str) -> bool:
        """Remove a container's group, which is the agent's work; False when it is still in use."""
        try:
            for directory in self.directories_of(id):
                if os.path.isdir(directory):
                    os.rmdir(directory)
        except OSError:
            return False
        del self.group_names[id]
        return True

    async def _shut_down(self, session: Session) -> None:
        await session.client.request(messages.Configure(vars(self.shape), 0))
        await session.clear()
        try:
            await session.client.request(messages.Shutdown())
        except KeeperLost:
            return


async def until(check: Callable[[], object], timeout: float = 10.0) -> None:
    """`harness.waiting.eventually` beside a client that has to go on."""
    deadline = time.monotonic() + timeout * PATIENCE
    while not check():
        assert time.monotonic() < deadline, "it did not come true in time"
        await asyncio.sleep(0.01)


def launchers(keeper: int) -> list[int]:
    """The children of the keeper that are no container or exec yet."""
    found = []
    for pid in children(keeper):
        try:
            with open(f"/proc/{pid}/comm", encoding="utf-8") as file:
                name = file.read().strip()
            with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
                state = file.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if name == "mooring-launch" and state != "Z":
            found.append(pid)
    return found


def slots(keeper: KeeperUnderTest) -> set[str]:
    """The groups of launchers that have not become a container."""
    return {name for name in keeper.groups() if name.startswith("slot-")} - set(keeper.group_names.values())


def has_ended(pid: int) -> bool:
    """Whether there is no process of this number."""
    return not os.path.exists(f"/proc/{pid}")


def descriptors(pid: int) -> list[str]:
    """What the descriptors of a process are, sorted."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return sorted(found)


def children(pid: int) -> list[int]:
    """The processes whose parent is `pid`."""
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return [int(child) for child in file.read().split()]


def kill_and_wait(pid: int) -> None:
    """Kill a process and wait until it is gone, or another one has its number."""
    started = start_time(pid)
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_WITHIN * PATIENCE
    while time.monotonic() < deadline:
        try:
            if start_time(pid) != started:
                return
        except OSError:
            return
        time.sleep(0.005)
    raise AssertionError(f"process {pid} is still there")
