# SPDX-License-Identifier: Apache-2.0
"""Further processes in running containers."""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import signal as signals
import struct
import termios
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import Conflict, InvalidSpec, NotFound
from ..keeper import messages
from ..keeper.client import StartRefused
from ..linux.syscalls import TIOCSIG
from ..runtime.capabilities import CAPABILITIES, resolve
from ..runtime.compile import compile_process
from ..runtime.join import start_time
from ..runtime.plan import JoinPlan
from .container import Container
from .events import EventBus
from .foreground import foreground
from .launching import Launching
from .lifecycle import Lifecycle
from .oci import environment, process_config
from .registry import Registry
from .resources import signal_number
from .streams import ExecStreams

# Finished execs that are remembered, so that their exit code can still be asked for.
_REMEMBERED = 512
_KILL_GRACE = 2.0
# What a shell gives for a command that is there and cannot be run; docker's exec gives it for an unknown user
# too.
_CANNOT_RUN = 126


@dataclass(frozen=True)
class ExecSpec:
    """What to run, and which of its streams somebody wants."""

    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    workdir: str | None = None
    user: str | None = None
    tty: bool = False
    stdin: bool = False
    stdout: bool = True
    stderr: bool = True
    privileged: bool = False
    rows: int | None = None
    cols: int | None = None


@dataclass(eq=False)
class Exec:
    """One such process. `exit_code` is None until it has ended."""

    id: str
    container_id: str
    spec: ExecSpec
    pid: int | None = None
    start_time: int = 0
    running: bool = False
    started: bool = False
    exit_code: int | None = None
    master: int = -1
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def view(self) -> dict[str, Any]:
        """As the Mooring API shows it."""
        return {
            "id": self.id,
            "container": self.container_id,
            "running": self.running,
            "exit_code": self.exit_code,
            "pid": self.pid,
        }


