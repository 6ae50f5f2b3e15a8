# SPDX-License-Identifier: Apache-2.0
"""Further processes in running containers."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import secrets
import signal as signals
import struct
import termios
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from ..errors import Conflict, InvalidSpec, MooringError, NotFound, Unavailable
from ..failpoints import reached
from ..keeper import messages
from ..keeper.client import (
    JoinerGone,
    KeeperClient,
    KeeperLost,
    KeeperRefused,
    KeeperSilent,
    StartRefused,
)
from ..linux.syscalls import TIOCSIG
from ..runtime.join import is_still
from .container import Container
from .events import EventBus
from .execplans import ExecPlans, ExecSpec, KnownPlan, arguments
from .execstandby import ExecStandby
from .execution import Exec
from .foreground import foreground
from .launching import Launching
from .lifecycle import Lifecycle
from .registry import Registry
from .resources import signal_number
from .streams import ExecStreams

# Finished execs that are remembered, so that their exit code can still be asked for. The keeper has a
# record of each, so that the next agent knows it too.
_REMEMBERED = 256
# Joiners that are given a plan, should each be killed before it has begun with that: more than wait for one.
_JOINERS_TRIED = 3
_KILL_GRACE = 2.0
_UNKNOWN_EXIT = 255
# What the keeper keeps of an exec's spec for the next agent, and how long it may be.
_NOTED = ("argv", "workdir", "user", "tty", "stdin", "stdout", "stderr", "privileged", "hangs_up", "probe")
_NOTE_MAX = 4096
# How long a terminal that hangs up with its client waits for one to come back after a restart of the agent.
_RETURN_WITHIN = 120.0


class Execs:
    """All execs of this agent, the finished ones for a while."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, launching: Launching, events: EventBus
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._plans = ExecPlans(launching)
        # Those of users stay remembered, whatever is asked in between.
        self._probe_plans = ExecPlans(launching)
        self._standby = ExecStandby(lifecycle)
        self._events = events
        self._execs: dict[str, Exec] = {}
        # Set when the agent is about to end: then clients are cut off, and have not left.
        self.leaving = False

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
        self._tell(process, container, f"exec_create: {_command(spec)}")
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

    def require_startable(self, process: Exec) -> Container:
        """The container that it can be started in. Raises Conflict where it cannot."""
        if process.started:
            raise Conflict(f"exec {process.id} has been started already: create another one")
        return self._running(process.container_id)

    async def start(self, id: str, *, detach: bool = False) -> ExecStreams | None:
        """Run it. Returns its streams, None with `detach`. Raises Conflict when it was started before."""
        process = self.get(id)
        container = self.require_startable(process)
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
            note=_note(spec, detach),
        )
        # Nobody waits for a probe, so that none gets a joiner that stands by for somebody else.
        known = (self._probe_plans if spec.probe else self._plans).plan(container, spec)
        args = arguments(spec.argv)
        joiner = "" if detach or spec.probe else self._standby.take(container, known, args)
        process.asked = True
        try:
            launched, descriptors = await self._execute(client, request, known, args, joiner)
        except MooringError as error:
            if await self._runs_unheard(process, error, detach=detach):
                return None
            raise
        reached("exec.started")
        if not spec.probe:
            self._standby.note(container, known)
        if not process.ended.done():
            process.pid, process.start_time, process.running = launched.pid, launched.start_time, True
        self._tell_start(process, container)
        if spec.tty and not process.ended.done():
            process.master = os.dup(descriptors[0])
        if detach:
            for descriptor in descriptors:
                os.close(descriptor)
            return None
        return self._streams(process, descriptors)

    async def _runs_unheard(self, process: Exec, error: MooringError, *, detach: bool) -> bool:
        """Whether a process whose start has failed has begun all the same, and nobody wants its streams. Else
        it gets an exit code, that of a shell if it is known that it has not begun.
        """
        if isinstance(error, StartRefused):
            process.refuse(error.exit_code)
            return False
        if isinstance(error, KeeperLost) and not isinstance(error, KeeperSilent):
            with suppress(Unavailable):
                await self._lifecycle.link.ready()  # `take_inventory` has told what there is
            if detach and process.exit_known and (process.running or process.exit_code is not None):
                return True
            process.unheard, process.exit_code = True, None
            if process.running:
                self.kill_group(process)
                await asyncio.wait([process.ended], timeout=_KILL_GRACE)
        if process.exit_code is None and not process.running:
            process.exit_code, process.exit_known = _UNKNOWN_EXIT, False
        return False

    async def _execute(
        self,
        client: KeeperClient,
        request: messages.Exec,
        known: KnownPlan,
        args: tuple[str, ...],
        joiner: str,
    ) -> tuple[messages.Launched, list[int]]:
        if joiner:
            with suppress(JoinerGone):
                return await client.execute(replace(request, joiner=joiner, args=list(args)), None)
        plan = known.with_command(args).encode()
        for _ in range(_JOINERS_TRIED - 1):
            with suppress(JoinerGone):
                return await client.execute(request, plan)
        return await client.execute(request, plan)

    async def attach(self, id: str) -> ExecStreams:
        """Take up its streams again, after a restart of the agent: what it has written meanwhile waits in its
        pipes or its terminal. Raises Conflict while somebody has them, or when they are gone.
        """
        process = self.get(id)
        if process.streams is not None and not process.streams.closed:
            raise Conflict(f"exec {id} has a client already: its streams cannot be shared")
        if not process.started:
            raise Conflict(f"exec {id} has not been started yet: start it")
        client = await self._lifecycle.link.ready()
        try:
            _, descriptors = await client.request(messages.Streams(id))
        except KeeperRefused:
            descriptors = []
        if not descriptors:
            raise Conflict(
                f"exec {id} has no streams any more: it was started without, or has ended long ago"
            )
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
            try:
                exit_code = await asyncio.wait_for(streams.wait(), _KILL_GRACE * 5)
            except TimeoutError:
                raise Unavailable(
                    f"exec {process.id}, process {process.pid} in container {reference}, has closed its "
                    "output or got SIGKILL and does not end: it may hang in the kernel, or the container is "
                    "frozen"
                ) from None
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

    def kill_group(self, process: Exec) -> None:
        """Kill a process and what it has started, as far as that is in its session's first group."""
        with suppress(Conflict, OSError):
            os.killpg(self._alive(process.id).pid or 0, signals.SIGKILL)

    def discard(self, process: Exec) -> None:
        """Forget it as soon as it has ended; at once, if it has, or never began."""
        if process.exit_code is not None or not process.asked:
            self._forget_one(process.id)
        else:
            process.ended.add_done_callback(lambda _: self._forget_one(process.id))

    def container_ended(self, container_id: str) -> None:
        """Nothing may stand by in a container that has ended; other ids are passed over."""
        self._standby.drop(container_id)

    def exited(self, event: messages.Exited) -> None:
        """News from the keeper: a process that is not a container's has ended."""
        process = self._execs.get(event.id)
        if process is None:
            self._forget(event.id)
        elif process.end_is_news(known=event.known):
            self._end(process, event.exit_code, known=event.known)

    def take_inventory(self, records: list[dict[str, Any]]) -> None:
        """Compare what the keeper has with what is known here: the execs of a former agent are taken up,
        and one that the keeper does not know any more has ended, nobody knows how.
        """
        present = set()
        for record in records:
            present.add(record["id"])
            process = self._execs.get(record["id"])
            if process is None:
                process = self._taken_up(record)
            if record["exit_code"] is not None:
                if process.end_is_news(known=record["known"]):
                    self._end(process, record["exit_code"], known=record["known"])
            elif not process.running:
                process.pid, process.start_time = record["pid"], record["start_time"]
                process.running, process.exit_code, process.exit_known = True, None, True
                self._lifecycle.run_soon(self._recover_terminal(process))
                if process.spec.probe:  # of a former agent, or told to have failed: nobody has its answer
                    self.kill_group(process)
        for process in list(self._execs.values()):
            if process.asked and process.exit_code is None and process.id not in present:
                self._end(process, _UNKNOWN_EXIT, known=False)
        self._forget_old()

    def _taken_up(self, record: dict[str, Any]) -> Exec:
        """One that a former agent has started."""
        noted = json.loads(record.get("note") or "{}")
        argv = tuple(noted.pop("argv", ("",)))
        spec = ExecSpec(argv, **{name: value for name, value in noted.items() if name in _NOTED})
        process = Exec(record["id"], record["container"], spec, started=True, asked=True, told=True)
        self._execs[process.id] = process
        if spec.probe:
            self.discard(process)
        if spec.hangs_up and record["exit_code"] is None:
            asyncio.get_running_loop().call_later(_RETURN_WITHIN, self._hang_up_unless_used, process)
        return process

    async def _recover_terminal(self, process: Exec) -> None:
        if not process.spec.tty or process.master >= 0:
            return
        client = await self._lifecycle.link.ready()
        try:
            _, descriptors = await client.request(messages.Streams(process.id))
        except KeeperRefused:
            return  # it has ended and is forgotten
        for descriptor in descriptors:
            if process.master < 0 and process.running:
                process.master = descriptor
            else:
                os.close(descriptor)

    def client_has_left(self, process: Exec) -> None:
        """Hang up a terminal that nobody can come back to, as sshd does."""
        if process.spec.hangs_up and not self.leaving:
            with suppress(MooringError):
                self.signal(process.id, "HUP", target="leader")

    def _hang_up_unless_used(self, process: Exec) -> None:
        if process.streams is None:
            self.client_has_left(process)

    def _end(self, process: Exec, exit_code: int, *, known: bool) -> None:
        if process.unheard:
            exit_code, known = _UNKNOWN_EXIT, False
        process.running, process.exit_code, process.pid = False, exit_code, None
        process.exit_known = known
        if process.master >= 0:
            os.close(process.master)
            process.master = -1
        if process.ended.done():
            return
        process.ended.set_result(exit_code)
        container = self._registry.find(process.container_id)
        if container is not None:
            self._tell_start(process, container)  # the news of its end may come with those of its start
            self._tell(process, container, "exec_die", exitCode=str(exit_code))

    def _tell_start(self, process: Exec, container: Container) -> None:
        if not process.told:
            process.told = True
            self._tell(process, container, f"exec_start: {_command(process.spec)}")

    def _tell(self, process: Exec, container: Container, action: str, **attributes: str) -> None:
        """Tell what has happened to it, in Docker's words. There are too many probes to remember them."""
        self._events.publish(
            "container",
            action,
            container.id,
            {**container.attributes, "execID": process.id, **attributes},
            remember=not process.spec.probe,
        )

    def _forget(self, id: str) -> None:
        self._lifecycle.run_soon(self._lifecycle.link.request(messages.Forget(id)))

    async def _kill(self, process: Exec) -> None:
        await self._lifecycle.link.request(messages.Signal(process.id, signals.SIGKILL))

    def _streams(self, process: Exec, descriptors: list[int]) -> ExecStreams:
        spec = process.spec

        async def stdin_closed() -> None:
            if process.running:
                await self._lifecycle.link.request(messages.CloseStdin(process.id))

        if spec.tty:
            stdin, outputs = os.dup(descriptors[0]), {1: descriptors[0]}
        else:
            # A pipe's writing end can only be that of its input, which may have been closed already.
            writing = [one for one in descriptors if fcntl.fcntl(one, fcntl.F_GETFL) & os.O_ACCMODE]
            rest = [one for one in descriptors if one not in writing]
            stdin = writing[0] if writing else -1
            wanted = [stream for stream, is_wanted in ((1, spec.stdout), (2, spec.stderr)) if is_wanted]
            outputs = dict(zip(wanted, rest, strict=False))
        process.streams = ExecStreams(
            tty=spec.tty, stdin=stdin, outputs=outputs, ended=process.ended, on_stdin_closed=stdin_closed
        )
        return process.streams

    def _running(self, reference: str) -> Container:
        container = self._registry.get(reference)
        if container.status == "paused":
            raise Conflict(f"container {container.name} is paused: unpause it first")
        if container.status != "running":
            raise Conflict(f"container {container.name} is not running: start it first")
        return container

    def _alive(self, id: str) -> Exec:
        process = self.get(id)
        if process.running and process.pid and is_still(process.pid, process.start_time):
            return process
        raise Conflict(f"exec {id} is not running")

    def _forget_old(self) -> None:
        """Keep some of those that have ended, and of those that were never started."""
        finished = [
            id for id, process in self._execs.items() if process.exit_code is not None or not process.started
        ]
        for id in finished[: max(0, len(finished) - _REMEMBERED)]:
            self._forget_one(id)

    def _forget_one(self, id: str) -> None:
        process = self._execs.pop(id, None)
        if process is not None and process.asked:
            self._forget(id)


def _command(spec: ExecSpec) -> str:
    return " ".join(spec.argv)


def _note(spec: ExecSpec, detached: bool) -> str:
    """What the next agent may want to know of an exec. Its environment, where secrets are, is not."""
    noted = {name: value for name in _NOTED if (value := getattr(spec, name)) not in (None, False)}
    if detached:
        noted |= {"stdin": False}
    noted |= {name: getattr(spec, name) and not detached for name in ("stdout", "stderr")}
    text = json.dumps(noted)
    return text if len(text) <= _NOTE_MAX else json.dumps({**noted, "argv": [spec.argv[0][: _NOTE_MAX // 8]]})
