# SPDX-License-Identifier: Apache-2.0
"""Docker's exec: create, start, resize, inspect."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...engine.execplans import ExecSpec
from ...errors import Conflict, MooringError
from ..duplex import carry, frame
from ..fields import Fields, assignments
from ..messages import Hijack, RawStream, Reply, Request, Response, json_response
from ..router import Need, Route
from .attach import stream_type
from .rules import canonical
from .terminals import DetachFilter, detach_keys, window

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.execution import Exec
    from ...engine.streams import ExecStreams

_CREATE = (
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "DetachKeys",
    "Tty",
    "Cmd",
    "Env",
    "WorkingDir",
    "User",
    "Privileged",
    "ConsoleSize",
    "Detach",
)
# A process may close its output and go on: then the stream ends without an exit code.
_EXIT_WITHIN = 5.0
# What a shell ends with when it cannot run a command that is there.
_START = ("Detach", "Tty", "ConsoleSize")


class ExecCalls:
    """Commands inside running containers."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers
        self._execs = engine.execs
        # Given when an exec is created, wanted when it is started.
        self._keys: dict[str, bytes] = {}

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/containers/{id}/exec", self.create, versioned=True, needs=Need.ALL)
        yield Route("POST", "/exec/{id}/start", self.start, versioned=True, needs=Need.ALL)
        yield Route("POST", "/exec/{id}/resize", self.resize, versioned=True, needs=Need.ALL)
        yield Route("GET", "/exec/{id}/json", self.inspect, versioned=True, needs=Need.READ)

    async def create(self, request: Request) -> Reply:
        """Say what is to run; nothing runs yet."""
        container = self._containers.get(request.params["id"])
        if container.status != "running":
            raise Conflict(
                f"container {container.name} is {container.status}: start it before a command is run in it"
            )
        body = canonical(await request.json(), _CREATE)
        body.pop("Container", None)  # docker-py repeats what the path says
        fields = Fields(body, f"exec in {container.name}", _CREATE)
        keys = detach_keys(fields.text("DetachKeys"))
        rows, cols = fields.size("ConsoleSize")
        execution = await self._execs.create(
            container.id,
            ExecSpec(
                argv=tuple(fields.argv("Cmd")),
                env=assignments(fields.environment("Env")),
                workdir=fields.text("WorkingDir") or None,
                user=fields.text("User") or None,
                tty=fields.flag("Tty"),
                stdin=fields.flag("AttachStdin"),
                stdout=fields.flag("AttachStdout"),
                stderr=fields.flag("AttachStderr"),
                privileged=fields.flag("Privileged"),
                rows=rows,
                cols=cols,
            ),
        )
        if fields.flag("Tty"):
            self._keys[execution.id] = keys
        return json_response({"Id": execution.id}, 201)

    async def start(self, request: Request) -> Reply:
        """Run it: on this connection, or detached."""
        execution = self._execs.get(request.params["id"])
        fields = Fields(canonical(await request.json(), _START), "exec start", _START)
        rows, cols = fields.size("ConsoleSize")
        if fields.flag("Detach"):
            await self._execs.start(execution.id, detach=True)
            return Response(200)
        self._execs.require_startable(execution)
        keys = self._keys.pop(execution.id, None)
        # As dockerd: whether the stream is raw is what this request says, whatever the exec has.
        raw_stream = fields.flag("Tty")

        async def serve(raw: RawStream) -> None:
            streams = await self._started(execution, raw, rows, cols, framed=not raw_stream)
            if streams is None:
                return
            spec = execution.spec
            ended = await carry(
                raw,
                streams,
                framed=not raw_stream,
                stdin=spec.stdin,
                close_stdin=not spec.tty,
                detach=DetachFilter(keys) if keys else None,
            )
            if ended:
                # The client asks for the exit code as soon as the stream has ended.
                await asyncio.wait([asyncio.ensure_future(streams.wait())], timeout=_EXIT_WITHIN)

        return Hijack(serve, content_type=stream_type(request, raw_stream))

    async def _started(
        self, execution: Exec, raw: RawStream, rows: int, cols: int, *, framed: bool
    ) -> ExecStreams | None:
        """Start it on a connection that is taken over already, as dockerd does.

        The client shows no answer but a stream, so what keeps the command from starting is said on that, and
        the exit code is a shell's: 126 where the command cannot be run, 127 where there is none.
        """
        spec = execution.spec
        try:
            streams = await self._execs.start(execution.id)
            if rows and cols and spec.tty:
                self._execs.resize(execution.id, rows, cols)
            return streams
        except MooringError as error:
            if not execution.started:  # its container has ended at this moment
                execution.refuse()
            message = f"{error.message}\r\n".encode()
            await raw.write(frame(2 if spec.stderr and not spec.tty else 1, message) if framed else message)
            return None

    async def resize(self, request: Request) -> Reply:
        """Give its terminal another size. A client that is too early is told so, and tries again."""
        rows, cols = window(request)
        execution = self._execs.get(request.params["id"])
        if not execution.running:
            raise Conflict(f"exec {execution.id} is not running: its terminal has no size")
        self._execs.resize(execution.id, rows, cols)
        return Response(200)

    async def inspect(self, request: Request) -> Reply:
        """Whether it runs, and how it ended."""
        execution = self._execs.get(request.params["id"])
        spec = execution.spec
        return json_response(
            {
                "ID": execution.id,
                "ContainerID": execution.container_id,
                "Running": execution.running,
                "ExitCode": execution.exit_code,
                "Pid": execution.pid or 0,
                "ProcessConfig": {
                    "tty": spec.tty,
                    "entrypoint": spec.argv[0],
                    "arguments": list(spec.argv[1:]),
                    "privileged": spec.privileged,
                    "user": spec.user or "",
                },
                "OpenStdin": spec.stdin,
                "OpenStdout": spec.stdout,
                "OpenStderr": spec.stderr,
                "CanRemove": False,
                "DetachKeys": "",
            }
        )