class Execs:
    """All execs of this agent, the finished ones for a while."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, launching: Launching, events: EventBus
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._launching = launching
        self._events = events
        self._execs: dict[str, Exec] = {}

    async def create(self, reference: str, spec: ExecSpec) -> Exec:
        """Note an exec; `start` runs it. Raises NotFound, Conflict, InvalidSpec."""
        container = self._running(reference)
        if not spec.argv or not spec.argv[0]:
            raise InvalidSpec(
                f"exec in container {container.name} has no command: expected at least one word"
            )
        process = Exec(secrets.token_hex(32), container.id, spec)
        self._forget_old()
        self._execs[process.id] = process
        return process

    def get(self, id: str) -> Exec:
        """The exec of this id. Raises NotFound."""
        try:
            return self._execs[id]
        except KeyError:
            raise NotFound(f"no such exec: {id}; it may have ended long ago") from None

    def ids_of(self, container_id: str) -> list[str]:
        """The ids of those of a container that have not ended."""
        return [
            process.id
            for process in self._execs.values()
            if process.container_id == container_id and process.exit_code is None
        ]

    async def start(self, id: str, *, detach: bool = False) -> ExecStreams | None:
        """Run it. Returns its streams, None with `detach`. Raises Conflict when it was started before."""
        process = self.get(id)
        if process.started:
            raise Conflict(f"exec {id} has been started already: create another one")
        container = self._running(process.container_id)
        process.started = True
        spec = process.spec
        client = await self._lifecycle.link.ready()
        request = messages.Exec(
            id=id,
            container=container.id,
            terminal=spec.tty,
            stdin=spec.stdin and not detach,
            stdout=spec.stdout and not detach,
            stderr=spec.stderr and not detach,
        )
        try:
            launched, descriptors = await client.execute(request, self._plan(container, spec).encode())
        except StartRefused as error:
            process.exit_code = 127 if error.exit_code == 127 else _CANNOT_RUN
            raise
        if not process.ended.done():
            process.pid, process.start_time, process.running = launched.pid, launched.start_time, True
        self._events.publish("container", "exec_start", container.id, {"name": container.name, "execID": id})
        if spec.tty and not process.ended.done():
            process.master = os.dup(descriptors[0])
        if detach:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        return self._streams(process, descriptors)

    def resize(self, id: str, rows: int, cols: int) -> None:
        """Set the size of its terminal, in characters; one without a terminal has none."""
        process = self.get(id)
        if process.master >= 0:
            fcntl.ioctl(process.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def signal(self, id: str, signal: str, target: str = "foreground") -> None:
        """Send a signal to its process ("leader") or to its terminal's foreground group.

        The latter never reaches a shell that waits at its prompt, except for INT, which a terminal's line
        discipline delivers itself (TIOCSIG), whatever mode it is in.
        """
        process = self._alive(id)
        number = signal_number(signal)
        if target != "leader" and process.master < 0:
            raise Conflict(f"exec {id} has no terminal: only its leader can get a signal")
        try:
            if target == "leader":
                os.kill(process.pid or 0, number)
            elif number in (signals.SIGINT, signals.SIGQUIT, signals.SIGTSTP):
                fcntl.ioctl(process.master, TIOCSIG, number)
            else:
                front = foreground(process.pid or 0, process.master)
                if not front["is_shell"] and front["pgid"] > 1:  # else there is none in front
                    os.killpg(front["pgid"], number)
        except OSError:
            raise Conflict(f"exec {id} is not running") from None

    def foreground(self, id: str) -> dict[str, Any]:
        """What its terminal's foreground group is doing. Raises Conflict without a terminal."""
        process = self._alive(id)
        if process.master < 0:
            raise Conflict(f"exec {id} has no terminal")
        try:
            return foreground(process.pid or 0, process.master)
        except OSError:
            raise Conflict(f"exec {id} has ended") from None

    async def run(
        self,
        reference: str,
        argv: tuple[str, ...],
        *,
        env: Mapping[str, str] | None = None,
        workdir: str | None = None,
        user: str | None = None,
        stdin: bytes | None = None,
        timeout: float | None = None,
        max_output: int = 1 << 20,
    ) -> dict[str, Any]:
        """Run a command to its end and capture what it writes, at most `max_output` bytes of each stream.

        After `timeout` seconds it is killed; the answer then says so.
        """
        process = await self.create(
            reference,
            ExecSpec(
                argv=argv,
                env=tuple(f"{key}={value}" for key, value in (env or {}).items()),
                workdir=workdir,
                user=user,
                stdin=stdin is not None,
            ),
        )
        streams = await self.start(process.id)
        assert streams is not None
        captured = {1: bytearray(), 2: bytearray()}
        sizes = {1: 0, 2: 0}

        async def feed() -> None:
            if stdin is not None:
                await streams.write(stdin)
                await streams.close_stdin()

        async def read() -> None:
            async for stream, piece in streams.output():
                sizes[stream] += len(piece)
                room = max_output - len(captured[stream])
                captured[stream] += piece[:room]

        feeding = asyncio.ensure_future(feed())
        reading = asyncio.ensure_future(read())
        try:
            done, _ = await asyncio.wait([reading], timeout=timeout)
            timed_out = not done
            if timed_out:
                await self._kill(process)
                await asyncio.wait([reading], timeout=_KILL_GRACE)
            exit_code = await asyncio.wait_for(streams.wait(), _KILL_GRACE * 5)
        finally:
            feeding.cancel()
            reading.cancel()
            await asyncio.gather(feeding, reading, return_exceptions=True)
            streams.close()
        return {
            "exit_code": exit_code,
            "stdout": captured[1].decode("utf-8", "replace"),
            "stderr": captured[2].decode("utf-8", "replace"),
            "truncated": any(size > max_output for size in sizes.values()),
            "timed_out": timed_out,
        }

    def exited(self, event: messages.Exited) -> None:
        """News from the keeper: a process that is not a container's has ended."""
        process = self._execs.get(event.id)
        if process is not None:
            process.running, process.exit_code, process.pid = False, event.exit_code, None
            if process.master >= 0:
                os.close(process.master)
                process.master = -1
            if not process.ended.done():
                process.ended.set_result(event.exit_code)
            self._events.publish(
                "container",
                "exec_die",
                process.container_id,
                {"execID": event.id, "exitCode": str(event.exit_code)},
            )
        self._lifecycle.run_soon(self._lifecycle.link.request(messages.Forget(event.id)))

    async def _kill(self, process: Exec) -> None:
        await self._lifecycle.link.request(messages.Signal(process.id, signals.SIGKILL))

    def _plan(self, container: Container, spec: ExecSpec) -> JoinPlan:
        capabilities = (
            list(CAPABILITIES)
            if spec.privileged
            else list(resolve(container.spec.cap_add, container.spec.cap_drop))
        )
        env = environment(container.env)
        if spec.tty:
            env.setdefault("TERM", "xterm")
        env.update(environment(spec.env))
        process = process_config(
            argv=spec.argv,
            env=tuple(f"{key}={value}" for key, value in env.items()),
            workdir=spec.workdir or container.workdir,
            terminal=spec.tty,
            capabilities=capabilities,
            no_new_privileges=container.spec.no_new_privileges,
            rows=spec.rows,
            columns=spec.cols,
        )
        user = container.user if spec.user is None else spec.user
        seccomp = None if spec.privileged else self._launching.seccomp_path(container.spec)
        return JoinPlan(
            pid=container.pid or 0,
            start_time=container.start_time,
            groups=self._launching.group_directories(container),
            process=compile_process(process, {"org.mooring.user": user or "0"}, seccomp),
            unified=not self._launching.hierarchy.can_rename,
        )

    def _streams(self, process: Exec, descriptors: list[int]) -> ExecStreams:
        spec = process.spec

        async def stdin_closed() -> None:
            if process.running:
                await self._lifecycle.link.request(messages.CloseStdin(process.id))

        if spec.tty:
            master = descriptors[0]
            return ExecStreams(
                tty=True,
                stdin=os.dup(master),
                outputs={1: master},
                ended=process.ended,
                on_stdin_closed=stdin_closed,
            )
        rest = list(descriptors)
        stdin = rest.pop(0) if spec.stdin else -1
        outputs = {stream: rest.pop(0) for stream, wanted in ((1, spec.stdout), (2, spec.stderr)) if wanted}
        return ExecStreams(
            tty=False, stdin=stdin, outputs=outputs, ended=process.ended, on_stdin_closed=stdin_closed
        )

    def _running(self, reference: str) -> Container:
        container = self._registry.get(reference)
        if container.status == "paused":
            raise Conflict(f"container {container.name} is paused: unpause it first")
        if container.status != "running":
            raise Conflict(f"container {container.name} is not running: start it first")
        return container

    def _alive(self, id: str) -> Exec:
        process = self.get(id)
        try:
            if process.running and process.pid and start_time(process.pid) == process.start_time:
                return process
        except OSError:
            pass  # it has ended, and the news is on its way
        raise Conflict(f"exec {id} is not running")

    def _forget_old(self) -> None:
        """Keep some of those that have ended, and of those that were never started."""
        finished = [
            id for id, process in self._execs.items() if process.exit_code is not None or not process.started
        ]
        for id in finished[: max(0, len(finished) - _REMEMBERED)]:
            del self._execs[id]
